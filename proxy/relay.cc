// The raw relay: one buffer and one coroutine for each direction; a slow reader on one side stops reading
// from the other. It never looks into what it carries.
#include "proxy/relay.h"

#include <boost/asio/experimental/awaitable_operators.hpp>
#include <utility>
#include <vector>

namespace weir::proxy {
namespace {

constexpr std::size_t kBuffer = 32 * 1024;

Task<void> copy(Stream& from, Stream& to, Direction direction, const OnRelayed& on_relayed) {
  std::vector<std::byte> buffer(kBuffer);
  for (;;) {
    const ReadResult got = co_await from.read(buffer);
    if (got.status == Io::end) {
      to.shutdown_write();
      co_return;
    }
    const auto piece = std::span<const std::byte>(buffer).first(got.size);
    const Io sent = got.status == Io::ok ? co_await to.write(piece) : got.status;
    if (sent != Io::ok) {
      from.expire();
      to.expire();
      co_return;
    }
    if (on_relayed) on_relayed(direction, piece);
  }
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
