// Plays any conversation in frames to the HTTP/2 builder, with gaps and ends. From its start and without gaps
// it must give the same exchanges and count the same bytes however it is cut, and whoever found out that it
// is HTTP/2; with gaps, each stream at most once. The first byte says how it begins; then come
// the steps of conversation.h.
#include <cstdint>
#include <cstdlib>
#include <set>
#include <string>

#include "http/exchange_builder.h"
#include "http/h2_frames.h"
#include "tests/fuzz/conversation.h"

namespace {

using namespace weir::http;

ExchangeLimits small_limits() {
  ExchangeLimits limits;
  limits.h1.head = 512;
  limits.h1.fields = 8;
  limits.h1_response = limits.h1;
  limits.capture_bodies = true;
  limits.body_bytes = 32;
  limits.pending = 4;
  limits.early_response = 256;
  return limits;
}

void expect(bool holds) {
  if (!holds) std::abort();
}

std::string text_of(const Fields& fields) {
  std::string text;
  for (const auto& field : fields) text += field.name + ": " + field.value + "\n";
  return text;
}

std::string text_of(const Body& body) {
  return std::string(reinterpret_cast<const char*>(body.data.data()), body.data.size()) + "/" +
         std::to_string(body.size) + (body.truncated ? "!\n" : "\n");
}

std::string text_of(const Exchange& e) {
  std::string text = std::to_string(e.number) + "#" + std::to_string(e.stream_id.value_or(0)) +
                     e.request.method + " " + e.request.target + "\n" + text_of(e.request.fields) +
                     text_of(e.request_trailers) + text_of(e.request_body) + text_of(e.response_body) +
                     text_of(e.response_trailers);
  for (const auto& interim : e.interim_responses) text += std::to_string(interim.status) + " ";
  text += e.response ? std::to_string(e.response->status) + text_of(e.response->fields) : "none";
  text += " " + std::to_string(e.gap_bytes);
  text += " " + std::to_string(e.began.time_since_epoch().count());
  text += " " + std::to_string(e.ended.time_since_epoch().count());
  text += " " + std::to_string(e.sse_events);
  if (e.grpc)
    text += " " + std::to_string(e.grpc->messages_sent) + " " + std::to_string(e.grpc->messages_received);
  if (e.websocket) {
    for (const auto n : {e.websocket->messages_sent, e.websocket->messages_received, e.websocket->bytes_sent,
                         e.websocket->bytes_received})
      text += " " + std::to_string(n);
  }
  return text + (e.upgraded ? " upgraded " : " ") + e.protocol_error + " " + e.incomplete + "\n";
}

void check(const Exchange& e, std::set<std::uint64_t>& numbers, std::set<std::uint64_t>& streams) {
  expect(numbers.insert(e.number).second);
  expect(e.stream_id && streams.insert(*e.stream_id).second);
  expect(e.request_body.data.size() <= 32 && e.response_body.data.size() <= 32);
  expect(e.request.fields.size() <= 9 && (!e.response || e.response->fields.size() <= 8));
}

struct Result {
  std::string log;
  bool comparable = true;  // nothing was recognised by where a chunk ends
};

template <typename Builder>
Result run(Bytes input, bool joined, bool bytewise) {
  Result result{.log = {}, .comparable = !joined};
  std::set<std::uint64_t> numbers;
  std::set<std::uint64_t> streams;
  Builder builder(small_limits(), [&](const Exchange& e) {
    if (!e.final) return;  // by how the input is cut
    check(e, numbers, streams);
    result.log += text_of(e);
  });
  const Time now{};
  if (joined) {
    builder.gap(Side::request, 0, now);
    builder.gap(Side::response, 0, now);
  } else {
    builder.feed(Side::request, bytes_of(kH2Preface), now);
    builder.feed(Side::response, bytes_of(std::string_view("\0\0\0\4\0\0\0\0\0", FrameHeader::kSize)), now);
  }
  const auto played = weir::fuzz::play(builder, input, bytewise);
  if (played.gaps) result.comparable = false;
  builder.finish(played.end);
  expect(builder.idle());
  for (const auto number : numbers) expect(number < numbers.size());
  const auto request = builder.unparsed_bytes(Side::request);
  const auto response = builder.unparsed_bytes(Side::response);
  expect(request + response <= played.fed);
  result.log += std::to_string(request) + " " + std::to_string(response) + " " +
                std::to_string(static_cast<int>(builder.protocol()));
  return result;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const bool joined = data[0] % 2 == 1;
  const auto input = std::as_bytes(std::span(data + 1, size - 1));
  const auto whole = run<H2ExchangeBuilder>(input, joined, false);
  const auto cut = run<H2ExchangeBuilder>(input, joined, true);
  if (!whole.comparable) return 0;
  expect(whole.log == cut.log);
  expect(whole.log == run<ExchangeBuilder>(input, joined, false).log);
  return 0;
}
