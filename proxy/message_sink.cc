// Re-framing of messages. A body without length is complete with its head, whenever the parser says so; each
// piece of a chunked body becomes a chunk of its own, so nothing waits for a chunk to fill.
#include "proxy/message_sink.h"

#include <array>
#include <charconv>

#include "proxy/forwarding.h"

namespace weir::proxy {

void MessageSink::begin(http::BodyFraming framing) {
  framing_ = framing;
  trailers_.clear();
  complete_ = framing.framing == http::Framing::none ||
              (framing.framing == http::Framing::content_length && framing.content_length == 0);
}

void MessageSink::append(std::string_view text) {
  const auto bytes = std::as_bytes(std::span(text));
  output_.insert(output_.end(), bytes.begin(), bytes.end());
}

void MessageSink::on_body(std::span<const std::byte> data) {
  if (data.empty()) return;
  const bool chunked = framing_.framing == http::Framing::chunked;
  if (chunked) {
    std::array<char, 20> size;
    const auto [end, error] = std::to_chars(size.data(), size.data() + size.size(), data.size(), 16);
    append({size.data(), end});
    append("\r\n");
  }
  output_.insert(output_.end(), data.begin(), data.end());
  if (chunked) append("\r\n");
}

void MessageSink::on_trailers(http::Fields trailers) {
  trailers_ = std::move(trailers);
}

void MessageSink::on_message_complete() {
  if (std::exchange(complete_, true) || framing_.framing != http::Framing::chunked) return;
  append("0\r\n");
  for (const auto& trailer : trailers_) append(trailer.name + ": " + trailer.value + "\r\n");
  append("\r\n");
}

http::Next RequestSink::on_request_head(http::RequestHead head, http::BodyFraming framing) {
  head_ = std::move(head);
  begin(framing);
  return http::Next::pause;
}

http::RequestHead RequestSink::take_head() {
  http::RequestHead head = std::move(*head_);
  head_.reset();
  return head;
}

http::Next ResponseSink::on_response_head(http::ResponseHead head, http::BodyFraming framing) {
  answered_ = true;
  append(http::serialize(head));
  upgraded_ = head.status == 101;
  if (head.status < 200 && !upgraded_) return http::Next::proceed;
  status_ = head.status;
  keep_alive_ = allows_keep_alive(head, framing);
  begin(framing);
  return upgraded_ ? http::Next::pause : http::Next::proceed;
}

// An interim response is complete without ending anything.
void ResponseSink::on_message_complete() {
  if (status_ != 0) MessageSink::on_message_complete();
}

}  // namespace weir::proxy
