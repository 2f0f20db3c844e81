// Resolving, connecting and verifying an upstream. Of several addresses the next is tried when one takes long
// (RFC 8305); a certificate that doesn't verify ends it, and no setting changes that.
#include "proxy/upstream.h"

#include <algorithm>
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <cerrno>
#include <cstring>
#include <exception>
#include <list>
#include <utility>

#include "proxy/destination.h"
#include "proxy/upstream_proxy.h"

namespace weir::proxy {
namespace {

constexpr std::chrono::milliseconds kNextAttempt{250};  // RFC 8305, 8: Connection Attempt Delay
constexpr std::size_t kMostAddresses = 16;
constexpr std::size_t kMostOfProxy =
    64 * 1024;  // what an upstream proxy may say before the connection stands

UpstreamFailure describe_connect_failure(const std::string& hop, Io status, int error) {
  const auto failure = [&hop](const char* type, const std::string& why) {
    return UpstreamFailure{type, "can't connect to " + hop + ": " + why + " (" + type + ")"};
  };
  if (status == Io::timed_out || error == ETIMEDOUT) return failure("connect_timeout", "timed out");
  if (error == ECONNREFUSED) return failure("connect_refused", "connection refused");
  return failure("connect_unreachable", std::strerror(error));
}

// Loopback by definition, whatever the host's files or name servers say (RFC 6761, section 6.3).
bool is_localhost(std::string_view name) {
  return name == "localhost" || name.ends_with(".localhost");
}

// Linux takes the unspecified address for loopback's: it is judged as what it is.
Endpoint without_wildcard(Endpoint endpoint) {
  if (!endpoint.address.is_unspecified()) return endpoint;
  const bool v4 = endpoint.address.family == IpAddress::Family::v4;
  return {parse_ip_address(v4 ? "127.0.0.1" : "::1"), endpoint.port};
}

// Without the upstream proxy, which has a loopback of its own.
bool is_direct(const Destination& destination) {
  return is_localhost(destination.name) || parse_ip_address(destination.name).is_loopback();
}

// The resolver's order, but the families in turn (RFC 8305, 4).
std::vector<Endpoint> in_turn(const std::vector<Endpoint>& addresses) {
  std::vector<Endpoint> first;
  std::vector<Endpoint> second;
  for (const Endpoint& address : addresses)
    (address.address.family == addresses.front().address.family ? first : second).push_back(address);
  std::vector<Endpoint> order;
  for (std::size_t i = 0; i < std::max(first.size(), second.size()); ++i) {
    if (i < first.size()) order.push_back(first[i]);
    if (i < second.size()) order.push_back(second[i]);
  }
  order.resize(std::min(order.size(), kMostAddresses));
  return order;
}

// As the other coroutines' (proxy.cc): a bug or a lack of memory ends the process.
constexpr auto raise = [](const std::exception_ptr& exception) {
  if (exception) std::rethrow_exception(exception);
};

}  // namespace

// Attempts that run side by side. One that lost may end after the race.
struct Upstream::Race {
  explicit Race(asio::io_context& context) : changed(context) {}

  static Task<void> attempt(std::shared_ptr<Race> race, std::list<std::unique_ptr<Stream>>::iterator place,
                            Endpoint address) {
    const Io status = co_await (*place)->connect(address);
    auto stream = std::move(*place);
    race->running.erase(place);
    if (status != Io::ok) {
      race->status = status;
      race->error = stream->last_errno();
    } else if (!race->winner && !race->over) {
      race->winner = std::move(stream);
    }
    ++race->ended;
    race->changed.cancel();
  }
  void expire() {
    over = true;
    for (const auto& stream : running) stream->expire();
  }

  asio::steady_timer changed;
  std::list<std::unique_ptr<Stream>> running;
  std::unique_ptr<Stream> winner;
  std::size_t ended = 0;
  bool over = false;
  Io status = Io::failed;  // of the attempt that failed last
  int error = EHOSTUNREACH;
};

Task<std::optional<UpstreamFailure>> Upstream::resolve(Destination destination) {
  stream_.reset();
  addresses_.clear();
  destination_ = std::move(destination);
  const auto& proxy = shard_.shared.config.upstream_proxy;
  via_proxy_ = proxy && !make_socket_ && !is_direct(destination_);
  const Destination& hop = via_proxy_ ? proxy->address : destination_;
  co_return co_await look_up(hop.name, hop.port);
}

Task<std::optional<UpstreamFailure>> Upstream::look_up(std::string name, std::uint16_t port) {
  if (const auto literal = parse_ip_address(name); literal.family != IpAddress::Family::unknown) {
    addresses_.push_back(without_wildcard({literal, port}));
    co_return std::nullopt;
  }
  if (is_localhost(name)) {
    for (const char* loopback : {"127.0.0.1", "::1"})
      addresses_.push_back({parse_ip_address(loopback), port});
    co_return std::nullopt;
  }
  const Addresses answer = co_await shard_.shared.names.look_up(shard_.context, std::move(name), port,
                                                                shard_.shared.config.limits.connect_timeout);
  for (const Endpoint& address : answer.found) addresses_.push_back(without_wildcard(address));
  if (!addresses_.empty()) co_return std::nullopt;
  UpstreamFailure failure{"dns", "can't resolve " + hop() + ": " + answer.error.message() + " (dns)"};
  co_return failure;
}

Task<std::optional<UpstreamFailure>> Upstream::connect(bool may_forward) {
  stream_.reset();
  const auto& proxy = shard_.shared.config.upstream_proxy;
  forwards_ = may_forward && via_proxy_ && proxy->kind == UpstreamProxy::Kind::http;
  race_ = std::make_shared<Race>(shard_.context);
  co_await race();
  const auto ended = std::exchange(race_, nullptr);
  stream_ = std::move(ended->winner);
  if (!stream_) co_return describe_connect_failure(hop(), ended->status, ended->error);
  if (via_proxy_ && !forwards_) co_return co_await greet_proxy();
  co_return std::nullopt;
}

Task<void> Upstream::race() {
  const auto state = race_;
  const auto order = in_turn(addresses_);
  for (std::size_t next = 0; !state->winner && !state->over;) {
    const std::size_t ended = state->ended;
    if (next < order.size()) {
      auto socket = open_socket(order[next].address.family);
      if (!socket) {
        ++next;
        continue;
      }
      auto stream = std::make_unique<Stream>(shard_.poller, std::move(*socket));
      stream->set_deadline(shard_.shared.config.limits.connect_timeout);
      state->running.push_back(std::move(stream));
      asio::co_spawn(shard_.context, Race::attempt(state, std::prev(state->running.end()), order[next++]),
                     raise);
    } else if (state->running.empty()) {
      break;
    }
    if (state->ended != ended) continue;
    const bool last = next == order.size();
    state->changed.expires_after(last ? 2 * shard_.shared.config.limits.connect_timeout : kNextAttempt);
    co_await state->changed.async_wait(asio::as_tuple(asio::use_awaitable));
  }
  state->expire();
}

// Our own is opened when it connects.
std::optional<Socket> Upstream::open_socket(IpAddress::Family family) const {
  if (!make_socket_) return Socket();
  const int descriptor = make_socket_(family);
  if (descriptor < 0) return std::nullopt;
  return Socket(descriptor);
}

// The upstream proxy is asked for the destination.
Task<std::optional<UpstreamFailure>> Upstream::greet_proxy() {
  const auto refused = [this](const std::string& why) {
    stream_.reset();
    return refused_by_proxy(why);
  };
  stream_->set_deadline(shard_.shared.config.limits.handshake_timeout);
  const auto handshake = ProxyHandshake::begin(*shard_.shared.config.upstream_proxy, destination_);
  std::vector<std::byte> input(4096);
  std::size_t received = 0;
  while (handshake->state() == ProxyHandshake::State::unfinished) {
    const std::string output = handshake->take_output();
    if (!output.empty() && co_await stream_->write(std::as_bytes(std::span(output))) != Io::ok)
      co_return refused("closed the connection");
    const ReadResult got = co_await stream_->read(input);
    if (got.status == Io::timed_out) co_return refused("did not answer in time");
    if (got.status != Io::ok) co_return refused("closed the connection");
    handshake->feed(std::span(input).first(got.size));
    received += got.size;
    if (received > kMostOfProxy) co_return refused("sent too long an answer");
  }
  if (handshake->state() == ProxyHandshake::State::refused) co_return refused(handshake->why());
  stream_->unread(handshake->unread());
  co_return std::nullopt;
}

UpstreamFailure Upstream::refused_by_proxy(const std::string& why) const {
  return {"upstream_proxy", hop() + " " + why + " (upstream_proxy)"};
}

std::string Upstream::hop() const {
  const auto& proxy = shard_.shared.config.upstream_proxy;
  const Destination& to = via_proxy_ ? proxy->address : destination_;
  const std::string where = to.name + " port " + std::to_string(to.port);
  if (via_proxy_) return "the upstream proxy " + where;
  return "upstream " + where;
}

Task<std::optional<UpstreamFailure>> Upstream::start_tls(std::string name,
                                                         std::vector<HttpProtocol> offered) {
  stream_->set_deadline(shard_.shared.config.limits.handshake_timeout);
  Ssl ssl = make_upstream_ssl(shard_.shared.upstream_context.get(), name, offered);
  if (!ssl) {
    UpstreamFailure failure{"tls_handshake",
                            "no certificate can be for upstream " + name + " (tls_handshake)"};
    co_return failure;
  }
  shard_.shared.client_identities.use(ssl.get(), name);
  shard_.sessions.resume(ssl.get(), name + ' ' + destination_.name + ' ' + std::to_string(destination_.port));
  const Io status = co_await stream_->handshake(std::move(ssl), false);
  if (status == Io::ok) co_return std::nullopt;
  const std::string error = status == Io::timed_out ? "timed out" : stream_->tls_error();
  co_return describe_handshake_failure(stream_->ssl(), name, error);
}

Upstream Upstream::sibling() const {
  Upstream made(shard_, make_socket_);
  made.destination_ = destination_;
  made.via_proxy_ = via_proxy_;
  made.addresses_ = addresses_;
  return made;
}

HttpProtocol Upstream::protocol() const {
  if (stream_->ssl() == nullptr) return in_the_clear_;
  const bool http2 = negotiated_alpn(stream_->ssl()) == alpn_name(HttpProtocol::http2);
  return http2 ? HttpProtocol::http2 : HttpProtocol::http1;
}

bool Upstream::is_refused() const {
  if (make_socket_ && is_direct(destination_)) return false;  // another loopback than ours
  const auto& refused = shard_.shared.config.refused_destinations;
  const auto literal = parse_ip_address(destination_.name);
  if (literal.family != IpAddress::Family::unknown && reaches_any({literal, destination_.port}, refused))
    return true;
  return std::any_of(addresses_.begin(), addresses_.end(),
                     [&](const Endpoint& address) { return reaches_any(address, refused); });
}

void Upstream::tick(Stream::Clock::time_point now) {
  if (stream_) stream_->check_deadline(now);
  if (!race_) return;
  for (const auto& stream : race_->running) stream->check_deadline(now);
}

void Upstream::expire() {
  if (stream_) stream_->expire();
  if (!race_) return;
  race_->expire();
  race_->status = Io::timed_out;
  race_->changed.cancel();
}

DecisionMade Upstream::describe(Decision decision) const {
  DecisionMade made;
  made.decision = decision;
  made.server_name = destination_.name;
  made.server_port = destination_.port;
  if (stream_) {
    const IpAddress literal = via_proxy_ ? parse_ip_address(destination_.name) : IpAddress{};
    if (literal.family != IpAddress::Family::unknown)
      made.upstream_peer = Endpoint{literal, destination_.port};
    if (!via_proxy_) made.upstream_peer = stream_->peer();
    made.upstream_local = stream_->local();
  }
  return made;
}

}  // namespace weir::proxy
