// The writing half of a stream whose bytes are produced on demand: nothing is produced that the socket
// doesn't take. flush() writes at once what can be written without waiting, so that the usual case costs no
// change of coroutine; drain() waits for the rest.
#pragma once

#include <boost/asio/steady_timer.hpp>
#include <functional>
#include <vector>

#include "proxy/stream.h"

namespace weir::proxy {

// Something that a coroutine waits for and another one of its thread brings about.
class Signal {
 public:
  explicit Signal(asio::io_context& context) : timer_(context, asio::steady_timer::time_point::max()) {}
  void raise() { timer_.cancel(); }
  Task<void> wait();

 private:
  asio::steady_timer timer_;
};

class Outlet {
 public:
  // Appends to the vector until it has about so many bytes; nothing when there is nothing to send.
  using Produce = std::function<void(std::vector<std::byte>&, std::size_t)>;
  // Called with what the socket took.
  using OnWritten = std::function<void(std::span<const std::byte>)>;

  Outlet(asio::io_context& context, Stream& stream, Produce produce, OnWritten on_written)
      : stream_(stream), produce_(std::move(produce)), on_written_(std::move(on_written)), waits_(context) {}

  // True when something was written.
  bool flush();
  // Ends when the stream fails, or by being cancelled.
  Task<void> drain();
  bool blocked() const { return !pending_.empty(); }
  bool failed() const { return failed_; }
  // Called after drain() wrote what had waited.
  std::function<void()> on_drained;

 private:
  Stream& stream_;
  Produce produce_;
  OnWritten on_written_;
  std::vector<std::byte> pending_;
  bool failed_ = false;
  Signal waits_;
};

}  // namespace weir::proxy
