// Plays any conversation to the exchange builder, with gaps and ends, whole and byte by byte: both must give
// the same exchanges and count the same bytes. A step is a control byte, a length byte and so many bytes.
#include <cstdint>
#include <cstdlib>
#include <string>

#include "http/exchange.h"

namespace {

using namespace weir::http;

enum class Action : std::uint8_t { request, response, gap_request, gap_response, end_request, end_response };

ExchangeLimits small_limits() {
  ExchangeLimits limits;
  limits.h1 = {.start_line = 128, .head = 512, .fields = 8, .chunk_extensions = 16, .trailers = 64};
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

void apply(H1ExchangeBuilder& builder, Action action, std::span<const std::byte> bytes, std::uint64_t gap,
           Time now) {
  switch (action) {
    case Action::request:
      return builder.feed(Side::request, bytes, now);
    case Action::response:
      return builder.feed(Side::response, bytes, now);
    case Action::gap_request:
      return builder.gap(Side::request, gap, now);
    case Action::gap_response:
      return builder.gap(Side::response, gap, now);
    case Action::end_request:
      return builder.end(Side::request, now);
    case Action::end_response:
      return builder.end(Side::response, now);
  }
}

// Empty where the end of a chunk may tell something: HTTP/2 after an upgrade, and bytes missing.
std::string run(std::span<const std::byte> input, bool bytewise) {
  bool missing = false;
  std::string log;
  std::uint64_t next = 0;
  std::uint64_t fed = 0;
  H1ExchangeBuilder builder(small_limits(), [&](const Exchange& e) {
    if (!e.final) return;  // by how the input is cut
    if (!e.stream_id && e.number != next++) std::abort();
    log += text_of(e);
  });
  Time now{};
  while (input.size() >= 2) {
    const auto action = static_cast<Action>(static_cast<unsigned>(input[0]) % 6);
    const auto length = static_cast<std::size_t>(input[1]);
    input = input.subspan(2);
    now += std::chrono::milliseconds(400);
    const bool data = action == Action::request || action == Action::response;
    missing = missing || action == Action::gap_request || action == Action::gap_response;
    auto bytes = input.first(data ? std::min(length, input.size()) : 0);
    input = input.subspan(bytes.size());
    fed += bytes.size();
    for (; bytewise && bytes.size() > 1; bytes = bytes.subspan(1))
      apply(builder, action, bytes.first(1), 0, now);
    apply(builder, action, bytes, length, now);
  }
  builder.finish(now);
  if (!builder.idle()) std::abort();
  const auto request = builder.unparsed_bytes(Side::request);
  const auto response = builder.unparsed_bytes(Side::response);
  if (request + response > fed) std::abort();
  if (missing && builder.protocol() == Protocol::http2) return "";
  return log + std::to_string(request) + " " + std::to_string(response) + " " +
         std::to_string(static_cast<int>(builder.protocol()));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto input = std::as_bytes(std::span(data, size));
  if (run(input, false) != run(input, true)) std::abort();
  return 0;
}
