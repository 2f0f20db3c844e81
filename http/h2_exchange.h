// The builder that makes exchanges of the two byte streams of an HTTP/2 connection (RFC 9113), one for each
// stream, as a passive observer: nothing is sent, refused or acknowledged, and what the peers may do is taken
// as it comes. Sans-IO.
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "http/exchange.h"

namespace weir::http {

// Exchanges are given out in the order in which they end. The two sides may arrive in any interleaving, also
// a response before its request. A frame that breaks the rules of framing or header compression ends the
// reading of the connection: what is open is given out with the error.
//
// An exchange's content is its DATA frames' without padding; what passes through an accepted CONNECT is none.
// All of its Content-Length makes a message whole, also when its stream ends without saying so.
// Frames of the connection itself belong to no exchange and are no unparsed bytes.
//
// A gap inside of a DATA frame is skipped and counted, inside of a frame without consequence it is skipped.
// Otherwise that side looks for frames again; exchanges that may have lost something are marked ("gap"), and
// header fields that refer to what was lost are left out, which marks their exchange, too. Exchanges of a
// connection joined in its middle are marked "joined_midstream" if such a field is left out. What is pending
// on a stream whose end was lost is given out at the connection's end at the latest.
//
// Unparsed is what isn't HTTP/2, lost framing, of streams whose request wasn't seen, inside an accepted
// CONNECT, after an error. The protocol is http2 when the preface was seen, or frames in the middle of a
// connection.
class H2ExchangeBuilder final : public ExchangeReader {
 public:
  H2ExchangeBuilder(const ExchangeLimits& limits, OnExchange on_exchange);
  // After an HTTP/1 request for `h2c` was answered 101: that request's final response comes on stream 1.
  // Further exchanges are counted on from its number.
  H2ExchangeBuilder(const ExchangeLimits& limits, OnExchange on_exchange, Exchange upgraded);
  ~H2ExchangeBuilder() override;

  void feed(Side side, std::span<const std::byte> data, Time when) override;
  void gap(Side side, std::uint64_t length, Time when) override;
  void end(Side side, Time when) override;
  void finish(Time when) override;
  std::optional<Time> give_held_back(Time now) override;
  Protocol protocol() const override;
  std::uint64_t unparsed_bytes(Side side) const override;
  bool idle() const override;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace weir::http
