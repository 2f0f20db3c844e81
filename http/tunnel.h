// Who reads on when an HTTP/1 connection goes over to another protocol, and gives out the exchange that asked
// for the upgrade as soon as that is over.
#pragma once

#include <memory>

#include "http/exchange.h"
#include "http/stream_watch.h"

namespace weir::http {

class Tunnel : public ExchangeReader {
 public:
  // Gives out what is due. Apart from construction, for that happens inside of a parser's call.
  virtual void settle() {}
};

// Of an exchange that was answered 101. Null, and the exchange untouched, if we don't speak the protocol.
std::unique_ptr<Tunnel> tunnel_for(Exchange& upgraded, const StreamWatch& watch, const ExchangeLimits& limits,
                                   const OnExchange& on_exchange);

}  // namespace weir::http
