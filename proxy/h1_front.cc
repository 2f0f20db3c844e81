#include "proxy/h1_front.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <utility>

#include "proxy/forwarding.h"
#include "proxy/h2_rules.h"

namespace weir::proxy {
namespace {

// Of requests that wait for the one before.
constexpr std::size_t kPipelined = 16 * 1024;

void append_bytes(std::vector<std::byte>& out, std::string_view text) {
  const auto bytes = std::as_bytes(std::span(text));
  out.insert(out.end(), bytes.begin(), bytes.end());
}

bool has_no_content(std::string_view method, int status) {
  return method == "HEAD" || status == 204 || status == 304;
}

}  // namespace

bool H1Front::receive(std::span<const std::byte> data, Clock::time_point) {
  input_.insert(input_.end(), data.begin(), data.end());
  go_on();
  return !broke_off_;
}

bool H1Front::wants_input() const {
  return input_.size() < kPipelined && (!transit_ || transit_->request.size() < limits_.stream_window);
}

void H1Front::leave() {
  closing_ = true;
}

std::size_t H1Front::end_slow_requests(Clock::time_point now) {
  if (!transit_ || !transit_->known_length || transit_->request.ended()) return 0;
  if (!transit_->pace.is_slow(pace_, transit_->request.empty(), now)) return 0;
  give_up();
  return 1;
}

// Parses what is there up to the end of a request, which the next one has to wait for.
void H1Front::go_on() {
  while (!input_.empty() && !broke_off_ && !(transit_ ? transit_->request.ended() : closing_)) {
    const auto taken = parser_.feed(input_, *this);
    if (!taken) {
      judge_.malformed();
      input_.clear();
      if (transit_ && transit_->answered) return give_up();
      const int status = taken.error().kind == http::ParseError::Kind::too_large     ? 431
                         : taken.error().kind == http::ParseError::Kind::unsupported ? 501
                                                                                     : 400;
      return answer({status, "malformed request: " + taken.error().what});
    }
    input_.erase(input_.begin(), input_.begin() + static_cast<std::ptrdiff_t>(*taken));
    if (head_) begin();
  }
}

http::Next H1Front::on_request_head(http::RequestHead head, http::BodyFraming framing) {
  head_ = std::move(head);
  known_length_ = framing.framing == http::Framing::content_length;
  empty_ = framing.framing == http::Framing::none ||
           (framing.framing == http::Framing::content_length && framing.content_length == 0);
  return http::Next::pause;
}

void H1Front::begin() {
  const auto head = *std::exchange(head_, std::nullopt);
  keeps_alive_ = wants_keep_alive(head, false);
  speaks_1_1_ = head.version.major == 1 && head.version.minor >= 1;
  over_ = chunked_ = false;
  trailers_.clear();
  Transit& transit = transit_.emplace();
  transit.client_stream = ++requests_;
  transit.method = head.method;
  transit.known_length = known_length_;
  auto block = head.method == "CONNECT" ? std::nullopt : to_http2_request(head);
  if (!block) {
    judge_.malformed();
    return answer({400, "the request can't be passed on"});
  }
  if (const auto refusal = judge_.judge(transit.client_stream, *block)) return answer(*refusal);
  if (empty_) transit.request.end();
  transit.at_back = true;
  back_.start(transit, std::move(*block), empty_);
}

void H1Front::on_body(std::span<const std::byte> data) {
  if (!transit_ || !transit_->at_back) return;
  transit_->request.append(data);
  transit_->pace.received(data.size());
  back_.request_arrived(*transit_);
}

void H1Front::on_message_complete() {
  if (!transit_ || transit_->request.ended()) return;
  transit_->request.end(to_http2_trailers(trailers_));
  if (transit_->at_back) back_.request_arrived(*transit_);
}

void H1Front::interim(Transit&, const HeadBlock& head) {
  if (speaks_1_1_) out_ += http::serialize(to_http1_response(head));
}

void H1Front::response(Transit& transit, const HeadBlock& block, bool ended) {
  transit.answered = true;
  auto head = to_http1_response(block);
  const bool with_length = http::find_field(head.fields, "content-length") != nullptr;
  const bool no_content = has_no_content(transit.method, head.status);
  if (ended) transit.response.end();
  if (ended && !with_length && !no_content) head.fields.push_back({"content-length", "0"});
  chunked_ = !ended && !with_length && !no_content && speaks_1_1_;
  if (chunked_) head.fields.push_back({"transfer-encoding", "chunked"});
  // Without a length and without chunks the connection's end is the content's.
  if (!ended && !with_length && !no_content && !speaks_1_1_) keeps_alive_ = false;
  if (!keeps_alive_ || closing_) head.fields.push_back({"connection", "close"});
  out_ += http::serialize(head);
}

void H1Front::failed(Transit& transit, std::uint32_t code, const OwnAnswer& own) {
  transit.at_back = false;
  if (transit.answered) return transit.response.break_off(code);
  const OwnAnswer reset{502, "the upstream reset the request", "upstream_reset"};
  const OwnAnswer& given = own.status != 0 ? own : reset;
  judge_.upstream_failed(transit.client_stream, given);
  answer(given);
}

// The connection closes after it; nothing of the client is read any more.
void H1Front::answer(const OwnAnswer& own) {
  out_ += own_response(own.status, own.text, transit_ && transit_->method == "HEAD");
  closing_ = true;
  if (!transit_) return;
  if (std::exchange(transit_->at_back, false)) back_.cancel(*transit_, h2_error::kCancel);
  transit_->request.end();
  over_ = true;
  settle();
}

void H1Front::give_up() {
  broke_off_ = closing_ = true;
  out_.clear();
  if (transit_ && std::exchange(transit_->at_back, false)) back_.cancel(*transit_, h2_error::kCancel);
  over_ = true;
  settle();
}

void H1Front::produce(std::vector<std::byte>& out, std::size_t most) {
  append_bytes(out, std::exchange(out_, {}));
  if (!transit_ || !transit_->answered || over_) return;
  take_content(out, most);
  const Content& response = transit_->response;
  if (!response.empty()) return;
  if (response.ended()) {
    over_ = true;
    if (chunked_) append_bytes(out, "0\r\n");
    for (const auto& field : to_http1_trailers(response.trailers()))
      if (chunked_) append_bytes(out, field.name + ": " + field.value + "\r\n");
    if (chunked_) append_bytes(out, "\r\n");
    settle();
  } else if (response.broken_off()) {
    give_up();
  }
}

void H1Front::take_content(std::vector<std::byte>& out, std::size_t most) {
  Content& content = transit_->response;
  const std::size_t size = std::min(content.size(), most);
  if (size == 0) return;
  std::array<char, 20> text;
  const auto [end, error] = std::to_chars(text.data(), text.data() + text.size(), size, 16);
  if (chunked_) append_bytes(out, {text.data(), end});
  if (chunked_) append_bytes(out, "\r\n");
  const auto data = content.front().first(size);
  out.insert(out.end(), data.begin(), data.end());
  if (chunked_) append_bytes(out, "\r\n");
  content.take(size);
  back_.response_taken(*transit_, size);
}

// A response may overtake its request; nobody reads the rest of that, so the connection ends with it.
void H1Front::settle() {
  if (!transit_ || !over_) return;
  if (!transit_->request.ended()) closing_ = true;
  if (transit_->at_back) back_.cancel(*transit_, h2_error::kCancel);
  back_.response_taken(*transit_, transit_->response.size());
  closing_ = closing_ || !keeps_alive_;
  transit_.reset();
  go_on();
}

}  // namespace weir::proxy
