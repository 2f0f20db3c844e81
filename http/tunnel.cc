// HTTP/2 over cleartext TCP (RFC 7540, section 3.2): what was asked by HTTP/1 is answered on stream 1.
#include "http/tunnel.h"

#include <utility>

#include "http/h2_exchange.h"

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

}  // namespace

std::unique_ptr<Tunnel> tunnel_for(Exchange& upgraded, const ExchangeLimits& limits,
                                   const OnExchange& on_exchange) {
  if (!upgraded.response || upgraded.response->status != 101) return nullptr;
  if (lists_token(upgraded.response->fields, "Upgrade", "h2c"))
    return std::make_unique<H2Tunnel>(limits, on_exchange, unanswered(std::move(upgraded)));
  return nullptr;
}

}  // namespace weir::http
