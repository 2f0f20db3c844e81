// The way of a client connection: who is it, what does it ask for, may it, is it TLS, is it to be opened.
// Each answer is published before the bytes that follow from it. A client that nobody is behind gets nothing.
#include "proxy/connection.h"

#include <algorithm>
#include <array>
#include <boost/asio/experimental/awaitable_operators.hpp>
#include <memory>
#include <string_view>
#include <utility>

#include "attribution/client_hello.h"
#include "proxy/connection_events.h"
#include "proxy/destination.h"
#include "proxy/http_session.h"
#include "proxy/relay.h"
#include "proxy/upstream.h"

namespace weir::proxy {
namespace {

constexpr std::string_view kEstablished = "HTTP/1.1 200 Connection established\r\n\r\n";
constexpr std::size_t kPeekBuffer = 4 * 1024;
constexpr unsigned kTicksPerLook = 10;

// Alerts by which a client says that it does not take our certificate (RFC 8446, 6.2): bad_certificate to
// certificate_unknown, unknown_ca, access_denied.
bool is_rejection(std::uint8_t alert) {
  return (alert >= 42 && alert <= 46) || alert == 48 || alert == 49;
}

// What the first bytes after CONNECT say.
struct Opening {
  bool is_tls = false;
  std::string server_name;
};

class Connection final : public Supervised {
 public:
  Connection(Shard& shard, tcp::socket socket, Client client)
      : shard_(shard),
        client_(std::move(socket)),
        upstream_(shard),
        events_(shard.publisher, client),
        place_(shard.connections.insert(shard.connections.end(), this)) {}
  ~Connection() override { shard_.connections.erase(place_); }

  Task<void> run(Tuple tuple);

  void tick(Stream::Clock::time_point now) override;
  void end_if_idle() override {
    if (session_ != nullptr && session_->between_requests()) client_.expire();
  }
  void end_now() override {
    client_.expire();
    upstream_.expire();
  }

 private:
  Task<void> take_connect(std::unique_ptr<HttpSession> proxy_port, std::string authority);
  void publish_refused(const Destination& destination, const std::string& rule);
  Task<void> wait_for_either_side();
  Task<Opening> peek_opening();
  Task<void> tunnel(std::optional<UpstreamFailure> failure, std::string rule);
  Task<void> bump(std::string name, std::optional<UpstreamFailure> failure);
  Task<bool> open_client_tls(Ssl ssl);
  bool says_rejected(Io status) const;
  void publish_rejected();
  void publish_handshake(bool completed);
  DecisionMade describe_failure(const UpstreamFailure& failure);

  Shard& shard_;
  Stream client_;
  Upstream upstream_;
  ConnectionEvents events_;
  const HttpSession* session_ = nullptr;
  std::string client_server_name_;
  unsigned ticks_ = 0;
  std::list<Supervised*>::iterator place_;
};

// While a response is awaited nobody reads the client's side: its leaving is looked for here.
void Connection::tick(Stream::Clock::time_point now) {
  client_.check_deadline(now);
  upstream_.tick(now);
  const bool awaits = session_ != nullptr && session_->awaits_response();
  if (awaits && ++ticks_ % kTicksPerLook == 0 && client_.peer_left()) end_now();
}

Task<void> Connection::run(Tuple tuple) {
  events_.opened(tuple);
  auto proxy_port = std::make_unique<HttpSession>(shard_, client_, upstream_, events_, std::nullopt);
  session_ = proxy_port.get();
  const auto authority = co_await proxy_port->run();
  session_ = nullptr;
  if (authority) co_await take_connect(std::move(proxy_port), *authority);
  client_.shutdown_write();
  events_.ended();
}

// The session of the proxy's port is of no use beyond the CONNECT, and large.
Task<void> Connection::take_connect(std::unique_ptr<HttpSession> proxy_port, std::string authority) {
  const auto destination = parse_authority(authority, std::nullopt);
  if (!destination) {
    count(shard_.shared.counters.malformed_requests);
    publish_refused(Destination(), "malformed request");
    co_return co_await proxy_port->answer_unpublished(400, "CONNECT takes host:port");
  }
  const Verdict verdict = shard_.shared.decider.decide(events_.client(), *destination, nullptr);
  if (!verdict.allowed) {
    publish_refused(*destination, verdict.rule);
    co_return co_await proxy_port->answer_unpublished(403, "refused by policy: " + verdict.rule);
  }
  auto failure = co_await upstream_.resolve(*destination);
  if (upstream_.is_refused()) {
    publish_refused(*destination, "refused destination");
    co_return co_await proxy_port->answer_unpublished(403, "this proxy does not connect to " + authority);
  }

  client_.unread(proxy_port->unread());
  proxy_port.reset();
  client_.set_idle_timeout(shard_.shared.config.limits.idle_timeout);
  if (co_await client_.write(std::as_bytes(std::span(kEstablished))) != Io::ok) co_return;
  if (!failure) failure = co_await upstream_.connect();
  co_await wait_for_either_side();
  const Opening opening = co_await peek_opening();

  const auto& passthrough = shard_.shared.config.passthrough;
  const std::string* entry = find_passthrough(passthrough, destination->name);
  if (entry == nullptr) entry = find_passthrough(passthrough, opening.server_name);
  client_server_name_ = opening.server_name;
  if (opening.is_tls && entry == nullptr) {
    const std::string name = opening.server_name.empty() ? destination->name : opening.server_name;
    // A CONNECT to one name must not open another.
    const Verdict inner = shard_.shared.decider.decide(events_.client(), {name, destination->port}, nullptr);
    if (!inner.allowed) co_return publish_refused({name, destination->port}, inner.rule);
    co_return co_await bump(name, std::move(failure));
  }
  const std::string why = opening.is_tls ? "passthrough: " + *entry : "not TLS";
  co_await tunnel(std::move(failure), why);
}

void Connection::publish_refused(const Destination& destination, const std::string& rule) {
  DecisionMade refused;
  refused.decision = Decision::refused;
  refused.server_name = destination.name;
  refused.server_port = destination.port;
  refused.rule = rule;
  events_.decided(std::move(refused));
}

// In some protocols the server speaks first: waiting for the client alone would wait for ever.
Task<void> Connection::wait_for_either_side() {
  using namespace asio::experimental::awaitable_operators;
  if (!upstream_.connected()) co_return;
  upstream_.stream().set_idle_timeout(shard_.shared.config.limits.idle_timeout);
  co_await (client_.wait_readable() || upstream_.stream().wait_readable());
}

Task<Opening> Connection::peek_opening() {
  Opening opening;
  const bool server_spoke = upstream_.connected() && !client_.readable_now();
  if (server_spoke) co_return opening;
  client_.set_deadline(shard_.shared.config.limits.handshake_timeout);
  std::vector<std::byte> seen;
  std::array<std::byte, kPeekBuffer> buffer;
  for (;;) {
    const ReadResult got = co_await client_.read(buffer);
    if (got.status != Io::ok) break;
    seen.insert(seen.end(), buffer.begin(), buffer.begin() + static_cast<std::ptrdiff_t>(got.size));
    const auto hello = parse_client_hello(seen);
    if (!hello && hello.error() == HelloError::incomplete) continue;
    opening.is_tls = hello.has_value();
    if (hello) opening.server_name = hello->server_name;
    break;
  }
  client_.unread(seen);
  co_return opening;
}

Task<void> Connection::tunnel(std::optional<UpstreamFailure> failure, std::string rule) {
  if (failure) {
    events_.decided(describe_failure(*failure));
    co_return;
  }
  count(shard_.shared.counters.tunnelled);
  auto decision = upstream_.describe(Decision::tunnelled);
  decision.rule = std::move(rule);
  events_.decided(std::move(decision));
  co_await relay(client_, upstream_.stream(), shard_.shared.config.limits.idle_timeout, nullptr);
}

// The upstream is opened and verified first: what it is decides what the client gets.
Task<void> Connection::bump(std::string name, std::optional<UpstreamFailure> failure) {
  if (!failure) failure = co_await upstream_.start_tls(name);
  auto ssl = shard_.shared.leaves->make_ssl(name);
  if (!ssl) failure = UpstreamFailure{"leaf_signing", "no leaf certificate: " + ssl.error()};
  if (failure) {
    events_.decided(describe_failure(*failure));
    upstream_.close();
  } else {
    count(shard_.shared.counters.bumped);
    upstream_.stream().set_idle_timeout(std::chrono::milliseconds(0));
    events_.decided(upstream_.describe(Decision::bumped));
  }
  if (!ssl || !co_await open_client_tls(std::move(*ssl))) co_return;

  TlsDestination tls{upstream_.destination(), name, std::move(failure)};
  HttpSession session(shard_, client_, upstream_, events_, std::move(tls));
  session_ = &session;
  co_await session.run();
  session_ = nullptr;
  if (!session.anything_received() && says_rejected(session.last_client_status())) publish_rejected();
}

Task<bool> Connection::open_client_tls(Ssl ssl) {
  client_.set_deadline(shard_.shared.config.limits.handshake_timeout);
  const Io status = co_await client_.handshake(std::move(ssl), true);
  publish_handshake(status == Io::ok);
  if (status == Io::ok) co_return true;
  if (says_rejected(status)) publish_rejected();
  co_return false;
}

// A client that leaves during or right after the handshake did not take the certificate, with or without an
// alert; so do not clients that time out, or that can't agree on a version.
bool Connection::says_rejected(Io status) const {
  if (client_.alert()) return is_rejection(*client_.alert());
  return status == Io::truncated || status == Io::end;
}

void Connection::publish_handshake(bool completed) {
  Handshake handshake;
  handshake.version = tls_version(client_.ssl());
  handshake.sni = client_server_name_;
  handshake.alpn = negotiated_alpn(client_.ssl());
  handshake.alert = client_.alert();
  handshake.completed = completed;
  events_.handshake(std::move(handshake));
}

void Connection::publish_rejected() {
  count(shard_.shared.counters.client_rejected_certificate);
  if (client_.alert() && SSL_is_init_finished(client_.ssl()) == 1) publish_handshake(false);
  if (!upstream_.connected()) return;  // upstream_failed stands
  auto decision = upstream_.describe(Decision::bumped);
  decision.error_type = "client_rejected_certificate";
  events_.decided(std::move(decision));
}

DecisionMade Connection::describe_failure(const UpstreamFailure& failure) {
  count(shard_.shared.counters.upstream_failed);
  auto decision = upstream_.describe(Decision::upstream_failed);
  decision.error_type = failure.type;
  return decision;
}

}  // namespace

Task<void> serve(Shard& shard, tcp::socket socket, Endpoint from) {
  boost::system::error_code error;
  const auto listener = socket.local_endpoint(error);
  if (error) co_return;
  const Tuple tuple{from, to_endpoint(listener)};
  const auto client = shard.shared.resolver.resolve(tuple);
  if (!client) {
    count(shard.shared.counters.unresolved_refused);
    co_return;
  }
  Connection connection(shard, std::move(socket), *client);
  co_await connection.run(tuple);
}

}  // namespace weir::proxy
