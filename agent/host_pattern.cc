// See host_pattern.h.
#include "agent/host_pattern.h"

#include <algorithm>

#include "attribution/text.h"

namespace weir::agent {

bool is_host_pattern(std::string_view text) {
  if (text.starts_with('.')) text.remove_prefix(1);
  return is_host_name(text) && !ends_in_number(text);
}

bool ends_in_number(std::string_view name) {
  std::string_view last = name.substr(name.rfind('.') + 1);
  if (last.empty()) return false;
  const bool is_hexadecimal = last.starts_with("0x") || last.starts_with("0X");
  if (is_hexadecimal) last.remove_prefix(2);
  return std::ranges::all_of(last, [&](char c) {
    return is_digit(c) || (is_hexadecimal && ((c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F')));
  });
}

}  // namespace weir::agent
