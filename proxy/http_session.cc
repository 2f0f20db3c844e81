// Serving requests. Bodies stream: each read is parsed, forwarded and published before the next, so memory is
// bounded by the buffers and a slow side slows the other. Request and response are pumped side by side only
// while a request's body is still coming.
#include "proxy/http_session.h"

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/experimental/awaitable_operators.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <utility>

#include "proxy/destination.h"
#include "proxy/forwarding.h"
#include "proxy/relay.h"

namespace weir::proxy {
namespace {

constexpr std::size_t kInputBuffer = 16 * 1024;
constexpr std::size_t kOutputBuffer = 32 * 1024;

std::vector<std::byte> to_bytes(std::string_view text) {
  const auto bytes = std::as_bytes(std::span(text));
  return {bytes.begin(), bytes.end()};
}

int status_of(const http::ParseError& error) {
  switch (error.kind) {
    case http::ParseError::Kind::too_large:
      return 431;
    case http::ParseError::Kind::unsupported:
      return 501;
    case http::ParseError::Kind::malformed:
      break;
  }
  return 400;
}

}  // namespace

HttpSession::HttpSession(Shard& shard, Stream& client, Upstream& upstream, ConnectionEvents& events,
                         IdlePlace& idle, std::optional<TlsDestination> tls)
    : shard_(shard),
      limits_(shard.shared.config.limits),
      client_(client),
      upstream_(upstream),
      events_(events),
      idle_(idle),
      gate_(shard.shared.decider, events),
      tls_(std::move(tls)),
      request_done_(shard.context, asio::steady_timer::time_point::max()),
      routed_(tls_.has_value()) {
  request_parser_.stop_between_messages(true);
}

Task<std::optional<std::string>> HttpSession::run() {
  while (!shard_.stopping) {
    if (!co_await read_head()) break;
    const auto& head = request_.peek_head();
    if (!tls_ && head.method == "CONNECT") {
      head_bytes_.clear();
      co_return head.target;
    }
    if (!co_await serve_request()) break;
  }
  co_return std::nullopt;
}

Task<bool> HttpSession::read_head() {
  client_.set_idle_timeout(limits_.idle_timeout);
  routed_ = tls_.has_value();
  method_.clear();
  given_ = false;
  bool begun = false;
  for (;;) {
    const std::size_t before = end_ - begin_;
    if (before > 0 && !feed_request()) {
      publish_refused("malformed request");
      publish_head();
      co_await answer(*refusal_);
      co_return false;
    }
    if (request_.has_head()) co_return true;
    // The parser stops behind an empty line, too (RFC 9112, section 2.2).
    const bool more = begin_ < end_ && end_ - begin_ < before;
    if (more) continue;
    if (!begun && !request_parser_.idle()) {
      begun = true;
      client_.set_deadline(limits_.head_timeout);
    }
    idle_.set(!begun);
    if (!begun && begin_ == end_) {
      rest();
      co_await client_.wait_readable();
    }
    const Io status = co_await read_client();
    idle_.end();
    if (status == Io::ok) continue;
    publish_head();
    co_return false;
  }
}

Task<bool> HttpSession::serve_request() {
  count(shard_.shared.counters.requests);
  auto head = request_.take_head();
  method_ = head.method;
  client_keeps_alive_ = wants_keep_alive(head, !tls_);
  drop_http_upgrade(head);
  asks_for_upgrade_ = asks_for_upgrade(head);
  std::optional<Refusal> refusal;
  if (tls_)
    refusal = judge_inside(head);
  else
    refusal = co_await route_absolute(head);
  if (tls_ && !refusal && !upstream_.connected()) refusal = co_await connect_upstream(false);
  publish_head();
  if (refusal) {
    co_await answer(*refusal);
    co_return false;
  }
  client_.set_idle_timeout(limits_.idle_timeout);
  const auto& above = shard_.shared.config.upstream_proxy;
  request_.append(
      http::serialize(upstream_.forwards() ? to_proxy_request(head, credentials_for(*above)) : head));
  const bool may_repeat = !request_.has_body() && is_idempotent(method_);
  const Outcome outcome = co_await exchange(head, may_repeat);
  awaits_response_ = false;
  if (outcome != Outcome::keep) {
    co_await conclude(outcome);
    co_return false;
  }
  upstream_.stream().set_idle_timeout(std::chrono::milliseconds(0));
  co_return true;
}

std::optional<HttpSession::Refusal> HttpSession::judge_inside(const http::RequestHead& head) {
  const std::string_view misfit = head.method == "CONNECT" ? "CONNECT inside an opened connection"
                                  : names_two_hosts(head)  ? "the target's host is not Host's"
                                                           : "";
  if (!misfit.empty()) {
    gate_.refuse(tls_->destination, std::string(misfit));
    return Refusal{400, std::string(misfit)};
  }
  if (tls_->failure) return Refusal{502, tls_->failure->what};
  return ask_policy(tls_->destination, head);
}

Task<std::optional<HttpSession::Refusal>> HttpSession::route_absolute(http::RequestHead& head) {
  const auto target = parse_absolute_target(head.target, head.method);
  if (!target) {
    publish_refused("not a proxy request");
    co_return Refusal{400, "not a proxy request: " + target.error()};
  }
  head = to_origin_request(std::move(head), *target);
  const Destination& current = upstream_.destination();
  const bool same = current.name == target->destination.name && current.port == target->destination.port;
  // Who is to switch protocols needs a tunnel.
  const bool serves = upstream_.connected() && !(upstream_.forwards() && asks_for_upgrade_);
  if (same && serves) co_return ask_policy(target->destination, head);
  // Not even its name is looked up for who may not go there.
  const Verdict early = gate_.early_request(target->destination, {summarize(head)});
  if (!early.allowed) co_return Refusal{403, refusal_text(early)};
  const auto failure = co_await upstream_.resolve(target->destination);
  if (failure) co_return upstream_refusal(*failure);
  if (upstream_.is_refused()) {
    publish_refused("refused destination");
    co_return Refusal{403, "this proxy does not connect to " + target->authority};
  }
  if (auto refusal = ask_policy(target->destination, head)) co_return refusal;
  co_return co_await connect_upstream(!asks_for_upgrade_);
}

// With the address that the request goes to: of the open connection, or of each that may be opened for it.
std::optional<HttpSession::Refusal> HttpSession::ask_policy(Destination destination,
                                                            const http::RequestHead& head) {
  PolicyGate::Request request{summarize(head)};
  const http::Field* host = tls_ ? http::find_field(head.fields, "host") : nullptr;
  if (tls_) request.tls_name = tls_->name;
  if (host != nullptr) request.authority = host->value;
  destination.address = upstream_.address();
  const Verdict verdict = upstream_.connected() ? gate_.request(destination, request)
                                                : gate_.restrict(upstream_, destination, &request);
  if (verdict.allowed) return std::nullopt;
  return Refusal{403, refusal_text(verdict)};
}

Task<std::optional<HttpSession::Refusal>> HttpSession::connect_upstream(bool may_forward) {
  upstream_used_ = false;
  response_parser_.reset();
  const std::vector<HttpProtocol> offered = {HttpProtocol::http1};
  auto failure = co_await upstream_.connect(may_forward);
  const bool redirected = tls_ && tls_->name.empty();
  if (!failure && tls_ && !redirected) failure = co_await upstream_.start_tls(tls_->name, offered);
  if (failure) co_return upstream_refusal(*failure);
  upstream_.stream().set_idle_timeout(std::chrono::milliseconds(0));
  events_.decided(upstream_.describe(redirected ? Decision::redirected : Decision::bumped));
  co_return std::nullopt;
}

// It may be another of its addresses: policy was asked for this request with the former one alone.
Task<std::optional<HttpSession::Refusal>> HttpSession::reconnect(const http::RequestHead& head) {
  upstream_.close();
  if (auto refusal = ask_policy(upstream_.destination(), head)) co_return refusal;
  co_return co_await connect_upstream(upstream_.forwards());
}

HttpSession::Refusal HttpSession::upstream_refusal(const UpstreamFailure& failure) {
  auto refusal = told_failure({502, failure.what, failure.type});
  upstream_.close();
  return refusal;
}

HttpSession::Refusal HttpSession::told_failure(Refusal failure) {
  count(shard_.shared.counters.upstream_failed);
  auto decision = upstream_.describe(Decision::upstream_failed);
  decision.error_type = failure.error_type;
  events_.decided(std::move(decision));
  return failure;
}

void HttpSession::publish_refused(const std::string& rule) {
  if (tls_) return;  // the connection is bumped, and stays so
  DecisionMade refused;
  refused.decision = Decision::refused;
  refused.rule = rule;
  events_.decided(std::move(refused));
}

// The head, and what is already here of the body, go out in one write.
Task<HttpSession::Outcome> HttpSession::exchange(const http::RequestHead& head, bool may_repeat) {
  if (!feed_request()) co_return Outcome::refused;
  const auto request = request_.take_output();
  // What an idle upstream has sent answers nothing, and would be taken for the answer.
  if (!upstream_.stream().is_quiet()) {
    refusal_ = co_await reconnect(head);
    if (refusal_) co_return Outcome::refused;
  }
  for (;;) {
    const bool reused = std::exchange(upstream_used_, true);
    response_ = ResponseSink();
    response_parser_.expect_response_to(method_, asks_for_upgrade_);
    const Outcome outcome = co_await attempt(request);
    if (outcome != Outcome::unanswered || !reused || !may_repeat) co_return outcome;
    refusal_ = co_await reconnect(head);
    if (refusal_) co_return Outcome::refused;
  }
}

Task<HttpSession::Outcome> HttpSession::attempt(std::span<const std::byte> request) {
  using namespace asio::experimental::awaitable_operators;
  upstream_.stream().set_idle_timeout(limits_.idle_timeout);
  // An upstream that closed early may have answered all the same: the answer is read whatever became of this.
  const bool written = co_await upstream_.stream().write(request) == Io::ok;
  awaits_response_ = true;
  sending_ = !written ? Sending::broken : request_.complete() ? Sending::done : Sending::under_way;
  if (request_.complete()) {
    client_.set_idle_timeout(std::chrono::milliseconds(0));  // the wait is the upstream's, and has its limit
    co_return co_await pump_response();
  }
  const auto first = co_await (pump_request() || pump_response());
  co_return std::get<1>(first);
}

void HttpSession::end_slow_body(Stream::Clock::time_point now) {
  if (!pace_.is_slow(limits_.body_pace, awaits_content_, now)) return;
  count(shard_.shared.counters.slow_bodies_ended);
  client_.expire();
}

// Ends only by being cancelled when the response is over.
Task<void> HttpSession::pump_request() {
  bool upstream_reads = sending_ == Sending::under_way;
  while (!request_.complete()) {
    awaits_content_ = request_.has_known_length();
    const Io status = co_await read_client();
    awaits_content_ = false;
    if (status != Io::ok || !feed_request()) {
      upstream_.expire();
      break;
    }
    const auto piece = request_.take_output();
    if (upstream_reads) upstream_reads = co_await upstream_.stream().write(piece) == Io::ok;
  }
  sending_ = request_.complete() && upstream_reads ? Sending::done : Sending::broken;
  if (request_.complete() && !response_.answered()) client_.set_idle_timeout(std::chrono::milliseconds(0));
  request_done_.cancel();
  asio::steady_timer never(shard_.context, asio::steady_timer::time_point::max());
  co_await never.async_wait(asio::as_tuple(asio::use_awaitable));
}

Task<HttpSession::Outcome> HttpSession::pump_response() {
  output_.resize(kOutputBuffer, boost::container::default_init);
  for (;;) {
    const ReadResult got = co_await upstream_.stream().read(output_);
    if (got.status != Io::ok) co_return co_await end_of_response(got.status);
    output_end_ = got.size;
    const Outcome outcome = co_await take_response(std::span<const std::byte>(output_).first(got.size));
    if (outcome != Outcome::unanswered) co_return outcome;
  }
}

// `unanswered`: not over yet.
Task<HttpSession::Outcome> HttpSession::take_response(std::span<const std::byte> data) {
  const auto taken = response_parser_.feed(data, response_);
  // The client has said nothing that the proxy above could mean.
  if (upstream_.forwards() && response_.status() == 407) {
    const auto failure = upstream_.refused_by_proxy("asks for credentials that it takes (407)");
    refusal_ = told_failure({502, failure.what, failure.type});
    co_return Outcome::refused;
  }
  const bool delivered = co_await deliver() == Io::ok;
  if (!delivered) co_return Outcome::gone;
  if (response_.upgraded()) {
    output_left_ = *taken;
    co_return Outcome::upgraded;
  }
  if (response_.finished()) {
    const bool keep = taken && *taken == data.size() && response_.keep_alive() && client_keeps_alive_;
    // A response may overtake its request; the next one waits for the end of both.
    if (keep && sending_ == Sending::under_way)
      co_await request_done_.async_wait(asio::as_tuple(asio::use_awaitable));
    const bool whole = keep && sending_ == Sending::done;
    co_return whole ? Outcome::keep : Outcome::close;
  }
  if (taken) co_return Outcome::unanswered;
  if (response_.answered()) co_return Outcome::broken;
  refusal_ = told_failure(upstream_refused(upstream_.destination().name, taken.error()));
  co_return Outcome::refused;
}

Task<HttpSession::Outcome> HttpSession::end_of_response(Io status) {
  if (refusal_ && !response_.answered()) co_return Outcome::refused;
  if (refusal_ || client_status_ != Io::ok || client_.expired()) co_return Outcome::gone;
  if (status == Io::timed_out) co_return response_.answered() ? Outcome::gone : Outcome::timed_out;
  if (!response_.answered()) co_return Outcome::unanswered;
  if (status != Io::end || !response_parser_.finish(response_) || !response_.finished())
    co_return Outcome::broken;
  co_return co_await deliver() == Io::ok ? Outcome::close : Outcome::gone;
}

Task<Io> HttpSession::deliver() {
  auto output = response_.take_output();
  if (!output.empty()) client_.set_idle_timeout(limits_.idle_timeout);
  return give(std::move(output));
}

// A client that left while it waited must not be said to have its answer. Whether one that sends no more
// still reads shows by what its host says to the first bytes: on this host at once.
Task<Io> HttpSession::give(std::vector<std::byte> bytes) {
  if (bytes.empty()) co_return Io::ok;
  const bool first = !std::exchange(given_, true);
  const PeerState before = first ? client_.peer_state() : PeerState::open;
  if (before == PeerState::reset) co_return Io::failed;
  const Io status = co_await client_.write(bytes);
  const bool has_left = before == PeerState::ended && client_.peer_state() == PeerState::reset;
  if (has_left) co_return Io::failed;
  if (status == Io::ok) events_.bytes(Direction::received, std::move(bytes));
  co_return status;
}

// What became of the exchange, in the client's terms, when it is the last.
Task<void> HttpSession::conclude(Outcome outcome) {
  const std::string& upstream = upstream_.destination().name;
  if (outcome == Outcome::unanswered) refusal_ = told_failure(upstream_closed(upstream));
  if (outcome == Outcome::timed_out) refusal_ = told_failure(upstream_timed_out(upstream));
  if (outcome == Outcome::upgraded) co_await switch_protocols();
  if (outcome == Outcome::broken || outcome == Outcome::gone) events_.response_broke_off();
  if (outcome == Outcome::broken) client_.abort();
  if (outcome == Outcome::close && !request_.complete()) co_await client_.linger();
  if (refusal_ && outcome != Outcome::gone) co_await answer(*refusal_);
  upstream_.close();
}

Task<void> HttpSession::switch_protocols() {
  const auto on_relayed = [this](Direction direction, std::span<const std::byte> data) {
    events_.bytes(direction, data);
  };
  const auto early = unread();
  const auto late = std::span<const std::byte>(output_).subspan(output_left_, output_end_ - output_left_);
  if (!early.empty() && co_await upstream_.stream().write(early) != Io::ok) co_return;
  on_relayed(Direction::sent, early);
  if (!late.empty() && co_await client_.write(late) != Io::ok) co_return;
  on_relayed(Direction::received, late);
  co_await relay(client_, upstream_.stream(), limits_.idle_timeout, on_relayed);
}

Task<void> HttpSession::answer(const Refusal& refusal) {
  auto bytes = to_bytes(own_response(refusal.status, refusal.text, method_ == "HEAD"));
  client_.set_deadline(limits_.head_timeout);
  if (co_await give(std::move(bytes)) == Io::ok) co_await client_.linger();
}

Task<void> HttpSession::answer_unpublished(int status, std::string text) {
  const auto bytes = to_bytes(own_response(status, text, false));
  client_.set_deadline(limits_.head_timeout);
  if (co_await client_.write(bytes) == Io::ok) co_await client_.linger();
}

bool HttpSession::feed_request() {
  const auto taken = request_parser_.feed(unread(), request_);
  if (taken) {
    consume(*taken);
    return true;
  }
  count(shard_.shared.counters.malformed_requests);
  refusal_ = Refusal{status_of(taken.error()), "malformed request: " + taken.error().what};
  consume(end_ - begin_);
  return false;
}

void HttpSession::consume(std::size_t size) {
  const auto taken = unread().first(size);
  if (routed_) {
    events_.bytes(Direction::sent, taken);
  } else {
    head_bytes_.insert(head_bytes_.end(), taken.begin(), taken.end());
  }
  begin_ += size;
  if (begin_ == end_) begin_ = end_ = 0;
}

// Most connections are idle most of the time: one that waits for its next request holds no buffer. What ended
// the wait shows at the read.
void HttpSession::rest() {
  IoBuffer().swap(input_);
  IoBuffer().swap(output_);
  client_.release_write_buffer();
  if (upstream_.connected()) upstream_.stream().release_write_buffer();
}

Task<Io> HttpSession::read_client() {
  input_.resize(kInputBuffer, boost::container::default_init);
  if (end_ == input_.size()) {
    std::copy(input_.begin() + static_cast<std::ptrdiff_t>(begin_), input_.end(), input_.begin());
    end_ -= std::exchange(begin_, 0);
  }
  const ReadResult got = co_await client_.read(std::span(input_).subspan(end_));
  if (got.status == Io::ok) {
    anything_received_ = true;
    end_ += got.size;
    pace_.received(got.size);
  } else {
    client_status_ = got.status;
  }
  co_return got.status;
}

void HttpSession::publish_head() {
  routed_ = true;
  if (!head_bytes_.empty()) events_.bytes(Direction::sent, std::exchange(head_bytes_, {}));
}

}  // namespace weir::proxy
