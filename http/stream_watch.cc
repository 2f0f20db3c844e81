// What an exchange is shows in its heads alone; content is only counted.
#include "http/stream_watch.h"

#include <algorithm>
#include <utility>

namespace weir::http {
namespace {

using namespace std::chrono_literals;

constexpr auto kEventInterval = 50ms;
constexpr auto kInterval = 1s;
// Captured bytes that an interim copy has.
constexpr std::size_t kInterimBody = std::size_t{64} * 1024;

bool has_media_type(const Fields& fields, std::string_view prefix) {
  const auto* type = find_field(fields, "content-type");
  return type && equals_ignoring_case(std::string_view(type->value).substr(0, prefix.size()), prefix);
}

// gRPC-Web's text form is base64.
bool is_grpc(const Fields& fields) {
  return has_media_type(fields, "application/grpc") && !has_media_type(fields, "application/grpc-web-text");
}

bool succeeded(const Exchange& exchange) {
  return exchange.response && exchange.response->status >= 200 && exchange.response->status < 300;
}

// RFC 6455, section 4.2.2, or RFC 8441.
bool asks_for_websocket(const Exchange& exchange) {
  const auto& request = exchange.request;
  if (request.version.major >= 2)
    return request.method == "CONNECT" && equals_ignoring_case(request.protocol, "websocket");
  return exchange.response && exchange.response->status == 101 &&
         lists_token(exchange.response->fields, "Upgrade", "websocket");
}

bool begins_events(const Exchange& exchange) {
  if (!succeeded(exchange) || !has_media_type(exchange.response->fields, "text/event-stream")) return false;
  const auto* coding = find_field(exchange.response->fields, "content-encoding");
  return !coding || equals_ignoring_case(coding->value, "identity");
}

}  // namespace

void StreamWatch::heads(Exchange& exchange) {
  const bool refused = exchange.response && !succeeded(exchange) && exchange.response->status != 101;
  if (kind_ == Kind::websocket && refused) {
    kind_ = Kind::none;
    exchange.websocket.reset();
  }
  if (kind_ == Kind::none && !refused) begin(exchange);
  const bool shows_itself = kind_ == Kind::sse || kind_ == Kind::websocket;
  if (!shows_itself || !exchange.response) return;
  due_ = true;
  if (kind_ == Kind::websocket) next_ = exchange.ended + kInterval;
}

void StreamWatch::begin(Exchange& exchange) {
  const bool uncounted = exchange.request_body.size + exchange.response_body.size > 0;
  if (begins_events(exchange)) {
    kind_ = Kind::sse;
  } else if (uncounted) {
    return;  // the head that says what it is came late
  } else if (asks_for_websocket(exchange)) {
    kind_ = Kind::websocket;
    exchange.websocket.emplace();
  } else if (is_grpc(exchange.request.fields) || (exchange.response && is_grpc(exchange.response->fields))) {
    kind_ = Kind::grpc;
    exchange.grpc.emplace();
    next_ = exchange.ended + kInterval;
  }
}

std::size_t StreamWatch::content(Side side, std::span<const std::byte> data, Exchange& exchange, Time when) {
  if (kind_ == Kind::none) return 0;
  auto& websocket = websocket_[index(side)];
  if (kind_ == Kind::sse && side == Side::response) sse_.feed(data);
  if (kind_ == Kind::grpc) grpc_[index(side)].feed(data);
  const auto rest = kind_ == Kind::websocket ? websocket.feed(data) : 0;
  if (websocket.malformed()) note_error(exchange, kMalformedWebSocket, "bad WebSocket frame");
  holds_back_ = count(exchange) || holds_back_;
  if (holds_back_ && when >= next_) make_due(when);
  return rest;
}

void StreamWatch::make_due(Time when) {
  due_ = true;
  holds_back_ = false;
  next_ = when + (kind_ == Kind::sse ? Time::duration(kEventInterval) : Time::duration(kInterval));
}

std::optional<Time> StreamWatch::give_held_back(Time now) {
  if (!holds_back_) return std::nullopt;
  if (now < next_) return next_;
  make_due(now);
  return std::nullopt;
}

// Whether the counts changed.
bool StreamWatch::count(Exchange& exchange) {
  if (kind_ == Kind::sse) return std::exchange(exchange.sse_events, sse_.events()) != sse_.events();
  if (kind_ == Kind::grpc) {
    const GrpcCounts now = {grpc_[0].messages(), grpc_[1].messages()};
    return std::exchange(*exchange.grpc, now) != now;
  }
  const WebSocketCounts now = {websocket_[0].messages(), websocket_[1].messages(), websocket_[0].bytes(),
                               websocket_[1].bytes()};
  return std::exchange(*exchange.websocket, now) != now;
}

void StreamWatch::lost(Side side, std::uint64_t length, Exchange& exchange) {
  if (kind_ == Kind::none) return;
  if (kind_ == Kind::sse && side == Side::response) sse_.lost();
  if (kind_ == Kind::websocket) websocket_[index(side)].lost(length);
  if (kind_ == Kind::grpc) grpc_[index(side)].lost(length);
  count(exchange);
}

Exchange StreamWatch::interim(Exchange& exchange) const {
  exchange.copied = true;
  std::array<Body*, 2> bodies = {&exchange.request_body, &exchange.response_body};
  std::array<std::vector<std::byte>, 2> data;
  for (std::size_t i = 0; i < 2; ++i) data[i].swap(bodies[i]->data);
  Exchange copy = exchange;
  for (std::size_t i = 0; i < 2; ++i) data[i].swap(bodies[i]->data);

  const auto& events = exchange.response_body.data;
  const auto kept = kind_ == Kind::sse ? std::min(events.size(), kInterimBody) : 0;
  copy.response_body.data.assign(events.begin(), events.begin() + static_cast<std::ptrdiff_t>(kept));
  copy.response_body.truncated = copy.response_body.truncated || kept < events.size();
  copy.request_body.truncated = copy.request_body.truncated || !exchange.request_body.data.empty();
  copy.final = false;
  return copy;
}

}  // namespace weir::http
