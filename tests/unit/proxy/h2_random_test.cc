// Byte-exactness: what arrives is what was sent, whatever it is and however it is cut, in each combination of
// protocols. The seeds are fixed; WEIR_H2_EXCHANGES makes it more.
#include <gtest/gtest.h>

#include <cstdlib>

#include "dice.h"
#include "h2_bridge.h"

namespace weir::proxy::test {
namespace {

using std::string;

int exchanges() {
  const char* wanted = std::getenv("WEIR_H2_EXCHANGES");
  return wanted != nullptr ? std::atoi(wanted) : 100;
}

// Pieces of a message, each to be sent by itself.
std::vector<string> in_frames(Dice& dice, std::uint32_t stream, const Pairs& pseudo, const Message& message,
                              bool with_content) {
  Pairs all = pseudo;
  all.insert(all.end(), message.fields.begin(), message.fields.end());
  std::vector<string> pieces = {head(stream, all, !with_content)};
  if (!with_content) return pieces;
  const bool trailers = !message.trailers.empty();
  for (std::size_t at = 0; at < message.content.size();) {
    const auto size = dice.piece(message.content.size() - at);
    const bool last = at + size == message.content.size() && !trailers && dice.chance(2);
    pieces.push_back(data(stream, message.content.substr(at, size), last));
    at += size;
    if (last) return pieces;
  }
  pieces.push_back(trailers ? head(stream, message.trailers) : data(stream, ""));
  return pieces;
}

std::vector<string> in_text(Dice& dice, const string& start, const Message& message, bool chunked) {
  string text = start + "\r\n";
  for (const auto& [name, value] : message.fields) text += name + ": " + value + "\r\n";
  if (chunked) text += "transfer-encoding: chunked\r\n";
  text += "\r\n";
  for (std::size_t at = 0; chunked && at < message.content.size();) {
    const auto size = dice.piece(message.content.size() - at);
    char length[20];
    std::snprintf(length, sizeof length, "%zx\r\n", size);
    text += length + message.content.substr(at, size) + "\r\n";
    at += size;
  }
  if (chunked) text += "0\r\n";
  for (const auto& [name, value] : message.trailers) text += name + ": " + value + "\r\n";
  text += chunked ? "\r\n" : message.content;
  std::vector<string> pieces;
  for (std::size_t at = 0; at < text.size(); at += pieces.back().size())
    pieces.push_back(text.substr(at, dice.piece(text.size() - at)));
  return pieces;
}

// The fields of what arrived in frames, without its pseudo ones.
void expect_frames(const FrameLog& log, std::uint32_t stream, const Pairs& pseudo, const Message& message) {
  auto frames = log.of(stream);
  std::erase_if(frames, [](const Frame& one) { return one.type == kWindow; });
  ASSERT_FALSE(frames.empty());
  Pairs sent = pseudo;
  sent.insert(sent.end(), message.fields.begin(), message.fields.end());
  EXPECT_EQ(frames.front().fields, sent);
  EXPECT_EQ(log.content(stream), message.content);
  EXPECT_TRUE(frames.back().ends());
  if (!message.trailers.empty()) {
    EXPECT_EQ(frames.back().fields, message.trailers);
  }
}

struct TextMessage : http::H1Handler {
  explicit TextMessage(http::H1Parser::Kind kind) : parser(kind) { parser.stop_between_messages(true); }
  http::Next on_request_head(http::RequestHead head, http::BodyFraming) override {
    start = head.method + " " + head.target;
    take(head.fields, fields);
    return http::Next::proceed;
  }
  http::Next on_response_head(http::ResponseHead head, http::BodyFraming) override {
    start = std::to_string(head.status);
    take(head.fields, fields);
    return http::Next::proceed;
  }
  void on_body(std::span<const std::byte> data) override {
    content.append(reinterpret_cast<const char*>(data.data()), data.size());
  }
  void on_trailers(http::Fields all) override { take(all, trailers); }
  void on_message_complete() override { complete = true; }
  static void take(const http::Fields& from, Pairs& to) {
    for (const auto& field : from)
      if (field.name != "transfer-encoding" && field.name != "host") to.emplace_back(field.name, field.value);
  }
  void feed(string& text) {
    const auto taken = parser.feed(bytes(text), *this);
    ASSERT_TRUE(taken) << taken.error().what;
    text.erase(0, *taken);
  }
  void expect(const string& wanted, const Message& message) {
    EXPECT_TRUE(complete);
    EXPECT_EQ(start, wanted);
    EXPECT_EQ(fields, message.fields);
    EXPECT_EQ(content, message.content);
    EXPECT_EQ(trailers, message.trailers);
  }

  http::H1Parser parser;
  string start;
  Pairs fields;
  string content;
  Pairs trailers;
  bool complete = false;
};

const string kWideOpen =
    frame(kSettings, 0, 0, setting(4, 0x7fffffff)) + frame(kWindow, 0, 0, number(0x7fff0000 - 65'535, 4));

Pairs pseudo_of(const string& method, const string& path) {
  return {{":method", method}, {":scheme", "https"}, {":authority", "o.test"}, {":path", path}};
}

TEST(H2Random, Http2ToHttp2) {
  Dice dice(1);
  auto bridge = std::make_unique<Bridge>();
  std::uint32_t stream = 1;
  for (int i = 0; i < exchanges(); ++i, stream += 2) {
    if (i % 100 == 0) {
      bridge = std::make_unique<Bridge>();
      stream = 1;
      bridge->client(kWideOpen);
      bridge->upstream(kWideOpen);
    }
    const bool with_content = !dice.chance(3);
    const auto pseudo = pseudo_of(dice.method(), dice.path());
    const auto request = dice.message("r", with_content);
    const auto response = dice.message("a", true);
    for (const auto& piece : in_frames(dice, stream, pseudo, request, with_content))
      ASSERT_TRUE(bridge->client(piece));
    for (const auto& piece : in_frames(dice, stream, {{":status", "200"}}, response, true))
      ASSERT_TRUE(bridge->upstream(piece));
    expect_frames(bridge->to_upstream, stream, pseudo, request);
    expect_frames(bridge->to_client, stream, {{":status", "200"}}, response);
    ASSERT_FALSE(HasFailure()) << "exchange " << i;
    ASSERT_TRUE(bridge->front.idle());
    bridge->to_client.all.clear();
    bridge->to_upstream.all.clear();
  }
}

TEST(H2Random, Http2ToHttp1) {
  Dice dice(2);
  for (int i = 0; i < exchanges(); ++i) {
    TranslatingBridge bridge;
    bridge.client(kWideOpen);
    const bool with_content = !dice.chance(3);
    const string method = dice.method();
    const string path = dice.path();
    auto request = dice.message("r", with_content);
    const auto response = dice.message("a", true);
    for (const auto& piece : in_frames(dice, 1, pseudo_of(method, path), request, with_content))
      bridge.client(piece);
    ASSERT_EQ(bridge.legs.size(), 1u);
    TextMessage sent(http::H1Parser::Kind::request);
    while (!bridge.legs[0].sent.empty() && !sent.complete) sent.feed(bridge.legs[0].sent);
    const bool told_empty = !with_content && (method == "POST" || method == "PUT" || method == "PATCH");
    if (told_empty) request.fields.emplace_back("content-length", "0");
    sent.expect(method + " " + path, request);
    for (const auto& piece : in_text(dice, "HTTP/1.1 200 OK", response, !response.with_length))
      bridge.upstream(0, piece);
    expect_frames(bridge.to_client, 1, {{":status", "200"}}, response);
    ASSERT_FALSE(HasFailure()) << "exchange " << i;
    ASSERT_TRUE(bridge.front.idle());
  }
}

TEST(H2Random, Http1ToHttp2) {
  Dice dice(3);
  ReverseBridge bridge;
  bridge.upstream(kWideOpen);
  for (int i = 0; i < exchanges(); ++i) {
    const std::uint32_t stream = 2 * static_cast<std::uint32_t>(i) + 1;
    const bool with_content = !dice.chance(3);
    const string method = dice.method();
    const string path = dice.path();
    const auto request = dice.message("r", with_content);
    const auto response = dice.message("a", true);
    const string start = method + " " + path + " HTTP/1.1\r\nhost: o.test";
    for (const auto& piece : in_text(dice, start, request, with_content && !request.with_length))
      bridge.client(piece);
    expect_frames(bridge.to_upstream, stream, pseudo_of(method, path), request);
    for (const auto& piece : in_frames(dice, stream, {{":status", "200"}}, response, true))
      bridge.upstream(piece);
    TextMessage got(http::H1Parser::Kind::response);
    got.parser.expect_response_to(method);
    while (!bridge.answered.empty() && !got.complete) got.feed(bridge.answered);
    got.expect("200", response);
    ASSERT_FALSE(HasFailure()) << "exchange " << i;
    ASSERT_TRUE(bridge.front.idle());
  }
}

}  // namespace
}  // namespace weir::proxy::test
