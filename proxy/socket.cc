#include "proxy/socket.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <algorithm>

namespace weir::proxy {
namespace {

using Name = int (*)(int, sockaddr*, socklen_t*);

std::optional<Endpoint> ask(Name name, int descriptor) {
  tcp::endpoint endpoint;
  auto length = static_cast<socklen_t>(endpoint.capacity());
  if (name(descriptor, endpoint.data(), &length) != 0) return std::nullopt;
  endpoint.resize(length);
  return to_endpoint(endpoint);
}

void send_at_once(int descriptor) {
  const int on = 1;
  ::setsockopt(descriptor, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

}  // namespace

Endpoint to_endpoint(const tcp::endpoint& endpoint) {
  const auto address = endpoint.address();
  if (address.is_v4()) return {IpAddress::v4(address.to_v4().to_bytes().data()), endpoint.port()};
  return {IpAddress::v6(address.to_v6().to_bytes().data()), endpoint.port()};
}

tcp::endpoint to_asio(const Endpoint& endpoint) {
  if (endpoint.address.family == IpAddress::Family::v4) {
    asio::ip::address_v4::bytes_type bytes;
    std::copy_n(endpoint.address.bytes.begin(), bytes.size(), bytes.begin());
    return {asio::ip::address_v4(bytes), endpoint.port};
  }
  return {asio::ip::address_v6(endpoint.address.bytes), endpoint.port};
}

Socket::Socket(int descriptor) : descriptor_(descriptor) {
  if (!is_open()) return;
  int on = 1;
  ::ioctl(descriptor_, FIONBIO, &on);
  send_at_once(descriptor_);
}

Socket Socket::make(IpAddress::Family family) {
  Socket made;
  const int domain = family == IpAddress::Family::v4 ? AF_INET : AF_INET6;
  made.descriptor_ = ::socket(domain, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, IPPROTO_TCP);
  if (made.is_open()) send_at_once(made.descriptor_);
  return made;
}

std::optional<Endpoint> Socket::local() const {
  return ask(::getsockname, descriptor_);
}

std::optional<Endpoint> Socket::peer() const {
  return ask(::getpeername, descriptor_);
}

}  // namespace weir::proxy
