// Each event finds its stream, changes it, and ends with settle() or give_up(), after which the stream may be
// gone.
#include "http/h2_streams.h"

#include <algorithm>
#include <utility>
#include <vector>

namespace weir::http {
namespace {

constexpr std::size_t kMaxInterim = 16;
// Largest bodies that the open exchanges may hold together.
constexpr std::size_t kHeldBodies = 4;

void mark(Exchange& exchange, std::string_view incomplete) {
  if (exchange.incomplete.empty()) exchange.incomplete = incomplete;
}

// When an exchange ended whose end was lost doesn't show here.
void close_early(Exchange& exchange, Time when) {
  mark(exchange, "closed_early");
  if (exchange.incomplete != "gap") exchange.ended = std::max(exchange.ended, when);
}

void note_refused(Exchange& exchange, Side side, const HeaderBlock& block, std::string_view error) {
  if (error.empty()) return;
  const auto kind = block.too_large ? ParseError::Kind::too_large : ParseError::Kind::malformed;
  note_error(exchange, error_of_refused(side, kind), error);
}

// Its sender, or who reads it, may leave before the empty frame that ends it.
bool has_all_content(const Fields& fields, const Body& body) {
  const auto* length = find_field(fields, "content-length");
  return length && length->value == std::to_string(body.size);
}

bool is_interim(std::uint16_t status) {
  return status >= 100 && status < 200;
}

bool is_final_success(const std::optional<ResponseHead>& response) {
  return response && response->status >= 200 && response->status < 300;
}

}  // namespace

H2Streams::Stream* H2Streams::find(std::uint32_t id) {
  const auto at = streams_.find(id);
  return at == streams_.end() ? nullptr : &at->second;
}

// Clients open streams in the order of their numbers (RFC 9113, section 5.1.1).
bool H2Streams::may_be_early(std::uint32_t id) const {
  return id % 2 == 1 && id > highest_request_;
}

H2Streams::Stream& H2Streams::open_early(std::uint32_t id) {
  auto& stream = streams_[id];
  stream.early = true;
  ++early_;
  return stream;
}

H2Streams::Stream& H2Streams::open(std::uint32_t id, Head& head) {
  auto& stream = streams_[id];
  if (std::exchange(stream.early, false)) {
    --early_;
    early_cost_.remove(stream.early_cost);
  }
  auto& exchange = stream.exchange;
  exchange.number = next_number_++;
  exchange.stream_id = id;
  exchange.began = head.began;
  if (head.block.unknown > 0) mark(exchange, head.loss);
  note_refused(exchange, Side::request, head.block, request_error(head.block));
  exchange.request = http::request_head(std::move(head.block));
  exchange.ended = std::max(exchange.ended, head.began);
  note_heads(stream);
  return stream;
}

void H2Streams::note_heads(Stream& stream) {
  auto& exchange = stream.exchange;
  exchange.upgraded = exchange.request.method == "CONNECT" && is_final_success(exchange.response);
  stream.watch.heads(exchange);
}

void H2Streams::give_interim(Stream& stream) {
  if (!stream.early && stream.watch.take_due()) on_exchange_(stream.watch.interim(stream.exchange));
  const auto next = stream.watch.give_held_back(Time::min());
  if (next && (!next_held_back_ || *next < *next_held_back_)) next_held_back_ = next;
}

std::optional<Time> H2Streams::give_held_back(Time now) {
  if (!next_held_back_ || now < *next_held_back_) return next_held_back_;
  next_held_back_.reset();
  for (auto& [id, stream] : streams_) {
    stream.watch.give_held_back(now);
    give_interim(stream);
  }
  return next_held_back_;
}

void H2Streams::adopt(Exchange upgraded) {
  auto& stream = streams_[1];
  highest_request_ = 1;
  next_number_ = upgraded.number + 1;
  captured_ = upgraded.request_body.data.size();
  stream.exchange = std::move(upgraded);
  stream.exchange.stream_id = 1;
  stream.request_done = true;
}

bool H2Streams::head(Side side, std::uint32_t id, Head head, std::uint64_t wire, Time now) {
  const bool taken = side == Side::request ? request_head(id, head, now) : response_head(id, head, wire, now);
  if (taken && head.last) end_side(side, id);
  if (auto* stream = find(id)) give_interim(*stream);
  return taken;
}

bool H2Streams::request_head(std::uint32_t id, Head& head, Time now) {
  auto* stream = find(id);
  if (stream && !stream->early) {
    if (stream->request_done) return false;
    if (head.block.unknown > 0) mark(stream->exchange, head.loss);
    note_refused(stream->exchange, Side::request, head.block, head.block.error);
    stream->exchange.request_trailers = std::move(head.block.fields);
  } else {
    const bool of_older_stream = !head.loss.empty() && !head.block.pseudo && head.block.unknown == 0;
    if (id <= highest_request_ || of_older_stream) return false;
    drop_early_below(id);
    highest_request_ = id;
    stream = &open(id, head);
  }
  stream->exchange.ended = std::max(stream->exchange.ended, now);
  if (stream->reset || id > last_taken_up_[index(Side::response)]) give_up(id, now);
  hold_limit(now);
  return true;
}

bool H2Streams::response_head(std::uint32_t id, Head& head, std::uint64_t wire, Time now) {
  auto* stream = find(id);
  const bool begins = head.block.pseudo || head.block.unknown > 0;
  if (!stream && begins && may_be_early(id)) stream = &open_early(id);
  if (!stream || stream->response_done) return false;
  stream->exchange.ended = std::max(stream->exchange.ended, now);
  const auto size = head.block.size;
  if (head.block.unknown > 0) mark(stream->exchange, head.loss);
  take_response(*stream, head);
  if (stream->early) {
    stream->early_wire += wire;
    add_early_cost(id, *stream, size);
  }
  hold_limit(now);
  return true;
}

// The final response's head, an interim one, or trailers. Of a response whose status is unknown, what comes
// next tells which it was.
void H2Streams::take_response(Stream& stream, Head& head) {
  auto& exchange = stream.exchange;
  auto& block = head.block;
  const bool begins = block.pseudo || block.unknown > 0;
  const bool was_interim = stream.response_begun && exchange.response->status == 0 &&
                           exchange.response_body.size == 0 && (!block.status.empty() || !head.last);
  const bool head_was_lost = stream.response_doubt && !begins;
  if ((stream.response_begun && !was_interim) || head_was_lost) {
    note_refused(exchange, Side::response, block, block.error);
    exchange.response_trailers = std::move(block.fields);
    return;
  }
  auto& interim = exchange.interim_responses;
  const auto add_interim = [&](ResponseHead one) {
    if (interim.size() < kMaxInterim) interim.push_back(std::move(one));
  };
  note_refused(exchange, Side::response, block, response_error(block));
  auto response = http::response_head(std::move(block));
  stream.response_doubt = false;
  if (was_interim) add_interim(*std::exchange(exchange.response, std::nullopt));
  stream.response_begun = !is_interim(response.status);
  if (stream.response_begun) {
    exchange.response = std::move(response);
    note_heads(stream);
  } else {
    add_interim(std::move(response));
  }
}

bool H2Streams::promise(std::uint32_t id, Head head, Time now) {
  if (id <= highest_promise_) return false;
  highest_promise_ = id;
  auto& stream = open(id, head);
  stream.exchange.ended = now;
  stream.request_done = true;
  if (id > last_taken_up_[index(Side::request)]) give_up(id, now);
  hold_limit(now);
  return true;
}

bool H2Streams::takes_data(Side side, std::uint32_t id) const {
  const auto at = streams_.find(id);
  if (at == streams_.end()) return false;
  const auto& stream = at->second;
  const bool websocket = stream.watch.is_websocket();
  const bool connect = stream.exchange.request.method == "CONNECT" && !websocket;
  if (side == Side::request) return !stream.early && !stream.request_done && !connect;
  return !stream.response_done && (websocket || !stream.exchange.upgraded);
}

void H2Streams::data(Side side, std::uint32_t id, Bytes content, Time now) {
  if (!takes_data(side, id)) return;
  auto& stream = *find(id);
  auto& exchange = stream.exchange;
  exchange.ended = std::max(exchange.ended, now);
  auto& body = side == Side::request ? exchange.request_body : exchange.response_body;
  std::size_t kept = 0;
  if (!stream.watch.is_websocket())
    kept = add_content(body, content, limits_, kHeldBodies * limits_.body_bytes - captured_);
  captured_ += kept;
  stream.watch.content(side, content, exchange, now);
  give_interim(stream);
  if (stream.early) add_early_cost(id, stream, kept);
}

void H2Streams::missing_data(Side side, std::uint32_t id, std::uint64_t length) {
  if (length == 0 || !takes_data(side, id)) return;
  auto& stream = *find(id);
  auto& exchange = stream.exchange;
  stream.watch.lost(side, length, exchange);
  exchange.gap_bytes += length;
  auto& body = side == Side::request ? exchange.request_body : exchange.response_body;
  if (!stream.watch.is_websocket()) {
    body.size += length;
    body.truncated = true;
  }
  mark(exchange, "gap");
}

bool H2Streams::data_ended(Side side, std::uint32_t id, std::uint64_t wire, bool last, Time now) {
  const bool taken = takes_data(side, id);
  auto* stream = find(id);
  if (!stream || (side == Side::request && stream->early)) return false;
  stream->exchange.ended = std::max(stream->exchange.ended, now);
  if (stream->early && taken) stream->early_wire += wire;
  if (last) end_side(side, id);
  return taken;
}

void H2Streams::end_side(Side side, std::uint32_t id) {
  auto* stream = find(id);
  if (!stream) return;
  (side == Side::request ? stream->request_done : stream->response_done) = true;
  settle(id);
}

void H2Streams::reset(Side side, std::uint32_t id, bool no_error, Time now) {
  auto* stream = find(id);
  if (!stream && side == Side::response && may_be_early(id)) stream = &open_early(id);
  if (!stream) return;
  stream->exchange.ended = std::max(stream->exchange.ended, now);
  if (no_error && side == Side::response && stream->response_done) {
    // The server needs no more of the request (RFC 9113, section 8.1).
    stream->request_done = true;
    settle(id);
  } else if (stream->early) {
    stream->reset = true;
    hold_limit(now);
  } else {
    give_up(id, now);
  }
}

void H2Streams::goaway(Side side, std::uint32_t last, Time now) {
  auto& limit = last_taken_up_[index(side)];
  limit = std::min(limit, last);
  const std::uint32_t parity = side == Side::response ? 1 : 0;
  for (const auto id : ids()) {
    if (id % 2 == parity && id > limit) give_up(id, now);
  }
}

void H2Streams::lost(Side side) {
  for (const auto id : ids()) {
    auto& stream = *find(id);
    if (side == Side::request && !stream.early && !stream.request_done) {
      mark(stream.exchange, "gap");
      stream.request_doubt = true;
    } else if (side == Side::response && !stream.response_done) {
      if (stream.response_begun) mark(stream.exchange, "gap");
      stream.response_doubt = !stream.response_begun;
    }
    settle(id);
  }
}

void H2Streams::ended(Side side, Time now) {
  if (side == Side::response) return finish(now);
  drop_early_below(UINT32_MAX);
  for (const auto id : ids()) {
    auto& stream = *find(id);
    if (!request_whole(stream)) close_early(stream.exchange, now);
    stream.request_done = true;
    settle(id);
  }
}

void H2Streams::finish(Time now) {
  for (const auto id : ids()) give_up(id, now);
}

void H2Streams::fail(std::string_view error, Time now) {
  for (const auto id : ids()) {
    auto& exchange = find(id)->exchange;
    note_error(exchange, kMalformedHttp2, error);
    exchange.ended = std::max(exchange.ended, now);
    give_out(id);
  }
}

std::vector<std::uint32_t> H2Streams::ids() const {
  std::vector<std::uint32_t> all;
  all.reserve(streams_.size());
  for (const auto& [id, stream] : streams_) all.push_back(id);
  return all;
}

bool H2Streams::request_whole(const Stream& stream) {
  const auto& exchange = stream.exchange;
  return stream.request_done || has_all_content(exchange.request.fields, exchange.request_body);
}

bool H2Streams::response_whole(const Stream& stream) {
  const auto& exchange = stream.exchange;
  return stream.response_done ||
         (exchange.response && has_all_content(exchange.response->fields, exchange.response_body));
}

void H2Streams::settle(std::uint32_t id) {
  const auto& stream = *find(id);
  const bool request_over = stream.request_done || stream.request_doubt;
  if (!stream.early && request_over && stream.response_done) give_out(id);
}

void H2Streams::give_up(std::uint32_t id, Time now) {
  auto& stream = *find(id);
  if (stream.response_doubt) mark(stream.exchange, "gap");
  if (!request_whole(stream) || !response_whole(stream)) close_early(stream.exchange, now);
  give_out(id);
}

void H2Streams::give_out(std::uint32_t id) {
  auto taken = streams_.extract(id);
  auto& stream = taken.mapped();
  auto& exchange = stream.exchange;
  captured_ -= exchange.request_body.data.size() + exchange.response_body.data.size();
  if (stream.early) {
    --early_;
    early_cost_.remove(stream.early_cost);
    dropped_bytes_ += stream.early_wire;
    return;
  }
  if (stream.response_doubt) mark(exchange, "gap");
  on_exchange_(std::move(exchange));
}

// Their requests can't come any more.
void H2Streams::drop_early_below(std::uint32_t id) {
  if (early_ == 0) return;
  for (const auto one : ids()) {
    if (one < id && find(one)->early) give_out(one);
  }
}

void H2Streams::add_early_cost(std::uint32_t id, Stream& stream, std::size_t bytes) {
  stream.early_cost += bytes;
  if (!early_cost_.add(bytes, limits_.early_response)) give_out(id);
}

void H2Streams::hold_limit(Time now) {
  while (streams_.size() > limits_.pending) {
    note_error(streams_.begin()->second.exchange, kTooManyPending, "too many open streams");
    give_up(streams_.begin()->first, now);
  }
}

}  // namespace weir::http
