// HTTP/2 over cleartext TCP (RFC 7540, section 3.2): what was asked by HTTP/1 is answered on stream 1. And
// WebSocket (RFC 6455), which goes on until both sides have said Close or are gone.
#include "http/tunnel.h"

#include <algorithm>
#include <array>
#include <utility>

#include "http/h2_exchange.h"
#include "http/stream_watch.h"

namespace weir::http {
namespace {

class H2Tunnel final : public Tunnel {
 public:
  H2Tunnel(const ExchangeLimits& limits, const OnExchange& on_exchange, Exchange upgraded)
      : builder_(limits, on_exchange, std::move(upgraded)) {}

  void feed(Side side, Bytes data, Time when) override { builder_.feed(side, data, when); }
  void gap(Side side, std::uint64_t length, Time when) override { builder_.gap(side, length, when); }
  void end(Side side, Time when) override { builder_.end(side, when); }
  void finish(Time when) override { builder_.finish(when); }
  std::optional<Time> give_held_back(Time now) override { return builder_.give_held_back(now); }
  Protocol protocol() const override { return builder_.protocol(); }
  std::uint64_t unparsed_bytes(Side side) const override { return builder_.unparsed_bytes(side); }
  bool idle() const override { return builder_.idle(); }

 private:
  H2ExchangeBuilder builder_;
};

// The answer to the request is still to come.
Exchange unanswered(Exchange exchange) {
  exchange.interim_responses.push_back(*std::exchange(exchange.response, std::nullopt));
  exchange.upgraded = false;
  return exchange;
}

class WebSocketTunnel final : public Tunnel {
 public:
  WebSocketTunnel(OnExchange on_exchange, Exchange upgraded, StreamWatch watch)
      : on_exchange_(std::move(on_exchange)), exchange_(std::move(upgraded)), watch_(watch) {}

  void feed(Side side, Bytes data, Time when) override;
  void gap(Side side, std::uint64_t length, Time when) override;
  void end(Side side, Time when) override;
  void finish(Time when) override;
  std::optional<Time> give_held_back(Time now) override;
  Protocol protocol() const override { return Protocol::http1; }
  std::uint64_t unparsed_bytes(Side side) const override { return unparsed_[index(side)]; }
  bool idle() const override { return over_; }
  void settle() override;

 private:
  static std::size_t index(Side side) { return static_cast<std::size_t>(side); }
  bool closed(Side side) const { return watch_.websocket(side).closed(); }
  void give_out();

  OnExchange on_exchange_;
  Exchange exchange_;
  StreamWatch watch_;
  std::array<bool, 2> ended_{};
  bool over_ = false;
  std::array<std::uint64_t, 2> unparsed_{};
};

void WebSocketTunnel::feed(Side side, Bytes data, Time when) {
  if (over_ || ended_[index(side)]) {
    unparsed_[index(side)] += data.size();
    return;
  }
  exchange_.ended = std::max(exchange_.ended, when);
  unparsed_[index(side)] += watch_.content(side, data, exchange_, when);
  if (closed(Side::request) && closed(Side::response)) give_out();
  settle();
}

void WebSocketTunnel::gap(Side side, std::uint64_t length, Time when) {
  if (over_ || length == 0) return;
  exchange_.ended = std::max(exchange_.ended, when);
  exchange_.gap_bytes += length;
  exchange_.incomplete = "gap";
  watch_.lost(side, length, exchange_);
}

void WebSocketTunnel::end(Side side, Time when) {
  if (over_) return;
  exchange_.ended = std::max(exchange_.ended, when);
  ended_[index(side)] = true;
  if (ended_[0] && ended_[1]) give_out();
}

void WebSocketTunnel::finish(Time when) {
  exchange_.ended = std::max(exchange_.ended, when);
  give_out();
}

void WebSocketTunnel::give_out() {
  if (std::exchange(over_, true)) return;
  const bool said = closed(Side::request) || closed(Side::response);
  if (!said && exchange_.incomplete.empty()) exchange_.incomplete = "closed_early";
  on_exchange_(std::move(exchange_));
}

std::optional<Time> WebSocketTunnel::give_held_back(Time now) {
  if (over_) return std::nullopt;
  const auto next = watch_.give_held_back(now);
  settle();
  return next;
}

void WebSocketTunnel::settle() {
  if (!over_ && watch_.take_due()) on_exchange_(watch_.interim(exchange_));
}

}  // namespace

std::unique_ptr<Tunnel> tunnel_for(Exchange& upgraded, const StreamWatch& watch, const ExchangeLimits& limits,
                                   const OnExchange& on_exchange) {
  if (!upgraded.response || upgraded.response->status != 101) return nullptr;
  if (lists_token(upgraded.response->fields, "Upgrade", "h2c"))
    return std::make_unique<H2Tunnel>(limits, on_exchange, unanswered(std::move(upgraded)));
  if (watch.is_websocket()) return std::make_unique<WebSocketTunnel>(on_exchange, std::move(upgraded), watch);
  return nullptr;
}

}  // namespace weir::http
