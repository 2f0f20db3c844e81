// The raw relay: one coroutine for each direction; a slow reader on one side stops reading from the other. It
// never looks into what it carries. A direction that waits holds no buffer; one that carries much, and that
// nobody else reads, is moved by the kernel.
#include "proxy/relay.h"

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <boost/asio/experimental/awaitable_operators.hpp>
#include <utility>
#include <vector>

namespace weir::proxy {
namespace {

constexpr std::size_t kBuffer = 64 * 1024;
constexpr unsigned kReadsAtOnce = 16;
constexpr std::uint64_t kMuch = 256 * 1024;  // a pipe takes two descriptors

struct Pipe {
  Pipe() {
    if (::pipe2(ends.data(), O_NONBLOCK | O_CLOEXEC) != 0) ends = {-1, -1};
  }
  ~Pipe() {
    for (const int end : ends)
      if (end >= 0) ::close(end);
  }
  Pipe(const Pipe&) = delete;
  Pipe& operator=(const Pipe&) = delete;
  std::array<int, 2> ends{};
};

// Both in the clear, and nothing of `from` was put back: until its end, or a failure of either.
Task<Io> splice(Stream& from, Stream& to, const Pipe& pipe) {
  for (;;) {
    const ReadResult got = co_await from.splice_into(pipe.ends[1]);
    if (got.status != Io::ok) co_return got.status;
    const Io sent = co_await to.splice_out_of(pipe.ends[0], got.size);
    if (sent != Io::ok) co_return Io::failed;
  }
}

// One direction, as far as it goes without waiting.
class Passage {
 public:
  Passage(Stream& from, Stream& to, Direction direction, const OnRelayed& on_relayed)
      : from_(from), to_(to), direction_(direction), on_relayed_(on_relayed) {}

  enum class Next : std::uint8_t { go_on, wait_to_read, write_rest, over };
  Next pass_on() {
    thread_local std::vector<std::byte> buffer(kBuffer);
    const auto got = from_.read_now(buffer);
    if (!got) return Next::wait_to_read;
    if (got->status != Io::ok) return finish(got->status);
    auto left = std::span<const std::byte>(buffer).first(got->size);
    passed_ += left.size();
    const auto sent = to_.write_now(left);
    if (sent && sent->status != Io::ok) return finish(Io::failed);
    const std::size_t count = sent ? sent->size : 0;
    tell(left.first(count));
    left = left.subspan(count);
    rest_.assign(left.begin(), left.end());
    return rest_.empty() ? Next::go_on : Next::write_rest;
  }

  const std::vector<std::byte>& rest() const { return rest_; }
  void rest_written() {
    tell(rest_);
    std::vector<std::byte>().swap(rest_);
  }
  bool can_splice() const {
    return passed_ > kMuch && !on_relayed_ && from_.can_splice() && to_.can_splice();
  }
  Io status() const { return status_; }

 private:
  Next finish(Io status) {
    status_ = status;
    return Next::over;
  }
  void tell(std::span<const std::byte> data) {
    if (on_relayed_ && !data.empty()) on_relayed_(direction_, data);
  }

  Stream& from_;
  Stream& to_;
  const Direction direction_;
  const OnRelayed& on_relayed_;
  std::uint64_t passed_ = 0;
  std::vector<std::byte> rest_;
  Io status_ = Io::ok;
};

Task<Io> pass_all(Stream& from, Stream& to, Direction direction, const OnRelayed& on_relayed) {
  Passage passage(from, to, direction, on_relayed);
  for (unsigned reads = 1; !passage.can_splice(); ++reads) {
    const auto next = passage.pass_on();
    if (next == Passage::Next::over) co_return passage.status();
    Io status = Io::ok;
    if (next == Passage::Next::write_rest) {
      status = co_await to.write(passage.rest());
      passage.rest_written();
    } else if (next == Passage::Next::wait_to_read || reads % kReadsAtOnce == 0) {
      status = co_await from.wait_readable();
    }
    if (status != Io::ok) co_return Io::failed;
  }
  const Pipe pipe;
  if (pipe.ends[0] < 0) co_return Io::failed;
  const Io status = co_await splice(from, to, pipe);
  co_return status;
}

Task<void> copy(Stream& from, Stream& to, Direction direction, const OnRelayed& on_relayed) {
  const Io status = co_await pass_all(from, to, direction, on_relayed);
  if (status == Io::end) {
    to.shutdown_write();
    co_return;
  }
  from.expire();
  to.expire();
}

}  // namespace

Task<void> relay(Stream& client, Stream& upstream, std::chrono::milliseconds idle_timeout,
                 OnRelayed on_relayed) {
  using namespace asio::experimental::awaitable_operators;
  client.set_idle_timeout(idle_timeout);
  upstream.set_idle_timeout(idle_timeout);
  co_await (copy(client, upstream, Direction::sent, on_relayed) &&
            copy(upstream, client, Direction::received, on_relayed));
}

}  // namespace weir::proxy
