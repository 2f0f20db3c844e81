// Whose turn it is: which bytes go to which exchange, what waits, what is given out. Where bytes are missing
// it would rather drop an exchange, and count it, than pair a response with a request that it doesn't answer.
#include "http/pairing.h"

#include <algorithm>

#include "http/message_start.h"

namespace weir::http {
namespace {

using namespace std::chrono_literals;

// How much of a joined request stream may pass without a message's start before it is taken for another
// protocol.
constexpr std::uint64_t kUndecidedBytes = std::uint64_t{64} * 1024;
// What holding an item costs beside its bytes.
constexpr std::size_t kHeldOverhead = 64;
// An item takes no more in: the rest of it is copied after each message that is read of it.
constexpr std::size_t kMostJoined = std::size_t{8} * 1024;
// The two sides are stamped by different threads: a response may seem this much older than its own request.
constexpr auto kStampRace = 1s;

// When an exchange ended whose end was lost doesn't show here.
void close_early(Exchange& exchange, Time when) {
  if (exchange.incomplete.empty()) exchange.incomplete = "closed_early";
  if (exchange.incomplete != "gap") exchange.ended = std::max(exchange.ended, when);
}

}  // namespace

Open* Pairing::current(const Stream& s) {
  if (&s == &response) return target();
  return open.empty() || open.back().request_done ? nullptr : &open.back();
}

// A response waits for its request; what follows a request for an upgrade waits for the answer.
bool Pairing::blocked(const Stream& s) {
  if (s.mode == Mode::opaque || s.mode == Mode::tunnel) return false;
  if (&s == &response) return !target() && !in_doubt && request.mode != Mode::opaque;
  return s.between_messages() && !open.empty() && open.back().may_upgrade;
}

// Bytes between messages that must not be taken for a message of ours.
bool Pairing::unwanted(const Stream& s, Time when) {
  if (!s.between_messages()) return false;
  // While an answer is awaited the client is still sending what was lost track of.
  if (&s == &request) return s.mode == Mode::seeking && !open.empty();
  const auto* awaited = target();
  return !awaited || when + (in_doubt ? 0s : kStampRace) < awaited->exchange.began;
}

void Pairing::hold(Stream& s, Held item) {
  const bool joins = !s.held.empty() && item.kind == Held::Kind::data && s.held.back().kind == item.kind &&
                     s.held.back().when == item.when && s.held.back().data.size() < kMostJoined;
  const std::size_t cost = item.data.size() + (joins ? 0 : kHeldOverhead);
  if (joins) {
    s.held.back().data += item.data;
  } else {
    s.held.push_back(std::move(item));
  }
  count_held(s, cost);
}

void Pairing::hold_rest(Stream& s, Bytes rest, Time when) {
  if (rest.empty()) return;
  s.held.push_front({Held::Kind::data, when, std::string(text_of(rest))});
  count_held(s, rest.size() + kHeldOverhead);
}

void Pairing::count_held(Stream& s, std::size_t bytes) {
  if (s.held_cost.add(bytes, limits.early_response)) return;
  if (&s == &request) return s.close();
  s.drop_kept();
  resync(s);
  doubt_pairing();
}

void Pairing::run_held() {
  for (auto* s : {&request, &response, &request}) run_held(*s);
}

void Pairing::run_held(Stream& s) {
  while (!s.busy && !s.held.empty() && !blocked(s)) {
    const auto item = std::move(s.held.front());
    s.held.pop_front();
    s.held_cost.remove(item.data.size() + kHeldOverhead);
    run(s, item);
  }
}

void Pairing::run(Stream& s, const Held& item) {
  switch (item.kind) {
    case Held::Kind::data:
      return take(s, bytes_of(item.data), item.when);
    case Held::Kind::gap:
      return gap(s, item.gap, item.when);
    case Held::Kind::end:
      return end(s, item.when);
  }
}

void Pairing::feed(Stream& s, Bytes data, Time when) {
  if (!s.held.empty() || blocked(s)) {
    hold(s, {Held::Kind::data, when, std::string(text_of(data))});
  } else {
    take(s, data, when);
  }
}

void Pairing::take(Stream& s, Bytes data, Time when) {
  s.busy = true;
  process(s, data, when);
  s.busy = false;
}

void Pairing::process(Stream& s, Bytes data, Time when) {
  now = when;
  while (!data.empty() || std::exchange(s.paused, false)) {
    if (s.mode == Mode::opaque) {
      s.unparsed += data.size();
      return;
    }
    if (s.mode == Mode::tunnel) return tunnel->feed(side_of(s), data, when);
    if (blocked(s)) return hold_rest(s, data, when);
    if (unwanted(s, when)) {
      s.unparsed += data.size();
      resync(s);
      if (&s == &response) doubt_pairing();
      return;
    }
    if (s.mode == Mode::start) return try_start(s, data, when);
    if (s.mode == Mode::seeking) return seek(s, data, when);
    data = parse(s, data);
    settle();
    // The other side may have waited for just this.
    run_held(&s == &request ? response : request);
    now = when;
  }
}

void Pairing::resync(Stream& s) {
  s.unparsed += s.carry.size() + s.head_bytes;
  s.carry.clear();
  s.head_bytes = 0;
  s.parser.reset();
  if (s.mode != Mode::opaque) s.mode = Mode::seeking;
  if (auto* awaited = &s == &response ? target() : nullptr) awaited->expected = false;
}

void Pairing::try_start(Stream& s, Bytes data, Time when) {
  if (s.carry.empty()) s.began = when;
  s.began_known = true;
  s.carry += text_of(data);
  const auto start = starts_message(s.kind, s.carry, limits.of(side_of(s)).start_line);
  if (start == Start::not_yet) return;
  const auto text = std::exchange(s.carry, {});
  if (start == Start::yes) {
    s.mode = Mode::parsing;
    if (&s == &request) protocol = Protocol::http1;
    return process(s, bytes_of(text), when);
  }
  if (&s == &request) {
    s.unparsed += text.size();
    return become_other();
  }
  resync(s);
  doubt_pairing();
  process(s, bytes_of(text), when);
}

void Pairing::seek(Stream& s, Bytes data, Time when) {
  const auto searched = s.carry.size();
  s.carry += text_of(data);
  const auto start = find_message_start(s.kind, s.carry, searched);
  if (start != std::string::npos) {
    s.unparsed += start;
    const auto text = std::exchange(s.carry, {}).substr(start);
    s.mode = Mode::parsing;
    if (&s == &request) protocol = Protocol::http1;
    return process(s, bytes_of(text), when);
  }
  const auto useless = s.carry.size() - std::min(s.carry.size(), seek_window(s.kind));
  s.unparsed += useless;
  s.carry.erase(0, useless);
  if (protocol == Protocol::undecided && request.unparsed > kUndecidedBytes) become_other();
}

// Reads at most to the end of a message; returns what is left.
Bytes Pairing::parse(Stream& s, Bytes data) {
  if (s.parser.idle()) {
    s.in_head = true;
    if (!std::exchange(s.began_known, false)) s.began = now;
  }
  if (auto* awaited = &s == &response ? target() : nullptr; awaited && !awaited->expected) {
    s.parser.expect_response_to(awaited->exchange.request.method);
    awaited->expected = true;
  }
  const auto used = s.parser.feed(data, handler(s));
  const auto taken = used ? *used : used.error().at;
  s.head_bytes = s.in_head && !s.parser.idle() ? s.head_bytes + taken : 0;
  if (auto* o = current(s)) o->exchange.ended = std::max(o->exchange.ended, now);
  if (!used) {
    refused(s, used.error());
    return data.subspan(taken);
  }
  if (&s == &request && open.size() > limits.pending)
    give_up(kTooManyPending, "too many requests without an answer");
  return data.subspan(*used);
}

void Pairing::refused(Stream& s, const ParseError& error) {
  if (in_doubt && s.in_head) return resync(s);  // it only looked like a message
  const auto type = error_of_refused(side_of(s), error.kind);
  if (&s == &response) {
    auto* answered = target();
    auto head = s.parser.take_refused_response();
    if (answered && head && (head->status >= 200 || head->status == 101))
      answered->exchange.response = std::move(head);
    return give_up(type, error.what);
  }

  auto* refused_request = current(s);
  if (!refused_request) {
    refused_request = &open.emplace_back();
    refused_request->exchange.number = next_number++;
    refused_request->exchange.began = s.began;
    if (auto head = s.parser.take_refused_request()) refused_request->exchange.request = std::move(*head);
  }
  note_error(refused_request->exchange, type, error.what);
  refused_request->exchange.ended = now;
  refused_request->request_done = true;
  s.close();
}

// No further response can be told apart from the one that failed.
void Pairing::give_up(std::string_view error, std::string_view detail) {
  for (auto& o : open) {
    note_error(o.exchange, error, detail);
    o.exchange.ended = std::max(o.exchange.ended, now);
    o.request_done = o.response_done = true;
  }
  request.close();
  response.close();
}

void Pairing::become_other() {
  protocol = Protocol::other;
  request.close();
  response.close();
}

void Pairing::mark_gap(Open& o, Side side, std::uint64_t length) const {
  o.exchange.gap_bytes += length;
  o.exchange.incomplete = "gap";
  (side == Side::request ? o.exchange.request_body : o.exchange.response_body).truncated = true;
  o.watch.lost(side, length, o.exchange);
}

void Pairing::gap(Stream& s, std::uint64_t length, Time when) {
  now = when;
  if (s.mode == Mode::tunnel) return tunnel->gap(side_of(s), length, when);
  if (s.mode == Mode::opaque || (length == 0 && s.mode == Mode::parsing)) return;
  auto* o = current(s);
  if (o && s.mode == Mode::parsing && !s.parser.idle()) {
    auto& body = &s == &request ? o->exchange.request_body : o->exchange.response_body;
    if (s.parser.skip(length, handler(s))) {
      body.size += length;
      mark_gap(*o, side_of(s), length);
      return settle();
    }
  }
  lose_framing(s, length);
  settle();
}

void Pairing::lose_framing(Stream& s, std::uint64_t length) {
  auto* o = current(s);
  const bool answer_lost = &s == &response && o && length > 0;
  if (answer_lost) {
    mark_gap(*o, Side::response, length);
    o->response_done = true;
    o->may_upgrade = false;
  } else if (&s == &request && o) {
    mark_gap(*o, Side::request, length);
    o->request_done = true;
  }
  resync(s);
  doubt_pairing();
  if (!pipelines) return;
  request.close();
  if (&s == &request) return;  // what is waiting will still be answered in order
  response.close();
  for (auto& waiting : open) {
    if (!waiting.response_done) waiting.exchange.incomplete = "gap";
    waiting.request_done = waiting.response_done = true;
  }
}

// From here a response counts only if its request was waiting for it.
void Pairing::doubt_pairing() {
  in_doubt = true;
  doubt_end = next_number;
  if (target() || response.held.empty()) return;
  response.drop_kept();
  resync(response);
}

// The only open exchange was answered 101. What its client still sends is another protocol's only if all of
// the request was seen.
bool Pairing::enter_tunnel() {
  const auto& asked = open.front();
  const bool request_read = request.parser.idle() || (request.paused && !asked.has_content);
  if (request.mode != Mode::parsing || !request_read) return false;
  tunnel = tunnel_for(open.front().exchange, open.front().watch, limits, on_exchange);
  if (!tunnel) return false;
  open.pop_front();
  request.mode = response.mode = Mode::tunnel;
  return true;
}

void Pairing::end(Stream& s, Time when) {
  now = when;
  if (s.mode == Mode::tunnel) return tunnel->end(side_of(s), when);
  if (s.mode == Mode::opaque) return;
  if (s.mode == Mode::parsing && !s.parser.idle()) {
    const bool whole = s.parser.finish(handler(s)).has_value();
    if (auto* o = whole || &s == &response ? nullptr : current(s)) {
      close_early(o->exchange, when);
      o->request_done = true;
    }
  }
  if (&s == &request && protocol == Protocol::undecided && !s.carry.empty()) protocol = Protocol::other;
  s.close();
  settle();
}

void Pairing::finish(Time when) {
  now = when;
  if (tunnel) tunnel->finish(when);
  const bool saw_bytes = request.unparsed > 0 || !request.carry.empty();
  if (protocol == Protocol::undecided && saw_bytes) protocol = Protocol::other;
  request.close();
  response.close();
  for (auto& o : open) {
    if (!o.request_done || !o.response_done) close_early(o.exchange, when);
    o.request_done = o.response_done = true;
  }
  settle();
}

void Pairing::settle() {
  // Nothing more comes from there.
  if (response.mode == Mode::opaque) {
    for (auto& o : open) {
      if (!o.response_done) close_early(o.exchange, now);
      o.response_done = true;
    }
  }
  while (!open.empty() && open.front().request_done && open.front().response_done) give_out();
  if (tunnel) tunnel->settle();
  if (auto* o = target(); o && o->watch.take_due()) on_exchange(o->watch.interim(o->exchange));
}

void Pairing::give_out() {
  std::list<Open> given;
  given.splice(given.begin(), open, open.begin());
  Exchange& done = given.front().exchange;
  if (done.incomplete.empty() && done.number >= doubt_end && open.empty()) in_doubt = false;
  on_exchange(std::move(done));
}

}  // namespace weir::http
