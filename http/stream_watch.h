// Follows an exchange that may go on for long: keeps its counts of messages, and says when an interim copy of
// it is due, so that it is known before it ends. Server-sent events: when the response begins, and for
// events, at most 20 a second. WebSocket: when it begins, then at most one a second. gRPC: at most one a
// second, from the first second on. Time is that of the bytes.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <utility>

#include "http/exchange.h"
#include "http/message_counters.h"

namespace weir::http {

class StreamWatch {
 public:
  // To be called when the request's head is known, and when the final response's is.
  void heads(Exchange& exchange);
  // Of a WebSocket, all that passes. Returns how many of the bytes were none of the conversation's.
  std::size_t content(Side side, std::span<const std::byte> data, Exchange& exchange, Time when);
  void lost(Side side, std::uint64_t length, Exchange& exchange);

  bool is_websocket() const { return kind_ == Kind::websocket; }
  const WebSocketCounter& websocket(Side side) const { return websocket_[index(side)]; }

  // True once for each interim copy that is due.
  bool take_due() { return std::exchange(due_, false); }
  // What came too soon after the last copy is due at its time, whether or not anything follows. When that
  // will be; none: nothing is held back.
  std::optional<Time> give_held_back(Time now);
  // Without captured bodies, but the beginning of server-sent events.
  Exchange interim(Exchange& exchange) const;

 private:
  enum class Kind : std::uint8_t { none, sse, websocket, grpc };

  static std::size_t index(Side side) { return static_cast<std::size_t>(side); }
  void begin(Exchange& exchange);
  bool count(Exchange& exchange);
  void make_due(Time when);

  Kind kind_ = Kind::none;
  bool due_ = false;
  bool holds_back_ = false;  // the counts have changed since the last copy
  Time next_ = Time::min();  // no interim copy before
  SseCounter sse_;
  std::array<WebSocketCounter, 2> websocket_;
  std::array<GrpcCounter, 2> grpc_;
};

}  // namespace weir::http
