// The builder for a connection of which it isn't known whether it speaks HTTP/1 or HTTP/2: finds out by the
// bytes, and hands over to the builder of that protocol. Sans-IO.
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "http/exchange.h"
#include "http/h2_exchange.h"

namespace weir::http {

// Both builders read until one of them recognises its protocol; the other one is dropped then. A client that
// begins with the preface speaks HTTP/2 (prior knowledge or ALPN), one that begins with a request line
// HTTP/1, until it is upgraded to `h2c`. Of a connection that was joined in its middle it is whichever is
// recognised first: an HTTP/1 message's start or a chain of HTTP/2 frames. A gap on the client's side before
// any bytes says that it was; if nobody says so, first bytes that are neither do.
class ExchangeBuilder final : public ExchangeReader {
 public:
  ExchangeBuilder(const ExchangeLimits& limits, const OnExchange& on_exchange);

  void feed(Side side, std::span<const std::byte> data, Time when) override;
  void gap(Side side, std::uint64_t length, Time when) override;
  void end(Side side, Time when) override;
  void finish(Time when) override;
  std::optional<Time> give_held_back(Time now) override;
  // May change from `other` to http2, when frames are found after all.
  Protocol protocol() const override;
  std::uint64_t unparsed_bytes(Side side) const override;
  bool idle() const override;

 private:
  template <typename Event>
  void tell(Event event);
  void choose();

  std::unique_ptr<H1ExchangeBuilder> h1_;
  std::unique_ptr<H2ExchangeBuilder> h2_;  // at least one of them is there
  bool begun_ = false;                     // something is known of the client's side
  bool joined_ = false;
};

}  // namespace weir::http
