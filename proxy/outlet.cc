#include "proxy/outlet.h"

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/use_awaitable.hpp>

namespace weir::proxy {
namespace {

constexpr std::size_t kOutPiece = 64 * 1024;

// Used between two waits only, so one for each thread will do, and an idle connection holds none.
std::vector<std::byte>& out_buffer() {
  thread_local std::vector<std::byte> buffer;
  buffer.clear();
  return buffer;
}

}  // namespace

Task<void> Signal::wait() {
  co_await timer_.async_wait(asio::as_tuple(asio::use_awaitable));
}

bool Outlet::flush() {
  bool wrote = false;
  while (!blocked() && !failed_) {
    auto& out = out_buffer();
    produce_(out, kOutPiece);
    std::span<const std::byte> left = out;
    if (left.empty()) break;
    while (!left.empty()) {
      const auto done = stream_.write_now(left);
      if (!done) {
        pending_.assign(left.begin(), left.end());
        waits_.raise();
        break;
      }
      if (done->status != Io::ok) {
        failed_ = true;
        waits_.raise();
        break;
      }
      wrote = true;
      on_written_(left.first(done->size));
      left = left.subspan(done->size);
    }
  }
  return wrote;
}

Task<void> Outlet::drain() {
  for (;;) {
    if (failed_) co_return;
    if (!blocked()) {
      co_await waits_.wait();
      continue;
    }
    if (co_await stream_.write(pending_) != Io::ok) {
      failed_ = true;
      co_return;
    }
    const auto written = std::exchange(pending_, {});
    on_written_(written);
    if (on_drained) on_drained();
  }
}

}  // namespace weir::proxy
