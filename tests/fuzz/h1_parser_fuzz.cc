// Feeds any bytes to the strict parser, whole and byte by byte: both must tell the same, and never take more
// than they were given. The first byte chooses the side, the methods answered and the limits.
#include <cstdint>
#include <cstdlib>
#include <string>

#include "http/h1_parser.h"

namespace {

using namespace weir::http;

class Log : public H1Handler {
 public:
  Next on_request_head(RequestHead head, BodyFraming framing) override {
    // What is sent on must be read the same way by the next reader.
    reread(H1Parser::Kind::request, serialize(head));
    write("H", head.method + " " + head.target);
    fields(head.fields, framing);
    return Next::proceed;
  }
  Next on_response_head(ResponseHead head, BodyFraming framing) override {
    reread(H1Parser::Kind::response, serialize(head));
    write("H", std::to_string(head.status) + " " + head.reason);
    fields(head.fields, framing);
    return Next::proceed;
  }
  void on_body(std::span<const std::byte> data) override {
    if (data.empty()) std::abort();
    text.append(reinterpret_cast<const char*>(data.data()), data.size());
  }
  void on_trailers(Fields trailers) override { fields(trailers, {}); }
  void on_message_complete() override { write("E", ""); }

  std::string text;

 private:
  class Ignore : public H1Handler {
    void on_body(std::span<const std::byte>) override {}
    void on_trailers(Fields) override {}
    void on_message_complete() override {}
  };

  static void reread(H1Parser::Kind kind, const std::string& head) {
    H1Parser parser(kind, {.start_line = 1 << 20, .head = 1 << 20});
    parser.expect_response_to("GET");
    Ignore ignore;
    const auto used = parser.feed(std::as_bytes(std::span(head)), ignore);
    if (!used || *used != head.size()) std::abort();
  }
  void fields(const Fields& fields, BodyFraming framing) {
    for (const auto& field : fields) write(field.name, field.value);
    write("framing",
          std::to_string(static_cast<int>(framing.framing)) + std::to_string(framing.content_length));
  }
  void write(const std::string& what, const std::string& detail) {
    text += "\n[" + what + "=" + detail + "]\n";
  }
};

H1Parser make_parser(std::uint8_t choice) {
  H1Limits limits;
  if (choice & 2)
    limits = {.start_line = 64, .head = 256, .fields = 4, .chunk_extensions = 8, .trailers = 32};
  H1Parser parser(choice & 1 ? H1Parser::Kind::request : H1Parser::Kind::response, limits);
  constexpr const char* kMethods[] = {"GET", "HEAD", "CONNECT", "POST"};
  for (int i = 0; i < 8; ++i) parser.expect_response_to(kMethods[(choice >> 2) + i & 3]);
  return parser;
}

std::string run(std::uint8_t choice, std::span<const std::byte> data, std::size_t piece) {
  auto parser = make_parser(choice);
  Log log;
  std::size_t taken = 0;
  while (!data.empty()) {
    const auto part = data.first(std::min(piece, data.size()));
    const auto used = parser.feed(part, log);
    if ((used ? *used : used.error().at) > part.size()) std::abort();
    if (!used) return log.text + used.error().what + std::to_string(taken + used.error().at);
    taken += *used;
    if (*used < part.size()) {
      if (!parser.upgraded()) std::abort();
      break;
    }
    data = data.subspan(*used);
  }
  const auto finished = parser.finish(log);
  return log.text + (finished ? "" : finished.error().what) + std::to_string(taken);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const auto input = std::as_bytes(std::span(data + 1, size - 1));
  const auto whole = run(data[0], input, size);
  if (run(data[0], input, 1) != whole || run(data[0], input, 7) != whole) std::abort();
  return 0;
}
