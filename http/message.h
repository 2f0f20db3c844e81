// The shapes of HTTP messages, as RFC 9110 names them. Names and values are kept byte for byte as they came
// (case, order, repeats), only surrounding whitespace of values is gone. HTTP/2's are given the shape of
// HTTP/1's: pseudo-header fields become start lines and Host.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace weir::http {

struct Field {
  std::string name;
  std::string value;
};

using Fields = std::vector<Field>;

constexpr char lower_letter(char c) {
  return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
}
// Most texts that are compared differ in their lengths or first letters.
constexpr bool equals_ignoring_case(std::string_view a, std::string_view b) {
  if (a.size() != b.size()) return false;
  for (std::size_t i = 0; i < a.size(); ++i)
    if (a[i] != b[i] && lower_letter(a[i]) != lower_letter(b[i])) return false;
  return true;
}
// The first field of that name (any case), or nullptr.
const Field* find_field(const Fields& fields, std::string_view name);
// Takes the next item off a comma-separated list, without the space around it; "" when none is left.
std::string_view take_item(std::string_view& list);
// True when a field of that name lists the token (comma-separated, any case): Connection,
// Transfer-Encoding...
bool lists_token(const Fields& fields, std::string_view name, std::string_view token);

struct Version {
  std::uint8_t major = 1;
  std::uint8_t minor = 1;
  bool operator==(const Version&) const = default;
};

struct RequestHead {
  std::string method;
  std::string target;  // as sent: origin-form, absolute-form, authority-form or "*"
  Version version;
  Fields fields;
  std::string scheme = {};    // HTTP/2's :scheme
  std::string protocol = {};  // HTTP/2's :protocol: what an extended CONNECT asks for (RFC 8441)
};

struct ResponseHead {
  std::uint16_t status = 0;  // 0: unknown, of a connection that was joined in its middle
  std::string reason;
  Version version;
  Fields fields;
};

// How a message's body ends (RFC 9112, section 6.3).
enum class Framing : std::uint8_t { none, content_length, chunked, until_close };

struct BodyFraming {
  Framing framing = Framing::none;
  std::uint64_t content_length = 0;
};

}  // namespace weir::http
