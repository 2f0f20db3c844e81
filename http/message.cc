// Look-ups in header fields. Compares ASCII only and never depends on the locale.
#include "http/message.h"

#include <algorithm>

namespace weir::http {
namespace {

char lower(char c) {
  return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
}

std::string_view trimmed(std::string_view text) {
  const auto first = text.find_first_not_of(" \t");
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(" \t") - first + 1);
}

bool list_has(std::string_view list, std::string_view token) {
  while (true) {
    const auto comma = list.find(',');
    if (equals_ignoring_case(trimmed(list.substr(0, comma)), token)) return true;
    if (comma == std::string_view::npos) return false;
    list.remove_prefix(comma + 1);
  }
}

}  // namespace

bool equals_ignoring_case(std::string_view a, std::string_view b) {
  return std::ranges::equal(a, b, {}, lower, lower);
}

const Field* find_field(const Fields& fields, std::string_view name) {
  const auto found = std::ranges::find_if(
      fields, [name](const Field& field) { return equals_ignoring_case(field.name, name); });
  return found == fields.end() ? nullptr : &*found;
}

bool lists_token(const Fields& fields, std::string_view name, std::string_view token) {
  return std::ranges::any_of(fields, [&](const Field& field) {
    return equals_ignoring_case(field.name, name) && list_has(field.value, token);
  });
}

}  // namespace weir::http
