// The HTTP/2 builder's door.
#include "http/h2_exchange.h"

#include <utility>

#include "http/h2_connection.h"

namespace weir::http {

struct H2ExchangeBuilder::State : H2Connection {
  using H2Connection::H2Connection;
};

H2ExchangeBuilder::H2ExchangeBuilder(const ExchangeLimits& limits, OnExchange on_exchange)
    : state_(std::make_unique<State>(limits, std::move(on_exchange))) {}
H2ExchangeBuilder::H2ExchangeBuilder(const ExchangeLimits& limits, OnExchange on_exchange, Exchange upgraded)
    : H2ExchangeBuilder(limits, std::move(on_exchange)) {
  state_->adopt(std::move(upgraded));
}
H2ExchangeBuilder::~H2ExchangeBuilder() = default;

void H2ExchangeBuilder::feed(Side side, Bytes data, Time when) {
  state_->feed(side, data, when);
}

void H2ExchangeBuilder::gap(Side side, std::uint64_t length, Time when) {
  state_->gap(side, length, when);
}

void H2ExchangeBuilder::end(Side side, Time when) {
  state_->end(side, when);
}

void H2ExchangeBuilder::finish(Time when) {
  state_->finish(when);
}

Protocol H2ExchangeBuilder::protocol() const {
  return state_->protocol();
}

std::optional<Time> H2ExchangeBuilder::give_held_back(Time now) {
  return state_->give_held_back(now);
}

std::uint64_t H2ExchangeBuilder::unparsed_bytes(Side side) const {
  return state_->unparsed_bytes(side);
}

bool H2ExchangeBuilder::idle() const {
  return state_->idle();
}

}  // namespace weir::http
