// Both directions of one plaintext conversation (a TLS object's, or the proxy's view of a client): turns
// offsets into exact accounts of what came, what came twice and what is missing, and feeds the exchange
// builder. Knows neither process nor socket.
#pragma once

#include <array>
#include <optional>

#include "attribution/events.h"
#include "http/exchange_builder.h"

namespace weir {

class PlaintextStream {
 public:
  // `request_direction`: which way requests travel; `sent` for a client.
  PlaintextStream(Direction request_direction, const http::ExchangeLimits& limits,
                  const http::OnExchange& on_exchange)
      : request_direction_(request_direction), builder_(limits, on_exchange) {}

  struct Account {
    std::uint64_t fresh = 0;
    std::uint64_t duplicate = 0;
    std::uint64_t missing = 0;
    std::uint64_t unparsed = 0;  // became known to stand in no exchange: of these bytes or of earlier ones
  };
  Account bytes(Direction direction, std::uint64_t offset, std::span<const std::byte> data, Time when);
  Account gap(Direction direction, std::uint64_t offset, std::uint64_t length, Time when);
  void end(Direction direction, Time when, bool broken_off);
  Account finish(Time when);

  // The conversation is older than what is told of it. Before any bytes.
  void join(Time when);
  // What came before this offset was never ours to see; without effect on a direction that is already read.
  void join_at(Direction direction, std::uint64_t offset);
  std::uint64_t next_offset(Direction direction) const { return side(direction).next; }
  bool ended() const { return sides_[0].ended.has_value() && sides_[1].ended.has_value(); }
  bool idle() const { return builder_.idle(); }
  std::optional<Time> give_held_back(Time now) { return builder_.give_held_back(now); }
  Direction request_direction() const { return request_direction_; }
  bool spoke_http() const {
    return builder_.protocol() == http::Protocol::http1 || builder_.protocol() == http::Protocol::http2;
  }

 private:
  struct OneSide {
    std::uint64_t next = 0;
    bool joined = false;
    std::optional<Time> ended{};
  };
  const OneSide& side(Direction direction) const { return sides_[static_cast<std::size_t>(direction)]; }
  OneSide& side(Direction direction) { return sides_[static_cast<std::size_t>(direction)]; }
  http::Side http_side(Direction direction) const {
    return direction == request_direction_ ? http::Side::request : http::Side::response;
  }

  std::uint64_t newly_unparsed();

  Direction request_direction_;
  http::ExchangeBuilder builder_;
  std::array<OneSide, 2> sides_;
  std::uint64_t unparsed_ = 0;  // was told
};

}  // namespace weir
