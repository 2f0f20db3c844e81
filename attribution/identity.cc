// Addresses and keys as text, and when two of them are the same thing. Does no input or output.
#include "attribution/identity.h"

#include <arpa/inet.h>

#include <algorithm>
#include <charconv>
#include <cstring>
#include <iterator>

namespace weir {
namespace {

constexpr std::array<std::uint8_t, 12> kMappedPrefix{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};
constexpr std::uint64_t kTickNs = 10'000'000;

}  // namespace

bool start_matches(std::uint64_t a_boottime_ns, std::uint64_t b_boottime_ns) {
  if (a_boottime_ns == b_boottime_ns || a_boottime_ns == 0 || b_boottime_ns == 0) return true;
  const bool one_in_ticks = a_boottime_ns % kTickNs == 0 || b_boottime_ns % kTickNs == 0;
  return one_in_ticks && a_boottime_ns / kTickNs == b_boottime_ns / kTickNs;
}

IpAddress IpAddress::v4(const std::uint8_t* four_bytes) {
  IpAddress address{.family = Family::v4};
  std::copy_n(four_bytes, 4, address.bytes.begin());
  return address;
}

IpAddress IpAddress::v6(const std::uint8_t* sixteen_bytes) {
  if (std::equal(kMappedPrefix.begin(), kMappedPrefix.end(), sixteen_bytes)) return v4(sixteen_bytes + 12);
  IpAddress address{.family = Family::v6};
  std::copy_n(sixteen_bytes, 16, address.bytes.begin());
  return address;
}

std::string IpAddress::to_string() const {
  if (family == Family::unknown) return {};
  char text[INET6_ADDRSTRLEN] = {};
  if (family == Family::v4) {
    char* end = text;
    for (std::size_t i = 0; i < 4; ++i) {
      if (i != 0) *end++ = '.';
      end = std::to_chars(end, std::end(text), bytes[i]).ptr;
    }
    return {text, end};
  }
  inet_ntop(AF_INET6, bytes.data(), text, sizeof text);
  return text;
}

bool IpAddress::is_loopback() const {
  if (family == Family::v4) return bytes[0] == 127;
  if (family == Family::unknown) return false;
  return bytes[15] == 1 && std::all_of(bytes.begin(), bytes.end() - 1, [](auto byte) { return byte == 0; });
}

bool IpAddress::is_unspecified() const {
  return std::all_of(bytes.begin(), bytes.end(), [](auto byte) { return byte == 0; });
}

std::string Endpoint::to_string() const {
  const std::string host = address.to_string();
  const std::string suffix = ":" + std::to_string(port);
  return address.family == IpAddress::Family::v6 ? "[" + host + "]" + suffix : host + suffix;
}

IpAddress parse_ip_address(const std::string& text) {
  std::array<std::uint8_t, 16> bytes{};
  if (inet_pton(AF_INET, text.c_str(), bytes.data()) == 1) return IpAddress::v4(bytes.data());
  if (inet_pton(AF_INET6, text.c_str(), bytes.data()) == 1) return IpAddress::v6(bytes.data());
  return {};
}

}  // namespace weir
