// Taking authorities and absolute targets apart, and holding destinations against lists. Refuses what it does
// not understand; must never guess a host out of a malformed target.
#include "proxy/destination.h"

#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstring>

#include "attribution/text.h"

namespace weir::proxy {
namespace {

std::optional<std::uint16_t> parse_port(std::string_view text) {
  std::uint16_t port = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), port);
  if (error != std::errc() || end != text.data() + text.size() || port == 0) return std::nullopt;
  return port;
}

// The kernel binds to its own addresses only, which answers for every interface and namespace.
bool is_address_of_this_host(const IpAddress& address) {
  if (address.is_loopback() || address.is_unspecified()) return true;
  const bool v4 = address.family == IpAddress::Family::v4;
  sockaddr_storage storage{};
  socklen_t length = 0;
  if (v4) {
    auto* in = reinterpret_cast<sockaddr_in*>(&storage);
    in->sin_family = AF_INET;
    std::memcpy(&in->sin_addr, address.bytes.data(), 4);
    length = sizeof(sockaddr_in);
  } else {
    auto* in6 = reinterpret_cast<sockaddr_in6*>(&storage);
    in6->sin6_family = AF_INET6;
    std::memcpy(&in6->sin6_addr, address.bytes.data(), 16);
    length = sizeof(sockaddr_in6);
  }
  const int fd = ::socket(v4 ? AF_INET : AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return true;
  const bool bound = ::bind(fd, reinterpret_cast<const sockaddr*>(&storage), length) == 0;
  ::close(fd);
  return bound;
}

bool reaches(const Endpoint& destination, const Endpoint& listener) {
  if (destination.port != listener.port) return false;
  if (destination.address == listener.address) return true;
  // Linux takes the unspecified address as a destination for loopback.
  if (destination.address.is_unspecified()) return true;
  return listener.address.is_unspecified() && is_address_of_this_host(destination.address);
}

}  // namespace

std::optional<Destination> parse_authority(std::string_view text, std::optional<std::uint16_t> default_port) {
  const bool bracketed = text.starts_with('[');
  const auto host_end = bracketed ? text.find(']') : text.find(':');
  if (bracketed && host_end == std::string_view::npos) return std::nullopt;
  std::string_view host = bracketed ? text.substr(1, host_end - 1) : text.substr(0, host_end);
  std::string_view rest = host_end == std::string_view::npos ? "" : text.substr(host_end + bracketed);

  auto port = default_port;
  if (!rest.empty()) {
    if (rest.front() != ':') return std::nullopt;
    // "host:" is a host with the default port (RFC 3986, 3.2.3).
    if (rest.size() > 1 || !default_port) port = parse_port(rest.substr(1));
  }
  if (!port) return std::nullopt;

  if (bracketed) {
    const auto address = parse_ip_address(std::string(host));
    if (host.find(':') == std::string_view::npos || address.family == IpAddress::Family::unknown) {
      return std::nullopt;
    }
    return Destination{address.to_string(), *port};
  }
  if (host.ends_with('.')) host.remove_suffix(1);
  if (!is_host_name(host)) return std::nullopt;
  return Destination{to_lower(host), *port};
}

std::string host_of(std::string_view authority) {
  if (const auto parsed = parse_authority(authority, std::uint16_t{0xffff})) return parsed->name;
  const auto end = authority.starts_with('[') ? authority.find(']') : authority.find(':');
  std::string_view name = authority.substr(0, end);
  while (name.ends_with('.')) name.remove_suffix(1);
  return to_lower(name);
}

std::expected<AbsoluteTarget, std::string> parse_absolute_target(std::string_view target,
                                                                 std::string_view method) {
  constexpr std::string_view scheme = "http://";
  if (to_lower(target.substr(0, scheme.size())) != scheme) {
    return std::unexpected("this proxy takes http:// targets and CONNECT");
  }
  target.remove_prefix(scheme.size());
  const auto authority_end = std::min(target.find_first_of("/?#"), target.size());
  std::string_view authority = target.substr(0, authority_end);
  const std::string_view rest = target.substr(authority_end);
  if (rest.find('#') != std::string_view::npos) return std::unexpected("fragment in the target");
  if (const auto at = authority.rfind('@'); at != std::string_view::npos) authority.remove_prefix(at + 1);

  auto destination = parse_authority(authority, 80);
  if (!destination) return std::unexpected("no valid host in the target");
  AbsoluteTarget result{std::move(*destination), std::string(authority), std::string(rest)};
  // RFC 9112, 3.2.4: OPTIONS without a path is about the server.
  if (rest.empty()) result.origin_form = method == "OPTIONS" ? "*" : "/";
  if (rest.starts_with('?')) result.origin_form.insert(0, "/");
  return result;
}

bool covers(std::string_view entry, std::string_view name) {
  const std::string wanted = to_lower(entry);
  if (!wanted.starts_with('.')) return name == wanted;
  return name == std::string_view(wanted).substr(1) || name.ends_with(wanted);
}

const std::string* find_passthrough(const std::vector<std::string>& entries, std::string_view name) {
  const auto found =
      std::find_if(entries.begin(), entries.end(), [&](const auto& entry) { return covers(entry, name); });
  return found == entries.end() ? nullptr : &*found;
}

bool reaches_any(const Endpoint& destination, const std::vector<Endpoint>& refused) {
  return std::any_of(refused.begin(), refused.end(),
                     [&](const Endpoint& listener) { return reaches(destination, listener); });
}

}  // namespace weir::proxy
