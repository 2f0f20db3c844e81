// The builder's door, and what the two parsers tell it. Must never touch the other stream's parser from
// inside a parser's call, nor give out an exchange there.
#include "http/exchange.h"

#include <algorithm>
#include <utility>

#include "http/pairing.h"

namespace weir::http {
namespace {

constexpr std::size_t kMaxInterim = 16;

bool asks_for_upgrade(const RequestHead& head) {
  return head.method == "CONNECT" ||
         (find_field(head.fields, "Upgrade") && lists_token(head.fields, "Connection", "upgrade"));
}

}  // namespace

Next Pairing::RequestHandler::on_request_head(RequestHead head, BodyFraming framing) {
  auto& s = state;
  s.request.end_head();
  const bool unanswered = !s.open.empty() && !s.open.back().response_done;
  if (unanswered && s.in_doubt && !s.open.back().response_begun) {
    // The client went on, so the answer has passed unseen.
    s.open.back().exchange.incomplete = "gap";
    s.open.back().response_done = true;
    s.resync(s.response);
  } else if (unanswered) {
    s.pipelines = true;
  }
  auto& added = s.open.emplace_back();
  added.may_upgrade = asks_for_upgrade(head);
  added.has_content = framing.framing == Framing::chunked || framing.content_length > 0;
  added.exchange.number = s.next_number++;
  added.exchange.request = std::move(head);
  added.exchange.began = s.request.began;
  added.exchange.ended = s.now;
  added.watch.heads(added.exchange);
  s.request.paused = !s.response.held.empty();
  return s.request.paused ? Next::pause : Next::proceed;
}

void Pairing::RequestHandler::on_body(Bytes data) {
  state.store(state.open.back(), Side::request, data);
}

void Pairing::RequestHandler::on_trailers(Fields trailers) {
  state.open.back().exchange.request_trailers = std::move(trailers);
}

void Pairing::RequestHandler::on_message_complete() {
  auto& done = state.open.back();
  done.request_done = true;
  done.exchange.ended = std::max(done.exchange.ended, state.now);
}

Next Pairing::ResponseHandler::on_response_head(ResponseHead head, BodyFraming) {
  auto& s = state;
  s.response.end_head();
  auto& answered = s.open.front();
  if (head.status < 200 && head.status != 101) {
    auto& interim = answered.exchange.interim_responses;
    if (interim.size() < kMaxInterim) interim.push_back(std::move(head));
    return Next::proceed;
  }
  answered.response_begun = true;
  answered.exchange.response = std::move(head);
  answered.exchange.ended = std::max(answered.exchange.ended, s.now);
  answered.watch.heads(answered.exchange);
  return Next::proceed;
}

void Pairing::ResponseHandler::on_body(Bytes data) {
  state.store(state.open.front(), Side::response, data);
}

void Pairing::ResponseHandler::on_trailers(Fields trailers) {
  state.open.front().exchange.response_trailers = std::move(trailers);
}

void Pairing::ResponseHandler::on_message_complete() {
  auto& done = state.open.front();
  done.exchange.ended = std::max(done.exchange.ended, state.now);
  if (!done.response_begun) return;  // an interim one
  done.response_done = true;
  const bool asked = std::exchange(done.may_upgrade, false);
  if (!state.response.parser.upgraded()) return;
  done.exchange.upgraded = true;
  done.request_done = true;
  if (asked && state.enter_tunnel()) return;
  done.exchange.websocket.reset();  // nobody follows it
  state.request.close();
  state.response.close();
}

std::string_view error_of_refused(Side side, ParseError::Kind kind) {
  const bool request = side == Side::request;
  switch (kind) {
    case ParseError::Kind::malformed:
      return request ? "malformed_request" : "malformed_response";
    case ParseError::Kind::too_large:
      return request ? "oversized_request" : "oversized_response";
    case ParseError::Kind::unsupported:
      break;
  }
  return request ? "unsupported_request" : "unsupported_response";
}

void note_error(Exchange& exchange, std::string_view error, std::string_view detail) {
  if (!exchange.protocol_error.empty()) return;
  exchange.protocol_error = error;
  exchange.protocol_error_detail = detail;
}

void Pairing::store(Open& o, Side side, Bytes data) const {
  auto& exchange = o.exchange;
  add_content(side == Side::request ? exchange.request_body : exchange.response_body, data, limits);
  o.watch.content(side, data, exchange, now);
}

std::size_t add_content(Body& body, Bytes content, const ExchangeLimits& limits, std::size_t room) {
  body.size += content.size();
  if (!limits.capture_bodies) return 0;
  const auto kept = content.first(std::min({content.size(), limits.body_bytes - body.data.size(), room}));
  body.data.insert(body.data.end(), kept.begin(), kept.end());
  body.truncated = body.truncated || kept.size() < content.size();
  return kept.size();
}

struct H1ExchangeBuilder::State : Pairing {
  using Pairing::Pairing;
};

H1ExchangeBuilder::H1ExchangeBuilder(ExchangeLimits limits, OnExchange on_exchange)
    : state_(std::make_unique<State>(limits, std::move(on_exchange))) {}
H1ExchangeBuilder::~H1ExchangeBuilder() = default;

void H1ExchangeBuilder::feed(Side side, Bytes data, Time when) {
  if (data.empty()) return;  // nothing has happened
  state_->feed(state_->stream(side), data, when);
  state_->run_held();
}

void H1ExchangeBuilder::gap(Side side, std::uint64_t length, Time when) {
  auto& s = state_->stream(side);
  if (!s.held.empty() || state_->blocked(s)) {
    state_->hold(s, {Held::Kind::gap, when, {}, length});
  } else {
    state_->gap(s, length, when);
  }
  state_->run_held();
}

void H1ExchangeBuilder::end(Side side, Time when) {
  auto& s = state_->stream(side);
  if (!s.held.empty()) {
    state_->hold(s, {Held::Kind::end, when, {}});
  } else {
    state_->end(s, when);
  }
  state_->run_held();
}

void H1ExchangeBuilder::finish(Time when) {
  state_->finish(when);
}

Protocol H1ExchangeBuilder::protocol() const {
  return state_->tunnel ? state_->tunnel->protocol() : state_->protocol;
}

std::uint64_t H1ExchangeBuilder::unparsed_bytes(Side side) const {
  return state_->stream(side).unparsed + (state_->tunnel ? state_->tunnel->unparsed_bytes(side) : 0);
}

std::optional<Time> H1ExchangeBuilder::give_held_back(Time now) {
  if (state_->tunnel) return state_->tunnel->give_held_back(now);
  Open* const open = state_->target();
  if (open == nullptr) return std::nullopt;
  const auto next = open->watch.give_held_back(now);
  state_->settle();
  return next;
}

bool H1ExchangeBuilder::idle() const {
  const auto quiet = [](const Stream& s) {
    return s.between_messages() && s.held.empty() && s.carry.empty();
  };
  const bool tunnel_quiet = !state_->tunnel || state_->tunnel->idle();
  return state_->open.empty() && quiet(state_->request) && quiet(state_->response) && tunnel_quiet;
}

}  // namespace weir::http
