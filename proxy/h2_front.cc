#include "proxy/h2_front.h"

#include <algorithm>
#include <utility>

#include "proxy/h2_rules.h"

namespace weir::proxy {

bool H2Front::receive(std::span<const std::byte> data, Clock::time_point now) {
  const bool received = session_.receive(data, now);
  leave_if_idle();
  return received;
}

void H2Front::produce(std::vector<std::byte>& out, std::size_t most) {
  do {
    session_.produce(out, most);
  } while (reset_broken_off());
  leave_if_idle();
}

H2Front::Entry* H2Front::find(std::int32_t stream) {
  const auto found = transits_.find(stream);
  return found == transits_.end() ? nullptr : &found->second;
}

void H2Front::on_block(std::int32_t stream, HeadBlock block, bool ended, bool too_large) {
  Entry* entry = find(stream);
  if (entry == nullptr) return begin(stream, std::move(block), ended, too_large);
  if (too_large) {
    judge_.malformed();
    return session_.reset(stream, h2_error::kEnhanceYourCalm);
  }
  entry->transit.request.end(std::move(block));
  if (entry->transit.at_back) back_.request_arrived(entry->transit);
}

void H2Front::begin(std::int32_t stream, HeadBlock block, bool ended, bool too_large) {
  if (leaving_) return session_.reset(stream, h2_error::kRefusedStream);
  if (!too_large && !malformation(block).empty()) return session_.reset(stream, h2_error::kProtocol);
  Entry& entry = transits_[stream];
  Transit& transit = entry.transit;
  transit.client_stream = stream;
  transit.method = block.pseudo_value(":method");
  transit.known_length = http::find_field(block.fields, "content-length") != nullptr;
  if (ended) transit.request.end();
  if (too_large) return answer(entry, {431, "the request's header fields are too large"});
  if (const auto refusal = judge_.judge(stream, block)) return answer(entry, *refusal);
  transit.at_back = true;
  back_.start(transit, std::move(block), ended);
}

void H2Front::on_content(std::int32_t stream, std::span<const std::byte> data) {
  Entry* entry = find(stream);
  if (entry == nullptr || !entry->transit.at_back) return session_.consumed(stream, data.size());
  entry->transit.request.append(data);
  entry->transit.pace.received(data.size());
  back_.request_arrived(entry->transit);
}

void H2Front::on_end(std::int32_t stream) {
  Entry* entry = find(stream);
  if (entry == nullptr) return;
  entry->transit.request.end();
  if (entry->transit.at_back) back_.request_arrived(entry->transit);
}

// A response may be over before its request is taken; what is left of that still goes on, if it is not much.
void H2Front::on_closed(std::int32_t stream, std::uint32_t code, bool by_peer) {
  Entry* entry = find(stream);
  const bool broken_off = entry != nullptr && entry->transit.response.broken_off();
  if (code == h2_error::kProtocol && !by_peer && !broken_off) judge_.malformed_stream(stream);
  if (entry == nullptr) return;
  Transit& transit = entry->transit;
  const bool whole = code == h2_error::kNone && transit.request.ended() && transit.response.ended();
  if (whole && transit.at_back && transits_.size() <= std::size_t{2} * limits_.streams) {
    entry->closed = true;
    return;
  }
  if (transit.at_back) back_.cancel(transit, code);
  erase(stream);
}

void H2Front::erase(std::int32_t stream) {
  Entry& entry = *find(stream);
  session_.consumed(stream, entry.transit.request.size());
  if (!entry.own_answer) back_.response_taken(entry.transit, entry.transit.response.size());
  transits_.erase(stream);
}

void H2Front::done(Transit& transit) {
  transit.at_back = false;
  const auto stream = transit.client_stream;
  Entry& entry = *find(stream);
  // Nobody takes what is left of the request.
  const auto left = transit.request.size();
  transit.request.take(left);
  session_.consumed(stream, left);
  if (entry.closed) erase(stream);
}

Content* H2Front::outgoing(std::int32_t stream) {
  Entry* entry = find(stream);
  return entry == nullptr ? nullptr : &entry->transit.response;
}

void H2Front::on_sent(std::int32_t stream, std::size_t size) {
  Entry* entry = find(stream);
  if (entry != nullptr && !entry->own_answer) back_.response_taken(entry->transit, size);
}

void H2Front::interim(Transit& transit, const HeadBlock& head) {
  session_.interim(transit.client_stream, head);
}

void H2Front::response(Transit& transit, const HeadBlock& head, bool ended) {
  transit.answered = true;
  if (ended) transit.response.end();
  session_.respond(transit.client_stream, head, !ended);
}

void H2Front::response_arrived(Transit& transit) {
  if (transit.response.broken_off()) broken_off_.push_back(transit.client_stream);
  session_.resume(transit.client_stream);
}

void H2Front::request_taken(Transit& transit, std::size_t size) {
  session_.consumed(transit.client_stream, size);
}

void H2Front::failed(Transit& transit, std::uint32_t code, const OwnAnswer& own) {
  Entry& entry = *find(transit.client_stream);
  if (!entry.closed && !transit.answered && own.status != 0) {
    judge_.upstream_failed(transit.client_stream, own);
    answer(entry, own);
  } else if (!entry.closed) {
    transit.response.break_off(code);
    response_arrived(transit);
  }
  done(transit);
}

// RFC 9113, section 8.1: who answers before the request's end asks for no more of it.
void H2Front::answer(Entry& entry, const OwnAnswer& own) {
  Transit& transit = entry.transit;
  const std::string body = "weir: " + own.text + "\n";
  HeadBlock head;
  head.pseudo.push_back({":status", std::to_string(own.status)});
  head.fields.push_back({"content-type", "text/plain; charset=utf-8"});
  head.fields.push_back({"content-length", std::to_string(body.size())});
  const bool empty = transit.method == "HEAD";
  entry.own_answer = true;
  response(transit, head, empty);
  if (!empty) {
    transit.response.append(std::as_bytes(std::span(body)));
    transit.response.end();
  }
  if (!transit.request.ended()) transit.response.break_off(h2_error::kNone);
  response_arrived(transit);
}

// True when there is something new to be sent.
bool H2Front::reset_broken_off() {
  bool any = false;
  std::erase_if(broken_off_, [&](std::int32_t stream) {
    Entry* entry = find(stream);
    if (entry == nullptr || entry->closed) return true;
    const Content& response = entry->transit.response;
    const bool sent = response.empty() && (!response.ended() || session_.ended_sending(stream));
    if (sent) session_.reset(stream, *response.broken_off());
    any = any || sent;
    return sent;
  });
  return any;
}

void H2Front::upstream_leaves(std::uint32_t code, std::string_view why) {
  if (std::exchange(leaving_, true)) return;
  if (code == h2_error::kNone) return session_.announce_end();
  left_ = true;
  session_.refuse_streams(code, why);
}

std::size_t H2Front::end_slow_requests(Clock::time_point now) {
  std::size_t ended = 0;
  for (auto& [stream, entry] : transits_) {
    Transit& transit = entry.transit;
    if (!transit.known_length || transit.request.ended() || !transit.at_back) continue;
    if (!transit.pace.is_slow(pace_, transit.request.empty(), now)) continue;
    session_.reset(stream, h2_error::kCancel);
    ++ended;
  }
  return ended;
}

void H2Front::leave() {
  upstream_leaves(h2_error::kNone, {});
  leave_if_idle();
}

void H2Front::leave_if_idle() {
  if (leaving_ && transits_.empty() && !std::exchange(left_, true))
    session_.refuse_streams(h2_error::kNone, {});
}

}  // namespace weir::proxy
