// The grammar of names that get a certificate. Never accepts a wildcard, an upper-case letter or a control
// byte.
#include "ca/leaf_name.h"

#include <arpa/inet.h>

namespace weir::ca {

namespace {

constexpr std::string_view digits = "0123456789";
constexpr std::string_view label_characters = "abcdefghijklmnopqrstuvwxyz0123456789-_";
constexpr std::size_t longest_name = 253;  // RFC 1035, 2.3.4, in text form
constexpr std::size_t longest_label = 63;

bool is_label(std::string_view label) {
  return !label.empty() && label.size() <= longest_label &&
         label.find_first_not_of(label_characters) == std::string_view::npos;
}

// A name whose last label is a number is an address to URL parsers (WHATWG, "ends in a number"), never a
// host.
bool is_dns_name(std::string_view name) {
  if (name.size() > longest_name) return false;
  std::string_view label;
  for (;;) {
    const std::size_t dot = name.find('.');
    label = name.substr(0, dot);
    if (!is_label(label)) return false;
    if (dot == std::string_view::npos) break;
    name.remove_prefix(dot + 1);
  }
  return label.find_first_not_of(digits) != std::string_view::npos;
}

std::vector<std::uint8_t> address_bytes(const std::string& text) {
  // inet_pton stops at a NUL: what comes after it would go unseen.
  if (text.find('\0') != std::string::npos) return {};
  std::vector<std::uint8_t> bytes(4);
  if (::inet_pton(AF_INET, text.c_str(), bytes.data()) == 1) return bytes;
  bytes.resize(16);
  if (::inet_pton(AF_INET6, text.c_str(), bytes.data()) == 1) return bytes;
  return {};
}

}  // namespace

std::optional<LeafName> parse_leaf_name(std::string_view text) {
  LeafName name{.text = std::string(text), .address = {}};
  name.address = address_bytes(name.text);
  if (name.address.empty() && !is_dns_name(text)) return std::nullopt;
  return name;
}

}  // namespace weir::ca
