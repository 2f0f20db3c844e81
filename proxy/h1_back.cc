#include "proxy/h1_back.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <utility>

#include "proxy/forwarding.h"
#include "proxy/h2_rules.h"

namespace weir::proxy {
namespace {

void append_text(std::vector<std::byte>& out, std::string_view text) {
  const auto bytes = std::as_bytes(std::span(text));
  out.insert(out.end(), bytes.begin(), bytes.end());
}

// What nghttp2, which most clients read HTTP/2 with, takes of one field's value; a longer one ends its
// connection.
constexpr std::size_t kLongestValue = 60 * 1024;

bool fits_http2(const HeadBlock& block) {
  return std::ranges::all_of(block.fields,
                             [](const http::Field& field) { return field.value.size() <= kLongestValue; });
}

}  // namespace

void H1Leg::start(Transit& transit, const HeadBlock& block, bool ended) {
  const auto head = to_http1_request(block, ended);
  transit_ = &transit;
  head_ = http::serialize(head);
  head_sent_ = answered_ = final_ = complete_ = keep_alive_ = false;
  request_over_ = ended;
  chunked_ = http::find_field(head.fields, "transfer-encoding") != nullptr;
  repeatable_ = ended && is_idempotent(head.method);
  trailers_.clear();
  parser_.expect_response_to(head.method, false);
}

void H1Leg::produce(std::vector<std::byte>& out, std::size_t most) {
  if (transit_ == nullptr) return;
  if (!std::exchange(head_sent_, true)) append_text(out, head_);
  if (!request_over_) take_content(out, most);
}

void H1Leg::take_content(std::vector<std::byte>& out, std::size_t most) {
  Content& content = transit_->request;
  const std::size_t size = std::min(content.size(), most);
  if (size > 0) {
    std::array<char, 20> text;
    const auto [end, error] = std::to_chars(text.data(), text.data() + text.size(), size, 16);
    if (chunked_) append_text(out, {text.data(), end});
    if (chunked_) append_text(out, "\r\n");
    const auto data = content.front().first(size);
    out.insert(out.end(), data.begin(), data.end());
    if (chunked_) append_text(out, "\r\n");
    content.take(size);
    back_.front_->request_taken(*transit_, size);
  }
  if (!content.ended() || !content.empty()) return;
  request_over_ = true;
  if (!chunked_) return;
  append_text(out, "0\r\n");
  for (const auto& field : to_http1_trailers(content.trailers()))
    append_text(out, field.name + ": " + field.value + "\r\n");
  append_text(out, "\r\n");
}

bool H1Leg::receive(std::span<const std::byte> data) {
  if (transit_ == nullptr) return usable_ = false;  // an answer that nobody asked for
  while (!data.empty() && !complete_) {
    const auto taken = parser_.feed(data, *this);
    if (!taken) {
      fail(h2_error::kInternal, upstream_refused(back_.name_, taken.error()));
      return false;
    }
    data = data.subspan(*taken);
    if (transit_ == nullptr) return false;
  }
  if (!data.empty()) keep_alive_ = false;
  settle();
  return usable_;
}

void H1Leg::ended(bool orderly, const OwnAnswer& answer) {
  usable_ = false;
  if (transit_ == nullptr) return;
  if (reused_ && repeatable_ && !answered_) return;  // begin_again()
  if (orderly && final_ && parser_.finish(*this)) settle();
  if (transit_ != nullptr) fail(h2_error::kInternal, answer);
}

bool H1Leg::begin_again() {
  if (transit_ == nullptr) return false;
  parser_.reset();
  parser_.expect_response_to(transit_->method, false);
  reused_ = head_sent_ = false;
  return usable_ = true;
}

bool H1Leg::wants_input() const {
  if (transit_ == nullptr) return true;
  return transit_->response.size() < back_.limits_.stream_window &&
         back_.waiting_ < back_.limits_.connection_window;
}

http::Next H1Leg::on_response_head(http::ResponseHead head, http::BodyFraming framing) {
  answered_ = true;
  const auto block = to_http2_response(head);
  if (!fits_http2(block)) {
    fail(h2_error::kInternal, upstream_oversized(back_.name_));
    return http::Next::pause;
  }
  if (head.status < 200) {
    if (++transit_->interims > kMostInterims) {
      fail(h2_error::kEnhanceYourCalm, upstream_malformed(back_.name_, "no end of interim responses"));
      return http::Next::pause;
    }
    back_.front_->interim(*transit_, block);
    return http::Next::proceed;
  }
  final_ = true;
  keep_alive_ = allows_keep_alive(head, framing);
  const bool empty = framing.framing == http::Framing::none ||
                     (framing.framing == http::Framing::content_length && framing.content_length == 0);
  back_.front_->response(*transit_, block, empty);
  return http::Next::proceed;
}

void H1Leg::on_body(std::span<const std::byte> data) {
  transit_->response.append(data);
  back_.waiting_ += data.size();
  back_.front_->response_arrived(*transit_);
}

void H1Leg::on_trailers(http::Fields trailers) {
  trailers_ = std::move(trailers);
}

void H1Leg::on_message_complete() {
  if (!final_) return;
  complete_ = true;
  if (transit_->response.ended()) return;
  transit_->response.end(to_http2_trailers(trailers_));
  back_.front_->response_arrived(*transit_);
}

// After the response's end: the leg is free for another exchange, or of no more use.
void H1Leg::settle() {
  if (transit_ == nullptr || !complete_) return;
  Transit& transit = *std::exchange(transit_, nullptr);
  if (!request_over_) {
    transit.response.break_off(h2_error::kNone);
    back_.front_->response_arrived(transit);
  }
  usable_ = usable_ && keep_alive_ && request_over_;
  reused_ = true;
  back_.front_->done(transit);
}

void H1Leg::fail(std::uint32_t code, const OwnAnswer& answer) {
  usable_ = false;
  if (Transit* transit = std::exchange(transit_, nullptr)) back_.front_->failed(*transit, code, answer);
}

H1Leg* H1Back::leg_of(const Transit& transit) {
  const auto found = std::ranges::find_if(legs_, [&](const H1Leg& leg) { return leg.transit_ == &transit; });
  return found == legs_.end() ? nullptr : &*found;
}

void H1Back::remove(H1Leg& leg) {
  leg.fail(h2_error::kInternal, upstream_closed(name_));
  legs_.remove_if([&](const H1Leg& one) { return &one == &leg; });
}

void H1Back::start(Transit& transit, HeadBlock head, bool ended) {
  for (auto& leg : legs_) {
    if (!leg.idle() || !reusable_(leg)) continue;
    leg.start(transit, head, ended);
    return leg.changed();
  }
  H1Leg& leg = legs_.emplace_back(*this);
  leg.start(transit, head, ended);
  open_leg_(leg);
}

void H1Back::request_arrived(Transit& transit) {
  if (H1Leg* leg = leg_of(transit)) leg->changed();
}

void H1Back::response_taken(Transit&, std::size_t size) {
  const bool was_full = waiting_ >= limits_.connection_window;
  waiting_ -= size;
  for (auto& leg : legs_)
    if (was_full || leg.transit_ != nullptr) leg.changed();
}

void H1Back::cancel(Transit& transit, std::uint32_t) {
  H1Leg* leg = leg_of(transit);
  if (leg == nullptr) return;
  leg->transit_ = nullptr;
  leg->usable_ = false;
  leg->changed();
}

}  // namespace weir::proxy
