// Whoever has read something hands it to its half and then sends on what came of it, both ways, as far as the
// sockets take it. What they don't take waits where it is: in the halves, within the windows that they gave.
#include "proxy/mux_session.h"

#include <array>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/experimental/awaitable_operators.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <utility>

#include "proxy/h1_front.h"
#include "proxy/h2_front.h"

namespace weir::proxy {
namespace {

constexpr std::size_t kReadBuffer = 64 * 1024;
// Reads in a row before other connections have their turn.
constexpr unsigned kGreedyReads = 16;

std::span<std::byte> in_buffer() {
  thread_local std::array<std::byte, kReadBuffer> buffer;
  return buffer;
}

bool speaks_http1(const Upstream& upstream, const TlsDestination& tls) {
  return !tls.failure && upstream.protocol() == HttpProtocol::http1;
}

void rethrow_any(const std::exception_ptr& exception) {
  if (exception) std::rethrow_exception(exception);
}

}  // namespace

MuxSession::MuxSession(Shard& shard, Stream& client, Upstream& upstream, ConnectionEvents& events,
                       IdlePlace& idle, TlsDestination tls, HttpProtocol protocol)
    : shard_(shard),
      limits_(shard.shared.config.limits),
      client_(client),
      upstream_(upstream),
      events_(events),
      idle_(idle),
      gate_(shard.shared.decider, events),
      tls_(std::move(tls)),
      protocol_(protocol),
      back_(limits_.h2, tls_.destination.name),
      h1_back_(
          limits_.h2, tls_.destination.name, [this](H1Leg& leg) { open_leg(leg); },
          [this](H1Leg& leg) { return may_use_again(leg); }),
      front_(make_front()),
      client_outlet_(
          shard.context, client, [this](auto& out, std::size_t most) { front_->produce(out, most); },
          [this](std::span<const std::byte> data) {
            events_.bytes(Direction::received, data);
            touch_upstream();
          }),
      over_(shard.context),
      never_(shard.context),
      room_(shard.context) {
  back_.set_front(*front_);
  h1_back_.set_front(*front_);
  client_outlet_.on_drained = [this] {
    flush();
    room_.raise();
  };
  if (tls_.failure || speaks_http1(upstream, tls_)) return;
  upstream_outlet_.emplace(
      shard.context, upstream.stream(), [this](auto& out, std::size_t most) { back_.produce(out, most); },
      [this](std::span<const std::byte>) { client_.touch(); });
  upstream_outlet_->on_drained = [this] {
    flush();
    room_.raise();
  };
}

std::unique_ptr<ClientSide> MuxSession::make_front() {
  Back& back = speaks_http1(upstream_, tls_) ? static_cast<Back&>(h1_back_) : back_;
  RequestJudge& judge = *this;
  if (protocol_ == HttpProtocol::http1)
    return std::make_unique<H1Front>(limits_.h2, limits_.body_pace, judge, back);
  return std::make_unique<H2Front>(limits_.h2, limits_.body_pace, judge, back);
}

void MuxSession::greet_upstream() {
  if (speaks_upstream()) upstream_outlet_->flush();
}

Task<void> MuxSession::run() {
  using namespace asio::experimental::awaitable_operators;
  if (speaks_upstream()) {
    co_await meet_upstream();
    front_->open(back_.max_streams(), back_.takes_extended_connect());
  } else {
    front_->open(limits_.h2.streams, false);
  }
  client_opened_ = true;
  if (shard_.stopping) front_->leave();
  client_.set_idle_timeout(limits_.idle_timeout);
  flush();
  co_await (read_client() || read_upstream() || client_outlet_.drain() || drain(upstream_outlet_) ||
            over_.wait());
  if (speaks_upstream() && !upstream_over_) {
    back_.leave();
    upstream_outlet_->flush();
    upstream_.stream().shutdown_write();
  }
  if (!client_outlet_.blocked()) {
    front_->leave();
    client_outlet_.flush();
  }
  if (front_->broke_off()) {
    events_.response_broke_off();
    client_.abort();
  }
  closing_ = true;
  idle_.end();
  expire();
  while (!legs_.empty()) co_await over_.wait();
  if (client_status_ == Io::ok && client_.is_open() && !client_.expired()) co_await client_.linger();
}

void MuxSession::tick(Stream::Clock::time_point now) {
  const std::size_t slow = front_->end_slow_requests(now);
  shard_.shared.counters.slow_bodies_ended.fetch_add(slow, std::memory_order_relaxed);
  if (slow > 0) flush();
  for (auto& io : legs_) {
    io.upstream->tick(now);
    if (io.upstream->connected() && io.upstream->stream().expired()) io.changed.raise();
  }
}

void MuxSession::expire() {
  for (auto& io : legs_) {
    io.upstream->expire();
    io.changed.raise();
  }
}

void MuxSession::open_leg(H1Leg& leg) {
  LegIo& io = legs_.emplace_back(shard_, upstream_, leg);
  if (!std::exchange(first_leg_taken_, true)) io.upstream = &upstream_;
  leg.on_change = [&io] {
    if (!io.leg.usable()) io.upstream->expire();
    io.changed.raise();
  };
  asio::co_spawn(shard_.context, run_leg(io), [this, &io](const std::exception_ptr& exception) {
    rethrow_any(exception);
    leg_ended(io);
  });
}

void MuxSession::leg_ended(LegIo& io) {
  h1_back_.remove(io.leg);
  legs_.remove_if([&io](const LegIo& one) { return &one == &io; });
  flush();
  if (legs_.empty() && closing_) over_.raise();
}

bool MuxSession::may_use_again(const H1Leg& leg) {
  for (auto& io : legs_)
    if (&io.leg == &leg) return io.upstream->connected() && io.upstream->stream().is_quiet();
  return false;
}

Task<std::optional<UpstreamFailure>> MuxSession::open_leg_upstream(LegIo& io) {
  const std::vector<HttpProtocol> offered = {HttpProtocol::http1};
  io.outlet.reset();
  // It may have left before there was anything to ask it for.
  const bool usable = io.upstream->connected() && !io.upstream->stream().expired();
  if (usable && io.upstream->stream().is_quiet()) co_return std::nullopt;
  auto failure = co_await io.upstream->connect();
  if (!failure) failure = co_await io.upstream->start_tls(tls_.name, offered);
  co_return failure;
}

Task<void> MuxSession::run_leg(LegIo& io) {
  using namespace asio::experimental::awaitable_operators;
  // Not from within the client's half: what it is being given stands in the buffer that is read into here.
  co_await asio::post(shard_.context, asio::use_awaitable);
  do {
    const auto failure = co_await open_leg_upstream(io);
    if (failure) {
      io.leg.ended(false, {502, failure->what, failure->type});
      co_return;
    }
    io.upstream->stream().set_idle_timeout(limits_.idle_timeout);
    io.outlet.emplace(
        shard_.context, io.upstream->stream(),
        [&io](auto& out, std::size_t most) { io.leg.produce(out, most); },
        [this](std::span<const std::byte>) { client_.touch(); });
    io.outlet->on_drained = [this] { flush(); };
    flush();
    co_await (read_leg(io) || drain(io.outlet));
    if (io.leg.usable()) io.leg.ended(false, upstream_closed(tls_.destination.name));
    io.outlet.reset();
    io.upstream->close();
  } while (!closing_ && io.leg.begin_again());
}

Task<void> MuxSession::read_leg(LegIo& io) {
  Stream& stream = io.upstream->stream();
  for (unsigned streak = 0; io.leg.usable();) {
    if (!io.leg.wants_input()) {
      co_await io.changed.wait();
      if (stream.expired()) co_return;
      continue;
    }
    auto got = stream.read_now(in_buffer());
    if (!got) {
      streak = 0;
      const Io waited = co_await stream.wait_readable();
      if (waited == Io::ok) continue;
      got = ReadResult{waited, 0};
    }
    const std::string& name = tls_.destination.name;
    if (got->status == Io::ok) {
      client_.touch();
      io.leg.receive(std::span<const std::byte>(in_buffer()).first(got->size));
    } else if (got->status == Io::timed_out) {
      io.leg.ended(false, upstream_timed_out(name));
    } else {
      const bool orderly = got->status == Io::end;
      io.leg.ended(orderly, upstream_closed(name));
    }
    flush();
    if (++streak % kGreedyReads == 0) co_await asio::post(shard_.context, asio::use_awaitable);
  }
}

// The client is told what the upstream's settings are, so these come first: a server sends them at once.
Task<void> MuxSession::meet_upstream() {
  Stream& stream = upstream_.stream();
  stream.set_deadline(limits_.handshake_timeout);
  while (!back_.settings_came() && !upstream_over_) {
    const Io waited = co_await stream.wait_readable();
    const auto got = waited == Io::ok ? stream.read_now(in_buffer()) : ReadResult{waited, 0};
    if (!got) continue;
    if (got->status != Io::ok) {
      lose_upstream(got->status);
    } else {
      take_from_upstream(in_buffer().first(got->size));
      upstream_outlet_->flush();
    }
  }
  stream.set_idle_timeout(limits_.idle_timeout);
}

Task<void> MuxSession::read_client() {
  for (unsigned streak = 0;;) {
    while (!front_->wants_input()) {
      reader_waits_ = true;
      co_await room_.wait();
    }
    reader_waits_ = false;
    auto got = client_.read_now(in_buffer());
    if (!got) {
      streak = 0;
      const Io waited = co_await client_.wait_readable();
      if (waited == Io::ok) continue;
      got = ReadResult{waited, 0};
    }
    if (got->status != Io::ok) {
      client_status_ = got->status;
      co_return;
    }
    anything_received_ = true;
    const auto data = std::span<const std::byte>(in_buffer()).first(got->size);
    events_.bytes(Direction::sent, data);
    touch_upstream();
    const bool taken = front_->receive(data, H2Session::Clock::now());
    flush();
    if (!taken) {
      if (front_->flooded()) count(shard_.shared.counters.floods_ended);
      co_return;
    }
    if (++streak % kGreedyReads == 0) co_await asio::post(shard_.context, asio::use_awaitable);
  }
}

bool MuxSession::waits_for_upstream() const {
  const bool upstream_lives = (speaks_upstream() && !upstream_over_) || !legs_.empty();
  return upstream_lives && !front_->idle();
}

void MuxSession::release_write_buffers() {
  if (!client_outlet_.blocked()) client_.release_write_buffer();
  if (speaks_upstream() && !upstream_over_ && !upstream_outlet_->blocked())
    upstream_.stream().release_write_buffer();
}

// A client that begins a head must end it in time, and one without requests must not stay for ever. While one
// is open, the wait is the upstream's, and has its limit.
void MuxSession::limit_client() {
  idle_.set(!closing_ && front_->idle() && !front_->in_head());
  const auto now = front_->in_head()      ? ClientWait::head
                   : waits_for_upstream() ? ClientWait::answer
                                          : ClientWait::idle;
  if (now == std::exchange(client_wait_, now)) return;
  if (now == ClientWait::idle) release_write_buffers();
  if (now == ClientWait::head) return client_.set_deadline(limits_.head_timeout);
  client_.set_idle_timeout(now == ClientWait::idle ? limits_.idle_timeout : std::chrono::milliseconds(0));
}

// Without an upstream each request is answered by us; ends only by being cancelled.
Task<void> MuxSession::read_upstream() {
  for (unsigned streak = 0; speaks_upstream() && !upstream_over_;) {
    while (!back_.session().wants_input() && !upstream_outlet_->failed()) co_await room_.wait();
    auto got = upstream_.stream().read_now(in_buffer());
    if (!got) {
      streak = 0;
      const Io waited = co_await upstream_.stream().wait_readable();
      if (waited == Io::ok) continue;
      got = ReadResult{waited, 0};
    }
    if (got->status != Io::ok) {
      lose_upstream(got->status);
    } else {
      client_.touch();
      take_from_upstream(std::span<const std::byte>(in_buffer()).first(got->size));
    }
    flush();
    if (++streak % kGreedyReads == 0) co_await asio::post(shard_.context, asio::use_awaitable);
  }
  co_await never_.wait();
}

Task<void> MuxSession::drain(std::optional<Outlet>& outlet) {
  if (outlet) co_await outlet->drain();
  room_.raise();
  co_await never_.wait();  // what is lost shows where it is read
}

bool MuxSession::take_from_upstream(std::span<const std::byte> data) {
  const bool taken = back_.receive(data, H2Session::Clock::now());
  if (client_opened_) front_->limit_streams(back_.max_streams());
  if (!taken || back_.finished()) {
    upstream_outlet_->flush();
    upstream_over_ = true;
    back_.ended(taken ? upstream_closed(back_.name()) : upstream_malformed(back_.name(), "malformed frames"));
  }
  return taken;
}

void MuxSession::lose_upstream(Io status) {
  upstream_over_ = true;
  back_.ended(status == Io::timed_out ? upstream_timed_out(back_.name()) : upstream_closed(back_.name()));
}

// What one side takes gives the other one room: again, until neither has anything left.
void MuxSession::flush() {
  bool again = true;
  while (again) {
    again = upstream_outlet_ && !upstream_over_ && upstream_outlet_->flush();
    for (auto& io : legs_) again = (io.outlet && io.leg.usable() && io.outlet->flush()) || again;
    again = client_outlet_.flush() || again;
  }
  limit_client();
  if (reader_waits_ && front_->wants_input()) room_.raise();
  if (front_->broke_off()) over_.raise();
  if (front_->finished() && !client_outlet_.blocked()) over_.raise();
}

// An upstream that speaks HTTP/1 has limits of its own for each exchange.
void MuxSession::touch_upstream() {
  if (speaks_upstream()) upstream_.stream().touch();
}

void MuxSession::leave() {
  front_->leave();
  flush();
}

// HTTP/1 has no streams: what is decided of a request is the connection's decision.
std::optional<std::uint64_t> MuxSession::decided_stream(std::int32_t stream) const {
  return protocol_ == HttpProtocol::http2 ? std::optional(static_cast<std::uint64_t>(stream)) : std::nullopt;
}

std::optional<OwnAnswer> MuxSession::judge(std::int32_t stream, const HeadBlock& request) {
  count(shard_.shared.counters.requests);
  const bool connect = request.pseudo_value(":method") == "CONNECT";
  if (connect && !request.has_pseudo(":protocol")) {
    const std::string misfit = "CONNECT inside an opened connection";
    gate_.refuse(tls_.destination, misfit, decided_stream(stream));
    return OwnAnswer{400, misfit};
  }
  if (tls_.failure) return OwnAnswer{502, tls_.failure->what};
  return ask_policy(stream, request);
}

void MuxSession::malformed() {
  count(shard_.shared.counters.malformed_requests);
}

void MuxSession::malformed_stream(std::int32_t stream) {
  malformed();
  if (closing_) return;
  auto decision = upstream_.describe(Decision::bumped);
  decision.error_type = "malformed_request";
  decision.stream = decided_stream(stream);
  events_.decided(std::move(decision));
}

void MuxSession::upstream_failed(std::int32_t stream, const OwnAnswer& answer) {
  if (closing_) return;  // the client has left, and with it went the upstream
  count(shard_.shared.counters.upstream_failed);
  auto decision = upstream_.describe(Decision::upstream_failed);
  decision.error_type = answer.error_type;
  decision.stream = decided_stream(stream);
  events_.decided(std::move(decision));
}

// Each leg to an upstream that speaks HTTP/1 may have another of its addresses.
std::optional<OwnAnswer> MuxSession::ask_policy(std::int32_t stream, const HeadBlock& request) {
  const RequestSummary summary{request.pseudo_value(":method"), request.pseudo_value(":path"),
                               &request.fields, request.pseudo_value(":authority")};
  const http::Field* host = http::find_field(request.fields, "host");
  const bool named = request.has_pseudo(":authority") || host == nullptr;
  const std::string_view authority =
      named ? request.pseudo_value(":authority") : std::string_view(host->value);
  const PolicyGate::Request asked{summary, tls_.name, authority, decided_stream(stream)};
  Destination destination = tls_.destination;
  destination.address = upstream_.address();
  const Verdict verdict = speaks_upstream() ? gate_.request(destination, asked)
                                            : gate_.every_address(upstream_, destination, asked);
  if (verdict.allowed) return std::nullopt;
  return OwnAnswer{403, refusal_text(verdict)};
}

}  // namespace weir::proxy
