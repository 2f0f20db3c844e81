// The way of a client connection: who is it, what does it ask for, may it, is it TLS, is it to be opened.
// Each answer is published before the bytes that follow from it. A client that nobody is behind gets nothing.
#include "proxy/connection.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <functional>
#include <memory>
#include <utility>

#include "attribution/record.h"
#include "proxy/connect_reply.h"
#include "proxy/connection_events.h"
#include "proxy/destination.h"
#include "proxy/http_session.h"
#include "proxy/mux_session.h"
#include "proxy/opening.h"
#include "proxy/policy_gate.h"
#include "proxy/relay.h"
#include "proxy/socks.h"
#include "proxy/upstream.h"

namespace weir::proxy {
namespace {

constexpr std::size_t kSocksBuffer = 512;
constexpr unsigned kTicksPerLook = 10;
constexpr std::chrono::milliseconds kTellsFailure{2'000};
constexpr std::uint8_t kAccessDenied = 49;  // the alert (RFC 8446, section 6.2)

// Alerts by which a client says that it does not take our certificate (RFC 8446, 6.2): bad_certificate to
// certificate_unknown, unknown_ca, access_denied.
bool is_rejection(std::uint8_t alert) {
  return (alert >= 42 && alert <= 46) || alert == 48 || alert == 49;
}

class Connection final : public Supervised {
 public:
  Connection(Shard& shard, const Entrance& entrance, Socket socket, Client client)
      : shard_(shard),
        client_(shard.poller, std::move(socket)),
        upstream_(shard, entrance.make_socket),
        events_(shard.publisher, client),
        gate_(shard.shared.decider, events_),
        idle_(shard.idle, client_),
        place_(shard.connections.insert(shard.connections.end(), this)) {}
  ~Connection() override { shard_.connections.erase(place_); }

  Task<void> run(Tuple tuple);
  // The tuple's peer is the destination: the client knows nothing of us.
  Task<void> run_redirected(Tuple tuple);

  void tick(Stream::Clock::time_point now) override;
  void end_if_idle() override {
    if (mux_ != nullptr) return mux_->leave();
    if (idle_.idle()) client_.expire();
  }
  void end_now() override {
    client_.expire();
    upstream_.expire();
    if (mux_ != nullptr) mux_->expire();
  }

 private:
  Task<void> take_redirected(Endpoint destination);
  void go_on_in_the_clear(HttpProtocol protocol, std::optional<UpstreamFailure> failure);
  Task<void> forward_cleartext(HttpProtocol protocol, std::optional<UpstreamFailure> failure);
  Task<void> take_http();
  Task<void> take_socks();
  Task<void> take_connect(std::unique_ptr<ConnectReply> reply, Destination destination);
  void take_tls(const Destination& named, const std::string& asked, const Opening& opening,
                const Verdict& verdict, std::optional<UpstreamFailure> failure);
  Task<bool> may_begin_so(const Opening& opening, const Destination& where);
  Task<Opening> find_opening();
  Task<void> send_alert(std::uint8_t description);
  Task<void> go_on();
  void go_on_with_tunnel(std::optional<UpstreamFailure> failure, Decision as, std::string why);
  Task<void> tunnel(std::optional<UpstreamFailure> failure, Decision as, std::string why);
  std::string why_to_pass_through(const std::string& name, const std::string& asked) const;
  Rejections::Who rejecting() const;
  Task<void> bump(std::string name, std::vector<HttpProtocol> offered,
                  std::optional<UpstreamFailure> failure);
  Task<std::optional<UpstreamFailure>> open_upstream_tls(std::string name, std::vector<HttpProtocol> offered);
  Task<bool> open_client_tls(Ssl ssl, HttpProtocol protocol);
  Task<void> serve_http1(Ssl ssl, TlsDestination tls);
  Task<void> serve_mux(Ssl ssl, TlsDestination tls, HttpProtocol protocol);
  void conclude_opened(bool anything_received, Io last_status);
  bool says_rejected(Io status) const;
  void publish_rejected();
  void publish_handshake(bool completed);
  DecisionMade describe_failure(const UpstreamFailure& failure);

  Shard& shard_;
  Stream client_;
  Upstream upstream_;
  ConnectionEvents events_;
  PolicyGate gate_;
  IdlePlace idle_;
  HttpSession* session_ = nullptr;
  MuxSession* mux_ = nullptr;
  // What the connection goes on with, once the coroutine that found it out is gone with all that it held:
  // most of a connection's time is spent there.
  std::move_only_function<Task<void>()> next_;
  std::string client_server_name_;
  std::string opened_for_;  // the name that the client's certificate is for
  bool inspects_ = false;   // a rule wants to see what passes
  unsigned ticks_ = 0;
  std::list<Supervised*>::iterator place_;
};

// While a response is awaited nobody reads the client's side: its leaving is looked for here.
void Connection::tick(Stream::Clock::time_point now) {
  client_.check_deadline(now);
  upstream_.tick(now);
  if (mux_ != nullptr) mux_->tick(now);
  if (session_ != nullptr) session_->end_slow_body(now);
  const bool awaits = session_ != nullptr && session_->awaits_response();
  if (awaits && ++ticks_ % kTicksPerLook == 0 && client_.peer_left()) end_now();
}

Task<void> Connection::run(Tuple tuple) {
  events_.opened(tuple);
  client_.set_idle_timeout(shard_.shared.config.limits.idle_timeout);
  idle_.begin();
  co_await client_.wait_readable();
  idle_.end();
  if (client_.first_byte() == SocksRequest::kVersion)
    co_await take_socks();
  else
    co_await take_http();
  co_await go_on();
}

Task<void> Connection::go_on() {
  while (next_) {
    Task<void> step = std::exchange(next_, nullptr)();
    co_await std::move(step);
  }
  client_.shutdown_write();
  events_.ended();
}

void Connection::go_on_with_tunnel(std::optional<UpstreamFailure> failure, Decision as, std::string why) {
  next_ = [this, as, failure = std::move(failure), why = std::move(why)]() mutable {
    return tunnel(std::move(failure), as, std::move(why));
  };
}

Task<void> Connection::take_http() {
  auto proxy_port = std::make_unique<HttpSession>(shard_, client_, upstream_, events_, idle_, std::nullopt);
  session_ = proxy_port.get();
  const auto authority = co_await proxy_port->run();
  session_ = nullptr;
  if (!authority) co_return;
  const auto destination = parse_authority(*authority, std::nullopt);
  if (destination)
    co_return co_await take_connect(std::make_unique<ConnectReply>(std::move(proxy_port)), *destination);
  count(shard_.shared.counters.malformed_requests);
  gate_.refuse(Destination(), "malformed request");
  co_await proxy_port->answer_unpublished(400, "CONNECT takes host:port");
}

Task<void> Connection::take_socks() {
  client_.set_deadline(shard_.shared.config.limits.head_timeout);
  SocksRequest request;
  std::array<std::byte, kSocksBuffer> buffer;
  while (request.state() == SocksRequest::State::unfinished) {
    const ReadResult got = co_await client_.read(buffer);
    if (got.status != Io::ok) co_return;
    request.feed(std::span(buffer).first(got.size));
    const std::string output = request.take_output();
    const Io written = co_await client_.write(std::as_bytes(std::span(output)));
    if (written != Io::ok) co_return;
  }
  if (request.state() == SocksRequest::State::asked) {
    const Destination destination = request.destination();
    co_return co_await take_connect(std::make_unique<ConnectReply>(std::move(request)), destination);
  }
  count(shard_.shared.counters.malformed_requests);
  gate_.refuse(Destination(), "malformed request");
}

Task<void> Connection::run_redirected(Tuple tuple) {
  events_.opened(tuple);
  count(shard_.shared.counters.redirected);
  co_await take_redirected(tuple.peer);
  co_await go_on();
}

// What can't be had breaks off: only who speaks to a proxy understands a proxy's answer.
Task<void> Connection::take_redirected(Endpoint where) {
  const Destination literal{where.address.to_string(), where.port, where.address};
  Verdict verdict = gate_.connection({"", where.port, where.address});
  if (!verdict.allowed) co_return client_.abort();
  auto failure = co_await upstream_.resolve(literal);
  if (upstream_.is_refused()) {
    gate_.refuse(literal, "refused destination");
    co_return client_.abort();
  }
  if (!failure) failure = co_await upstream_.connect();
  if (failure) {
    events_.decided(describe_failure(*failure));
    co_return client_.abort();
  }
  const Opening opening = co_await find_opening();
  if (opening.is_request) co_return go_on_in_the_clear(HttpProtocol::http1, std::nullopt);
  if (opening.is_http2) co_return go_on_in_the_clear(HttpProtocol::http2, std::nullopt);

  if (!co_await may_begin_so(opening, literal)) co_return;
  const std::string& name = opening.server_name.empty() ? literal.name : opening.server_name;
  const Destination named{name, where.port, where.address};
  verdict = gate_.connection(named);
  if (!verdict.allowed && opening.is_tls) co_return co_await send_alert(kAccessDenied);
  if (opening.is_tls) co_return take_tls(named, name, opening, verdict, std::nullopt);
  const bool hidden = verdict.inspect && !opening.server_spoke;
  if (hidden) gate_.refuse_unseen(verdict, named);
  if (hidden || !verdict.allowed) co_return client_.abort();
  gate_.log(verdict, named);
  go_on_with_tunnel(std::nullopt, Decision::tunnelled, "neither TLS nor HTTP/1");
}

void Connection::go_on_in_the_clear(HttpProtocol protocol, std::optional<UpstreamFailure> failure) {
  next_ = [this, protocol, failure = std::move(failure)]() mutable {
    return forward_cleartext(protocol, std::move(failure));
  };
}

Task<void> Connection::forward_cleartext(HttpProtocol protocol, std::optional<UpstreamFailure> failure) {
  if (failure) {
    events_.decided(describe_failure(*failure));
  } else {
    upstream_.take_in_the_clear(protocol);
    upstream_.stream().set_idle_timeout(std::chrono::milliseconds(0));
    events_.decided(upstream_.describe(Decision::redirected));
  }
  TlsDestination there{upstream_.destination(), "", std::move(failure)};
  if (protocol == HttpProtocol::http2) {
    MuxSession session(shard_, client_, upstream_, events_, idle_, std::move(there), protocol);
    session.greet_upstream();
    mux_ = &session;
    co_await session.run();
    mux_ = nullptr;
    co_return;
  }
  HttpSession session(shard_, client_, upstream_, events_, idle_, std::move(there));
  session_ = &session;
  co_await session.run();
  session_ = nullptr;
}

// The session of the proxy's port is of no use beyond the CONNECT, and large.
Task<void> Connection::take_connect(std::unique_ptr<ConnectReply> reply, Destination destination) {
  Verdict verdict = gate_.connection(destination);
  if (!verdict.allowed) co_return co_await reply->refuse(client_, 403, refusal_text(verdict));
  auto failure = co_await upstream_.resolve(destination);
  if (upstream_.is_refused()) {
    gate_.refuse(destination, "refused destination");
    const std::string where = destination.name + ":" + std::to_string(destination.port);
    co_return co_await reply->refuse(client_, 403, "this proxy does not connect to " + where);
  }
  verdict = gate_.restrict(upstream_, destination, nullptr);
  if (!verdict.allowed) co_return co_await reply->refuse(client_, 403, refusal_text(verdict));

  const std::string established = reply->established();
  client_.unread(reply->unread());
  reply.reset();
  client_.set_idle_timeout(shard_.shared.config.limits.idle_timeout);
  if (co_await client_.write(std::as_bytes(std::span(established))) != Io::ok) co_return;
  if (!failure) failure = co_await upstream_.connect();
  const Opening opening = co_await find_opening();
  const bool is_http = opening.is_request || opening.is_http2;
  const auto* const left_closed = find_passthrough(shard_.shared.config.passthrough, destination.name);
  if (is_http && left_closed != nullptr && !verdict.inspect && !verdict.undecided)
    co_return go_on_with_tunnel(std::move(failure), Decision::passed_through, "passthrough: " + *left_closed);
  if (opening.is_request) co_return go_on_in_the_clear(HttpProtocol::http1, std::move(failure));
  if (opening.is_http2) co_return go_on_in_the_clear(HttpProtocol::http2, std::move(failure));

  const Destination there{destination.name, destination.port, upstream_.address()};
  if (!co_await may_begin_so(opening, there)) co_return;
  if (opening.is_tls) {
    const std::string name = opening.server_name.empty() ? destination.name : opening.server_name;
    const Destination named{name, destination.port, upstream_.address()};
    // A CONNECT to one name must not open another.
    const Verdict inner = gate_.connection(named);
    // It may have to connect anew.
    const bool refused = !inner.allowed || !gate_.restrict(upstream_, named, nullptr).allowed;
    if (refused) co_return co_await send_alert(kAccessDenied);
    if (inner.inspect || !verdict.inspect) verdict = inner;
    co_return take_tls(named, destination.name, opening, verdict, std::move(failure));
  }
  const Verdict now = gate_.connection(there);
  if (!now.allowed) co_return;
  if (now.inspect || !verdict.inspect) verdict = now;
  // It may be HTTP in any disguise.
  if (verdict.inspect && !opening.server_spoke) co_return gate_.refuse_unseen(verdict, there);
  gate_.log(verdict, there);
  go_on_with_tunnel(std::move(failure), Decision::tunnelled, "not TLS");
}

// What it begins with is a fact from then on.
Task<bool> Connection::may_begin_so(const Opening& opening, const Destination& where) {
  const bool is_hello = opening.unreadable == Unreadable::hello;
  const char* const why = is_hello ? "unreadable ClientHello" : "unreadable request";
  if (opening.unreadable == Unreadable::nothing || gate_.unnamed(where, why).allowed) {
    events_.begins_with(facts_of(opening));
    co_return true;
  }
  if (is_hello)
    co_await send_alert(kAccessDenied);
  else
    client_.abort();
  co_return false;
}

// Who may be gone to under every name, and is to be opened, or not. `asked` is what the client asked for
// before. Nobody's list and nobody's rejections keep from a rule what it asks to see.
void Connection::take_tls(const Destination& named, const std::string& asked, const Opening& opening,
                          const Verdict& verdict, std::optional<UpstreamFailure> failure) {
  client_server_name_ = opening.server_name;
  opened_for_ = named.name;
  inspects_ = verdict.inspect;
  const std::string why = inspects_ ? std::string() : why_to_pass_through(named.name, asked);
  // Nobody asked for it to be opened.
  if (events_.client().steered && !inspects_) {
    gate_.log(verdict, named);
    return go_on_with_tunnel(std::move(failure), Decision::tunnelled, "steered by policy");
  }
  if (!why.empty()) {
    gate_.log(verdict, named);
    return go_on_with_tunnel(std::move(failure), Decision::passed_through, why);
  }
  next_ = [this, name = named.name, offered = known_protocols(opening.protocols),
           failure = std::move(failure)]() mutable {
    return bump(std::move(name), std::move(offered), std::move(failure));
  };
}

// "" when it is to be opened. What comes after a comma is detail.
std::string Connection::why_to_pass_through(const std::string& name, const std::string& asked) const {
  const auto& passthrough = shard_.shared.config.passthrough;
  const std::string* entry = find_passthrough(passthrough, asked);
  if (entry == nullptr) entry = find_passthrough(passthrough, name);
  if (entry != nullptr) return "passthrough: " + *entry;
  auto& rejections = shard_.shared.rejections;
  if (rejections.empty()) return {};
  const auto until = rejections.passed_until(rejecting(), Rejections::Clock::now());
  if (!until) return {};
  return "certificate rejected by client, passed through until " +
         to_rfc3339(std::chrono::floor<std::chrono::seconds>(*until));
}

Rejections::Who Connection::rejecting() const {
  const auto& facts = events_.client().facts;
  if (!facts) return {};
  return {facts->executable_path, facts->container_id, opened_for_};
}

// Before any handshake, so in the clear (RFC 8446, section 6).
Task<void> Connection::send_alert(std::uint8_t description) {
  const std::array<std::uint8_t, 7> alert{21, 3, 3, 0, 2, 2, description};
  client_.set_deadline(shard_.shared.config.limits.head_timeout);
  co_await client_.write(std::as_bytes(std::span(alert)));
}

// Whoever waits here has said nothing yet, and may be shed. Without an upstream, the client's first bytes
// only say in which way it is told so.
Task<Opening> Connection::find_opening() {
  const auto& limits = shard_.shared.config.limits;
  if (!upstream_.connected())
    co_return co_await peek_opening(client_, nullptr, std::min(limits.handshake_timeout, kTellsFailure));
  Stream* upstream = &upstream_.stream();
  idle_.begin();
  co_await wait_for_either_side(client_, *upstream, limits.idle_timeout);
  if (!client_.readable_now() && speaks_http2_first(*upstream)) {
    upstream = nullptr;
    client_.set_idle_timeout(limits.idle_timeout);
    co_await client_.wait_readable();
  }
  idle_.end();
  co_return co_await peek_opening(client_, upstream, limits.handshake_timeout);
}

Task<void> Connection::tunnel(std::optional<UpstreamFailure> failure, Decision as, std::string why) {
  if (failure) {
    events_.decided(describe_failure(*failure));
    co_return;
  }
  auto& counters = shard_.shared.counters;
  count(as == Decision::tunnelled ? counters.tunnelled : counters.passed_through);
  auto decision = upstream_.describe(as);
  decision.rule = std::move(why);
  events_.decided(std::move(decision));
  co_await relay(client_, upstream_.stream(), shard_.shared.config.limits.idle_timeout, nullptr);
}

// What the client offers is what the upstream is offered. One that speaks none of it is offered the other
// one.
Task<std::optional<UpstreamFailure>> Connection::open_upstream_tls(std::string name,
                                                                   std::vector<HttpProtocol> offered) {
  auto failure = co_await upstream_.start_tls(name, offered);
  if (!failure || !upstream_.wants_other_protocol() || offered.size() != 1) co_return failure;
  const bool http1_offered = offered.front() == HttpProtocol::http1;
  const std::vector<HttpProtocol> other(1, http1_offered ? HttpProtocol::http2 : HttpProtocol::http1);
  failure = co_await upstream_.connect();
  if (!failure) failure = co_await upstream_.start_tls(name, other);
  co_return failure;
}

// The upstream is opened and verified first: what it is decides what the client gets.
Task<void> Connection::bump(std::string name, std::vector<HttpProtocol> offered,
                            std::optional<UpstreamFailure> failure) {
  if (!failure) failure = co_await open_upstream_tls(name, offered);
  const bool mutual = upstream_.asks_for_certificate() && !shard_.shared.config.open_mutual_tls && !inspects_;
  if (mutual) {
    failure = co_await upstream_.connect();
    co_return go_on_with_tunnel(std::move(failure), Decision::passed_through,
                                "upstream asks for a client certificate");
  }
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
  if (!ssl) co_return;

  const auto offers = [&offered](HttpProtocol wanted) {
    return std::find(offered.begin(), offered.end(), wanted) != offered.end();
  };
  auto protocol = failure ? HttpProtocol::http1 : upstream_.protocol();
  if (!offers(protocol)) protocol = offered.front();
  const bool http1_alone = protocol == HttpProtocol::http1 && (failure || upstream_.protocol() == protocol);
  next_ = [this, http1_alone, protocol, own = std::move(*ssl),
           tls = TlsDestination{upstream_.destination(), name, std::move(failure)}]() mutable {
    return http1_alone ? serve_http1(std::move(own), std::move(tls))
                       : serve_mux(std::move(own), std::move(tls), protocol);
  };
}

Task<void> Connection::serve_http1(Ssl ssl, TlsDestination tls) {
  if (!co_await open_client_tls(std::move(ssl), HttpProtocol::http1)) co_return;
  HttpSession session(shard_, client_, upstream_, events_, idle_, std::move(tls));
  session_ = &session;
  co_await session.run();
  session_ = nullptr;
  conclude_opened(session.anything_received(), session.last_client_status());
}

Task<void> Connection::serve_mux(Ssl ssl, TlsDestination tls, HttpProtocol protocol) {
  MuxSession session(shard_, client_, upstream_, events_, idle_, std::move(tls), protocol);
  session.greet_upstream();
  if (!co_await open_client_tls(std::move(ssl), protocol)) co_return;
  mux_ = &session;
  co_await session.run();
  mux_ = nullptr;
  conclude_opened(session.anything_received(), session.last_client_status());
}

void Connection::conclude_opened(bool anything_received, Io last_status) {
  if (!anything_received && says_rejected(last_status)) publish_rejected();
  if (anything_received && !shard_.shared.rejections.empty()) shard_.shared.rejections.taken(rejecting());
}

Task<bool> Connection::open_client_tls(Ssl ssl, HttpProtocol protocol) {
  take_protocol(ssl.get(), protocol);
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
  shard_.shared.rejections.rejected(rejecting(), Rejections::Clock::now());
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

Task<void> serve(Shard& shard, std::shared_ptr<const Entrance> entrance, Socket socket, Endpoint from) {
  const auto listener = socket.local();
  if (!listener) co_return;
  const Tuple tuple{from, *listener};
  auto client = entrance->resolver->resolve(tuple);
  if (client && !entrance->redirected) client->redirected_from.reset();
  if (!client || (entrance->redirected && !client->redirected_from)) {
    count(shard.shared.counters.unresolved_refused);
    co_return;
  }
  Connection connection(shard, *entrance, std::move(socket), *client);
  if (client->redirected_from)
    co_await connection.run_redirected({tuple.local, *client->redirected_from});
  else
    co_await connection.run(tuple);
}

}  // namespace weir::proxy
