// Publishing a connection's events. Nothing here waits: a publisher that is full drops and counts by itself.
#include "proxy/connection_events.h"

#include <algorithm>
#include <chrono>
#include <utility>

namespace weir::proxy {
namespace {

constexpr std::size_t kMaxEventBytes = 64 * 1024;

Time now() {
  return std::chrono::time_point_cast<std::chrono::nanoseconds>(std::chrono::system_clock::now());
}

}  // namespace

void ConnectionEvents::opened(const Tuple& tuple) {
  ConnectionOpened event;
  event.time = now();
  event.cookie = client_.cookie;
  event.tuple = tuple;
  event.owner = client_.process;
  event.owner_exec_id = client_.exec_id;
  event.network_namespace_cookie = client_.network_namespace_cookie;
  event.redirected = client_.redirected_from.has_value();
  publisher_.publish(event);
}

void ConnectionEvents::decided(DecisionMade decision) {
  decision.time = now();
  decision.cookie = client_.cookie;
  publisher_.publish(std::move(decision));
}

void ConnectionEvents::policy(PolicyDecided decided) {
  decided.time = now();
  decided.cookie = client_.cookie;
  decided.process = client_.process;
  decided.uid = client_.uid;
  publisher_.publish(std::move(decided));
}

void ConnectionEvents::handshake(Handshake handshake) {
  handshake.time = now();
  handshake.cookie = client_.cookie;
  handshake.tap = Tap::proxy;
  has_content_ = true;
  publisher_.publish(std::move(handshake));
}

void ConnectionEvents::bytes(Direction direction, std::span<const std::byte> data) {
  while (!data.empty()) {
    const auto piece = data.first(std::min(data.size(), kMaxEventBytes));
    bytes(direction, std::vector<std::byte>(piece.begin(), piece.end()));
    data = data.subspan(piece.size());
  }
}

void ConnectionEvents::bytes(Direction direction, std::vector<std::byte>&& data) {
  if (data.empty()) return;
  if (data.size() > kMaxEventBytes) return bytes(direction, std::span<const std::byte>(data));
  Bytes event;
  event.time = now();
  event.cookie = client_.cookie;
  event.process = client_.process;
  event.tap = Tap::proxy;
  event.direction = direction;
  event.offset = std::exchange(offsets_[static_cast<std::size_t>(direction)],
                               offsets_[static_cast<std::size_t>(direction)] + data.size());
  event.data = std::move(data);
  has_content_ = true;
  publisher_.publish(std::move(event));
}

void ConnectionEvents::ended() {
  // Where the kernel side says so, too, its totals are waited for.
  if (!std::exchange(has_content_, false)) return publisher_.publish(ConnectionClosed{now(), client_.cookie});
  for (const auto direction : {Direction::sent, Direction::received}) {
    StreamEnded event;
    event.time = now();
    event.cookie = client_.cookie;
    event.tap = Tap::proxy;
    event.direction = direction;
    event.broken_off = direction == Direction::received && response_broken_off_;
    publisher_.publish(event);
  }
}

}  // namespace weir::proxy
