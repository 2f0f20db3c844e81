// Plays any conversation to the exchange builder, with gaps and ends, whole and byte by byte: both must give
// the same exchanges and count the same bytes. The steps are those of conversation.h.
#include <cstdint>
#include <cstdlib>
#include <string>

#include "http/exchange.h"
#include "tests/fuzz/conversation.h"

namespace {

using namespace weir::http;

ExchangeLimits small_limits() {
  ExchangeLimits limits;
  limits.h1 = {.start_line = 128, .head = 512, .fields = 8, .chunk_extensions = 16, .trailers = 64};
  limits.h1_response = limits.h1;
  limits.capture_bodies = true;
  limits.body_bytes = 32;
  limits.pending = 4;
  limits.early_response = 256;
  return limits;
}

std::string text_of(const Exchange& e) {
  std::string text = std::to_string(e.number) + e.request.method + " " + e.request.target + "\n";
  for (const auto* body : {&e.request_body, &e.response_body}) {
    text.append(reinterpret_cast<const char*>(body->data.data()), body->data.size());
    text += "/" + std::to_string(body->size) + (body->truncated ? "!" : "") + "\n";
  }
  text += e.response ? std::to_string(e.response->status) : "none";
  text += " " + std::to_string(e.interim_responses.size()) + " " + std::to_string(e.gap_bytes);
  text += " " + std::to_string(e.began.time_since_epoch().count());
  text += " " + std::to_string(e.ended.time_since_epoch().count());
  text += " " + std::to_string(e.sse_events);
  if (e.websocket) {
    for (const auto n : {e.websocket->messages_sent, e.websocket->messages_received, e.websocket->bytes_sent,
                         e.websocket->bytes_received})
      text += " " + std::to_string(n);
  }
  return text + (e.upgraded ? " upgraded " : " ") + e.protocol_error + " " + e.incomplete + "\n";
}

// Empty where the end of a chunk may tell something: HTTP/2 after an upgrade, and bytes missing.
std::string run(std::span<const std::byte> input, bool bytewise) {
  std::string log;
  std::uint64_t next = 0;
  H1ExchangeBuilder builder(small_limits(), [&](const Exchange& e) {
    if (!e.final) return;  // by how the input is cut
    if (!e.stream_id && e.number != next++) std::abort();
    log += text_of(e);
  });
  const auto played = weir::fuzz::play(builder, input, bytewise);
  builder.finish(played.end);
  if (!builder.idle()) std::abort();
  const auto request = builder.unparsed_bytes(Side::request);
  const auto response = builder.unparsed_bytes(Side::response);
  if (request + response > played.fed) std::abort();
  if (played.gaps && builder.protocol() == Protocol::http2) return "";
  return log + std::to_string(request) + " " + std::to_string(response) + " " +
         std::to_string(static_cast<int>(builder.protocol()));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto input = std::as_bytes(std::span(data, size));
  if (run(input, false) != run(input, true)) std::abort();
  return 0;
}
