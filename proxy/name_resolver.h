// Looks names up by the C library's resolver, which can be neither interrupted nor have two questions of one
// thread: on threads of its own, so that names whose servers are silent don't keep others waiting.
#pragma once

#include <boost/asio/io_context.hpp>
#include <boost/asio/thread_pool.hpp>
#include <chrono>
#include <cstdint>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "attribution/identity.h"
#include "proxy/stream.h"

namespace weir::proxy {

struct Addresses {
  boost::system::error_code error;  // why there are none
  std::vector<Endpoint> found;
};

// Thread-safe. Its threads start with the first look-up.
class NameResolver {
 public:
  // To be awaited on `context`'s thread, which must outlive stop(). After `patience` it is a timeout; what
  // has not begun by then is left out.
  Task<Addresses> look_up(asio::io_context& context, std::string name, std::uint16_t port,
                          std::chrono::milliseconds patience);
  // Waits for the look-ups that have begun. Not while a context runs that awaits one.
  void stop();

 private:
  asio::thread_pool& pool();

  std::mutex mutex_;
  std::optional<asio::thread_pool> pool_;
};

}  // namespace weir::proxy
