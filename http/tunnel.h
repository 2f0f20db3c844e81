// Who reads on when an HTTP/1 connection goes over to another protocol. Has the door of an exchange builder,
// and gives out the exchange that asked for the upgrade as soon as that is over.
#pragma once

#include <cstdint>
#include <memory>

#include "http/bytes.h"
#include "http/exchange.h"
#include "http/stream_watch.h"

namespace weir::http {

class Tunnel {
 public:
  virtual ~Tunnel() = default;
  virtual void feed(Side side, Bytes data, Time when) = 0;
  virtual void gap(Side side, std::uint64_t length, Time when) = 0;
  virtual void end(Side side, Time when) = 0;
  virtual void finish(Time when) = 0;
  virtual Protocol protocol() const = 0;
  virtual std::uint64_t unparsed_bytes(Side side) const = 0;
  virtual bool idle() const = 0;
  // Gives out what is due. Apart from construction, for that happens inside of a parser's call.
  virtual void settle() {}
};

// Of an exchange that was answered 101. Null, and the exchange untouched, if we don't speak the protocol.
std::unique_ptr<Tunnel> tunnel_for(Exchange& upgraded, const StreamWatch& watch, const ExchangeLimits& limits,
                                   const OnExchange& on_exchange);

}  // namespace weir::http
