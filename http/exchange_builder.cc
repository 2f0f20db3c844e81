// Whoever is likelier to be right hears of each event first, and may end the other's part in it.
#include "http/exchange_builder.h"

#include <algorithm>

namespace weir::http {

ExchangeBuilder::ExchangeBuilder(const ExchangeLimits& limits, const OnExchange& on_exchange)
    : h1_(std::make_unique<H1ExchangeBuilder>(limits, on_exchange)),
      h2_(std::make_unique<H2ExchangeBuilder>(limits, on_exchange)) {}

// At a connection's beginning HTTP/1's builder knows as soon as a line is there; in the middle, what looks
// like a request may be content of a frame.
template <typename Event>
void ExchangeBuilder::tell(Event event) {
  if (joined_ && h2_) event(*h2_);
  choose();
  if (h1_) event(*h1_);
  choose();
  if (!joined_ && h2_) event(*h2_);
  choose();
}

void ExchangeBuilder::choose() {
  if (!h1_ || !h2_) return;
  const auto one = h1_->protocol();
  const auto two = h2_->protocol();
  // Frames behind a request line that isn't complete yet would be those of an upgrade.
  if (one == Protocol::other || (joined_ && two == Protocol::http2)) {
    h1_.reset();
  } else if (one != Protocol::undecided || two == Protocol::other) {
    h2_.reset();
  }
}

void ExchangeBuilder::feed(Side side, std::span<const std::byte> data, Time when) {
  begun_ = begun_ || side == Side::request;
  tell([&](auto& builder) { builder.feed(side, data, when); });
}

void ExchangeBuilder::gap(Side side, std::uint64_t length, Time when) {
  joined_ = joined_ || (side == Side::request && !begun_);
  begun_ = begun_ || side == Side::request;
  tell([&](auto& builder) { builder.gap(side, length, when); });
}

void ExchangeBuilder::end(Side side, Time when) {
  tell([&](auto& builder) { builder.end(side, when); });
}

void ExchangeBuilder::finish(Time when) {
  tell([&](auto& builder) { builder.finish(when); });
}

Protocol ExchangeBuilder::protocol() const {
  if (h1_) return h2_ ? Protocol::undecided : h1_->protocol();
  return h2_->protocol() == Protocol::http2 ? Protocol::http2 : Protocol::other;
}

std::uint64_t ExchangeBuilder::unparsed_bytes(Side side) const {
  const auto one = h1_ ? h1_->unparsed_bytes(side) : UINT64_MAX;
  const auto two = h2_ ? h2_->unparsed_bytes(side) : UINT64_MAX;
  return std::min(one, two);
}

std::optional<Time> ExchangeBuilder::give_held_back(Time now) {
  const auto one = h1_ ? h1_->give_held_back(now) : std::nullopt;
  const auto two = h2_ ? h2_->give_held_back(now) : std::nullopt;
  return one && two ? std::min(one, two) : one ? one : two;
}

bool ExchangeBuilder::idle() const {
  return (!h1_ || h1_->idle()) && (!h2_ || h2_->idle());
}

}  // namespace weir::http
