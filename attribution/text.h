// Small text helpers that several files of this room need. Pure functions over bytes.
#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace weir {

// The length of the UTF-8 character that `text` begins with (RFC 3629: no surrogates, no overlong forms);
// 0 when it begins with none.
std::size_t utf8_length(std::string_view text);
bool is_utf8(std::string_view text);
// A JSON text as a library wrote it that doesn't look into strings: their bytes that aren't UTF-8 become
// \u00XX, as in records.
std::string valid_json(std::string json);

std::string to_base64(std::span<const std::byte> data);
std::optional<std::vector<std::byte>> from_base64(std::string_view text);

std::string to_lower(std::string_view text);
void make_lower(std::span<char> text);
constexpr bool is_letter(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}
constexpr bool is_digit(char c) {
  return c >= '0' && c <= '9';
}
// A DNS name as certificates and the leaf signer take it.
bool is_host_name(std::string_view name);

inline std::string_view as_text(std::span<const std::byte> data) {
  return {reinterpret_cast<const char*>(data.data()), data.size()};
}

}  // namespace weir
