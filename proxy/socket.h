// An owned, non-blocking TCP socket.
#pragma once

#include <unistd.h>

#include <boost/asio/ip/tcp.hpp>
#include <optional>
#include <utility>

#include "attribution/identity.h"

namespace weir::proxy {

namespace asio = boost::asio;
using asio::ip::tcp;

Endpoint to_endpoint(const tcp::endpoint& endpoint);
tcp::endpoint to_asio(const Endpoint& endpoint);

class Socket {
 public:
  Socket() = default;
  // Makes it non-blocking, and sends small pieces at once.
  explicit Socket(int descriptor);
  Socket(Socket&& other) noexcept : descriptor_(std::exchange(other.descriptor_, -1)) {}
  Socket& operator=(Socket&& other) noexcept {
    if (this != &other) {
      close();
      descriptor_ = std::exchange(other.descriptor_, -1);
    }
    return *this;
  }
  ~Socket() { close(); }

  static Socket make(IpAddress::Family family);  // not open when there is none: errno says why

  int descriptor() const { return descriptor_; }
  bool is_open() const { return descriptor_ >= 0; }
  void close() {
    if (is_open()) ::close(std::exchange(descriptor_, -1));
  }

  std::optional<Endpoint> local() const;
  std::optional<Endpoint> peer() const;

 private:
  int descriptor_ = -1;
};

}  // namespace weir::proxy
