// Reading a greeting and a request (RFC 1928, 3, 4 and 6). Whatever is not understood is refused.
#include "proxy/socks.h"

#include <algorithm>
#include <string_view>

#include "proxy/destination.h"

namespace weir::proxy {
namespace {

constexpr char kVersionByte = 5;
constexpr std::byte kNoCredentials{0};
constexpr std::byte kConnect{1};
constexpr int kAddressV4 = 1;
constexpr int kName = 3;
constexpr int kAddressV6 = 4;
constexpr char kCommandUnknown = 7;
constexpr char kAddressKindUnknown = 8;

std::string reply(char code) {
  return {kVersionByte, code, 0, kAddressV4, 0, 0, 0, 0, 0, 0};
}

}  // namespace

std::string SocksRequest::answer(Reply code) {
  return reply(static_cast<char>(code));
}

void SocksRequest::feed(std::span<const std::byte> data) {
  input_.insert(input_.end(), data.begin(), data.end());
  while (state_ == State::unfinished && (greeted_ ? take_request() : take_greeting())) {
  }
}

void SocksRequest::refuse(std::string output, std::string why) {
  state_ = State::refused;
  output_ += output;
  why_ = std::move(why);
}

// False when more must come first.
bool SocksRequest::take_greeting() {
  if (input_.size() < 2 || input_.size() < 2 + std::to_integer<std::size_t>(input_[1])) return false;
  const auto methods = std::span(input_).subspan(2, std::to_integer<std::size_t>(input_[1]));
  greeted_ = true;
  if (input_[0] != kVersion) {
    refuse("", "not SOCKS 5");
  } else if (std::ranges::find(methods, kNoCredentials) == methods.end()) {
    refuse({kVersionByte, '\xff'}, "offers no way without credentials");
  } else {
    output_ = {kVersionByte, 0};
    input_.erase(input_.begin(), input_.begin() + static_cast<std::ptrdiff_t>(2 + methods.size()));
  }
  return true;
}

bool SocksRequest::take_request() {
  if (input_.size() < 5) return false;
  const int kind = std::to_integer<int>(input_[3]);
  const std::size_t begin = kind == kName ? 5 : 4;
  std::size_t length = 0;
  if (kind == kAddressV4) length = 4;
  if (kind == kAddressV6) length = 16;
  if (kind == kName) length = std::to_integer<std::size_t>(input_[4]);
  const std::size_t size = begin + length + 2;
  if (input_[0] != kVersion || std::to_integer<int>(input_[2]) != 0)
    return refuse(reply(1), "malformed request"), true;
  if (length == 0) return refuse(reply(kAddressKindUnknown), "unknown kind of address"), true;
  if (input_.size() < size) return false;
  if (input_[1] != kConnect) return refuse(reply(kCommandUnknown), "asks for other than CONNECT"), true;

  const auto* bytes = reinterpret_cast<const std::uint8_t*>(input_.data());
  const std::string_view name(reinterpret_cast<const char*>(bytes + begin), length);
  const unsigned port = bytes[size - 2] * 256u + bytes[size - 1];
  std::string authority(name);
  if (kind == kAddressV4) authority = IpAddress::v4(bytes + begin).to_string();
  if (kind == kAddressV6) authority = "[" + IpAddress::v6(bytes + begin).to_string() + "]";
  const bool single = kind != kName || name.find_first_of(":[]") == std::string_view::npos;
  const auto destination =
      single ? parse_authority(authority + ":" + std::to_string(port), std::nullopt) : std::nullopt;
  if (!destination) return refuse(reply(1), "malformed destination"), true;
  destination_ = *destination;
  input_.erase(input_.begin(), input_.begin() + static_cast<std::ptrdiff_t>(size));
  state_ = State::asked;
  return true;
}

}  // namespace weir::proxy
