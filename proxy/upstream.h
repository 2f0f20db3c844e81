// The way to one destination: its addresses, the connection to one of them, TLS on it. Owned by one client
// connection and never shared. Every failure comes out as an error.type of proxy.h.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "attribution/events.h"
#include "proxy/shard.h"

namespace weir::proxy {

// Makes a TCP socket in another network namespace; -1 when it can't.
using SocketMaker = std::function<int(IpAddress::Family)>;

class Upstream {
 public:
  // An empty `make_socket`: in our own network namespace. In another one no upstream proxy is used.
  explicit Upstream(Shard& shard, SocketMaker make_socket = {})
      : shard_(shard), make_socket_(std::move(make_socket)) {}

  // In this order. resolve() drops a connection to an earlier destination; connect() again reconnects. What
  // an upstream proxy connects to is resolved there. `may_forward`: what is to be said is requests in the
  // clear, which an HTTP proxy is given as they are, and not asked for a tunnel: many refuse one to port 80.
  Task<std::optional<UpstreamFailure>> resolve(Destination destination);
  Task<std::optional<UpstreamFailure>> connect(bool may_forward = false);
  Task<std::optional<UpstreamFailure>> start_tls(std::string name, std::vector<HttpProtocol> offered);

  // After resolve(): leaves out the addresses that `allowed` refuses; false when none is left of some. Where
  // an upstream proxy resolves the name, it is asked once, for an unknown address.
  template <class Allowed>
  bool keep(Allowed allowed) {
    if (via_proxy_) return allowed(address());
    const bool had_some = !addresses_.empty();
    std::erase_if(addresses_, [&](const Endpoint& address) { return !allowed(address.address); });
    return !had_some || !addresses_.empty();
  }
  // The addresses that may be connected to; where an upstream proxy resolves the name, an unknown one.
  template <class Each>
  void each_address(Each each) const {
    if (via_proxy_) return each(address());
    for (const Endpoint& one : addresses_) each(one.address);
  }
  // The destination's that is connected to.
  IpAddress address() const {
    if (via_proxy_) return parse_ip_address(destination_.name);
    return connected() ? stream_->peer().value_or(Endpoint()).address : IpAddress();
  }

  // After resolve(): one of the addresses is a listener of ours, or refused by configuration.
  bool is_refused() const;
  bool via_proxy() const { return via_proxy_; }
  // Connected to an HTTP proxy that is to be given requests.
  bool forwards() const { return forwards_; }
  // What an upstream proxy that refuses is for the client.
  UpstreamFailure refused_by_proxy(const std::string& why) const;
  // Of the last start_tls(): the upstream speaks none of what was offered (RFC 7301, 3.2).
  bool wants_other_protocol() const { return stream_ && stream_->alert() == SSL_AD_NO_APPLICATION_PROTOCOL; }
  // Of the last start_tls(): it asked for a client certificate.
  bool asks_for_certificate() const {
    return stream_ && stream_->ssl() && was_asked_for_certificate(stream_->ssl());
  }
  // What was agreed on; HTTP/1.1 where the upstream said nothing. In the clear it is what the client knows.
  HttpProtocol protocol() const;
  void take_in_the_clear(HttpProtocol protocol) { in_the_clear_ = protocol; }
  // One more connection to the same place may be opened with it: the addresses are taken over as they were
  // judged.
  Upstream sibling() const;
  bool connected() const { return stream_ && stream_->is_open(); }
  Stream& stream() { return *stream_; }
  const Destination& destination() const { return destination_; }
  void close() { stream_.reset(); }

  void tick(Stream::Clock::time_point now);
  void expire();
  // A decision with the destination and, once connected, both ends of our socket.
  DecisionMade describe(Decision decision) const;

 private:
  struct Race;

  Task<std::optional<UpstreamFailure>> look_up(std::string name, std::uint16_t port);
  Task<void> race();
  Task<std::optional<UpstreamFailure>> greet_proxy();
  std::optional<Socket> open_socket(IpAddress::Family family) const;
  std::string hop() const;  // what the socket connects to, for a sentence

  Shard& shard_;
  SocketMaker make_socket_;
  Destination destination_;
  bool via_proxy_ = false;
  bool forwards_ = false;
  HttpProtocol in_the_clear_ = HttpProtocol::http1;
  std::vector<Endpoint> addresses_;  // of the upstream proxy, if it is to be used
  std::shared_ptr<Race> race_;       // while several addresses are tried
  std::unique_ptr<Stream> stream_;
};

}  // namespace weir::proxy
