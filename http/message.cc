// Look-ups in header fields. Compares ASCII only and never depends on the locale.
#include "http/message.h"

#include <algorithm>

namespace weir::http {
namespace {

std::string_view trimmed(std::string_view text) {
  const auto first = text.find_first_not_of(" \t");
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(" \t") - first + 1);
}

}  // namespace

const Field* find_field(const Fields& fields, std::string_view name) {
  for (const Field& field : fields)
    if (equals_ignoring_case(field.name, name)) return &field;
  return nullptr;
}

std::string_view take_item(std::string_view& list) {
  while (!list.empty()) {
    const auto end = std::min(list.find(','), list.size());
    const std::string_view item = trimmed(list.substr(0, end));
    list.remove_prefix(std::min(end + 1, list.size()));
    if (!item.empty()) return item;
  }
  return {};
}

bool lists_token(const Fields& fields, std::string_view name, std::string_view token) {
  for (const Field& field : fields) {
    if (!equals_ignoring_case(field.name, name)) continue;
    std::string_view left = field.value;
    for (auto item = take_item(left); !item.empty(); item = take_item(left))
      if (equals_ignoring_case(item, token)) return true;
  }
  return false;
}

}  // namespace weir::http
