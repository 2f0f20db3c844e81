// Exchanges that go on: what is counted in them, and when an interim copy is given out.
#include <gtest/gtest.h>

#include "http/exchange_builder.h"
#include "http/message_counters.h"
#include "tests/unit/http/conversation.h"
#include "tests/unit/http/h2_wire.h"

namespace weir::http {
namespace {

using namespace test;
using namespace std::chrono_literals;

template <typename Counter>
std::vector<Counter> fed(std::string_view text) {
  std::vector<Counter> all;
  for (const auto& pieces : splits(text)) {
    auto& counter = all.emplace_back();
    for (const auto piece : pieces) counter.feed(bytes(piece));
  }
  return all;
}

TEST(SseCounter, CountsEventsWithData) {
  const std::pair<std::string_view, std::uint64_t> cases[] = {
      {"data: a\n\ndata: b\n\n", 2},
      {"data: a\r\n\r\ndata\r\rdata:b\n\r\n", 3},
      {"data: a\ndata: b\nid: 1\n\n", 1},
      {": keep-alive\n\nevent: x\n\nretry: 10\n\n", 0},
      {"database: a\n\ndat: b\n\n", 0},
      {"data: not ended\n", 0},
      {"\n\n\n", 0},
  };
  for (const auto& [text, events] : cases) {
    for (const auto& counter : fed<SseCounter>(text)) EXPECT_EQ(counter.events(), events) << text;
  }
  SseCounter counter;
  counter.feed(bytes("da"));
  counter.lost();
  counter.feed(bytes("ta: a\n\ndata: b\n\n"));
  EXPECT_EQ(counter.events(), 1U);
}

constexpr std::uint8_t kFin = 0x80;
constexpr std::uint8_t kText = 1;

std::string ws(std::uint8_t first, std::string_view payload, bool masked = false) {
  const std::uint8_t mask = masked ? 0x80 : 0;
  std::string text(1, static_cast<char>(first));
  if (payload.size() < 126) {
    text += static_cast<char>(payload.size() | mask);
  } else if (payload.size() <= 0xffff) {
    text += static_cast<char>(126 | mask);
    text += big_endian(static_cast<std::uint32_t>(payload.size()), 2);
  } else {
    text += static_cast<char>(127 | mask);
    text += big_endian(0, 4) + big_endian(static_cast<std::uint32_t>(payload.size()), 4);
  }
  return text + (masked ? "mask" : "") + std::string(payload);
}
const std::string kCloseFrame = ws(kFin | 8, "\x03\xe8");

TEST(WebSocketCounter, CountsMessagesAndPayload) {
  const auto text = ws(kFin | kText, "hello", true) + ws(kText, "frag") + ws(kFin | 9, "ping") +
                    ws(0, "men", true) + ws(kFin, "ted") + ws(kFin | 0x40 | 2, std::string(300, 'x')) +
                    ws(kFin | 2, "") + ws(kFin | 2, std::string(70000, 'y'), true);
  for (const auto& counter : fed<WebSocketCounter>(text)) {
    EXPECT_EQ(counter.messages(), 5U);
    EXPECT_EQ(counter.bytes(), 5U + 10U + 300U + 70000U);
    EXPECT_TRUE(counter.counts());
    EXPECT_FALSE(counter.closed());
  }
  for (const auto& counter : fed<WebSocketCounter>(kCloseFrame)) EXPECT_TRUE(counter.closed());
}

TEST(WebSocketCounter, StopsWhereItIsLost) {
  const std::string bad[] = {ws(kFin | 3, "x"),
                             ws(kFin | 11, "x"),
                             ws(9, "not final"),
                             ws(kFin, "no beginning"),
                             ws(kFin | kText | 0x20, "x"),
                             ws(kText, "a") + ws(kText, "b"),
                             ws(kFin | 9, std::string(126, 'x')),
                             std::string("\x81\x7f\xff", 3) + std::string(7, '\0')};
  for (const auto& text : bad) {
    for (const auto& counter : fed<WebSocketCounter>(text + ws(kFin | kText, "later"))) {
      EXPECT_TRUE(counter.malformed());
      EXPECT_EQ(counter.messages(), 0U);
    }
  }
  WebSocketCounter counter;
  counter.feed(bytes(ws(kFin | kText, "0123456789").substr(0, 4)));
  counter.lost(8);
  counter.feed(bytes(ws(kFin | kText, "x")));
  EXPECT_EQ(counter.messages(), 2U);
  EXPECT_EQ(counter.bytes(), 11U);
  counter.lost(1);
  counter.feed(bytes(ws(kFin | kText, "x")));
  EXPECT_EQ(counter.messages(), 2U);
}

std::string grpc(std::string_view message, char flags = 0) {
  return std::string(1, flags) + big_endian(static_cast<std::uint32_t>(message.size()), 4) +
         std::string(message);
}

TEST(GrpcCounter, CountsMessages) {
  for (const auto& counter :
       fed<GrpcCounter>(grpc("abc") + grpc("") + grpc("packed", 1) + grpc("grpc-status: 0", '\x80')))
    EXPECT_EQ(counter.messages(), 3U);
  for (const auto& counter : fed<GrpcCounter>(grpc("abc") + "not a prefix" + grpc("abc")))
    EXPECT_EQ(counter.messages(), 1U);
  GrpcCounter counter;
  counter.feed(bytes(grpc("abcdef").substr(0, 7)));
  counter.lost(4);
  counter.feed(bytes(grpc("x")));
  EXPECT_EQ(counter.messages(), 2U);
}

// "sse=2", "ws=1/5 2/6", "grpc=1 2" behind "..." if interim, "!" if final.
std::string counts(const Exchange& e) {
  std::string text = e.final ? "!" : "...";
  if (e.sse_events > 0) text += " sse=" + std::to_string(e.sse_events);
  if (e.websocket) {
    const auto& w = *e.websocket;
    text += " ws=" + std::to_string(w.messages_sent) + "/" + std::to_string(w.bytes_sent) + " " +
            std::to_string(w.messages_received) + "/" + std::to_string(w.bytes_received);
  }
  if (e.grpc)
    text +=
        " grpc=" + std::to_string(e.grpc->messages_sent) + " " + std::to_string(e.grpc->messages_received);
  if (!e.incomplete.empty()) text += " " + e.incomplete;
  if (!e.protocol_error.empty()) text += " error";
  return text;
}

struct Told {
  ExchangeBuilder builder;
  std::vector<Exchange> seen;
  Lines lines;
  explicit Told(const ExchangeLimits& limits = capturing())
      : builder(limits, [this](Exchange e) {
          const auto same = [&](const Exchange& other) { return other.number == e.number; };
          EXPECT_EQ(e.copied, !e.final || std::ranges::any_of(seen, same)) << counts(e);
          lines.push_back(counts(e));
          seen.push_back(std::move(e));
        }) {}
  static Time at(int ms) { return Time(std::chrono::milliseconds(ms)); }
  void req(int ms, std::string_view text) { builder.feed(Side::request, bytes(text), at(ms)); }
  void res(int ms, std::string_view text) { builder.feed(Side::response, bytes(text), at(ms)); }
  Lines take() { return std::exchange(lines, {}); }
};

const std::string kAsk =
    "GET /w HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: "
    "13\r\n\r\n";
const std::string kSwitch = "HTTP/1.1 101 S\r\nConnection: upgrade\r\nUpgrade: WebSocket\r\n\r\n";
const std::string kGet = "GET /e HTTP/1.1\r\nHost: a\r\n\r\n";
std::string chunk(std::string_view text) {
  return "a\r\n" + std::string(text) + "\r\n";  // of ten bytes
}

TEST(LongExchange, TellsServerSentEvents) {
  Told t;
  t.req(0, kGet);
  t.res(1,
        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: "
        "chunked\r\n\r\n");
  EXPECT_EQ(t.take(), Lines{"..."});
  const auto event = chunk("data: 12\n\n");
  t.res(10, event);
  EXPECT_EQ(t.take(), Lines{"... sse=1"});
  t.res(20, event);
  t.res(59, event);
  EXPECT_EQ(t.take(), Lines{}) << "no more than 20 a second";
  t.res(60, event.substr(0, 8));
  EXPECT_EQ(t.take(), Lines{"... sse=3"});
  t.res(115, event.substr(8));
  EXPECT_EQ(t.take(), Lines{"... sse=4"});
  EXPECT_EQ(t.seen.back().response_body.data.size(), 40U);
  t.res(116, event + "0\r\n\r\n");
  EXPECT_EQ(t.take(), Lines{"! sse=5"});
  EXPECT_EQ(t.seen.back().response_body.size, 50U);
  for (const auto& e : t.seen) EXPECT_EQ(e.number, 0U);
}

// Also when nothing follows.
TEST(LongExchange, TellsWhatCameTooSoonWhenItsTimeComes) {
  const auto ms = [](int count) { return Told::at(count); };
  {
    Told t;
    t.req(0, kGet);
    t.res(1, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n" +
                 chunk("data: 12\n\n"));
    EXPECT_EQ(t.take(), (Lines{"... sse=1"}));
    EXPECT_EQ(t.builder.give_held_back(ms(5)), std::nullopt);
    t.res(10, chunk("data: 34\n\n"));
    EXPECT_EQ(t.builder.give_held_back(ms(50)), ms(51));
    EXPECT_EQ(t.take(), Lines{});
    EXPECT_EQ(t.builder.give_held_back(ms(51)), std::nullopt);
    EXPECT_EQ(t.take(), Lines{"... sse=2"});
    EXPECT_EQ(t.builder.give_held_back(ms(999)), std::nullopt);
    EXPECT_EQ(t.take(), Lines{});
  }
  {
    Told t;
    Client c;
    Server s;
    t.req(0, c.open() + c.get(1, "/e"));
    t.req(0, c.get(3, "/f"));
    t.res(0, s.open());
    for (const std::uint32_t stream : {1u, 3u}) {
      t.res(1, s.headers(stream, {{":status", "200"}, {"content-type", "text/event-stream"}}));
      t.res(2, data(stream, "data: a\n\n"));
      t.res(static_cast<int>(2 + stream), data(stream, "data: b\n\n"));
    }
    t.take();
    EXPECT_EQ(t.builder.give_held_back(ms(51)), ms(52));
    EXPECT_EQ(t.take(), Lines{});
    EXPECT_EQ(t.builder.give_held_back(ms(52)), std::nullopt);
    EXPECT_EQ(t.take(), (Lines{"... sse=2", "... sse=2"}));
  }
  {
    Told t;
    t.req(0, kAsk);
    t.res(1, kSwitch);
    t.req(10, ws(kFin | kText, "hello", true));
    EXPECT_EQ(t.take(), Lines{"... ws=0/0 0/0"});
    EXPECT_EQ(t.builder.give_held_back(ms(1000)), ms(1001));
    EXPECT_EQ(t.builder.give_held_back(ms(1001)), std::nullopt);
    EXPECT_EQ(t.take(), Lines{"... ws=1/5 0/0"});
  }
}

TEST(LongExchange, TellsServerSentEventsOfHttp2) {
  Told t;
  Client c;
  Server s;
  t.req(0, c.open() + c.get(1, "/e"));
  t.res(0, s.open());
  t.res(1, s.headers(1, {{":status", "200"}, {"content-type", "text/event-stream"}}));
  t.res(2, data(1, "data: a\n"));
  t.res(3, data(1, "\ndata: b\n\n"));
  t.res(80, data(1, "data: c\n\n"));
  t.res(90, last_data(1, ""));
  EXPECT_EQ(t.take(), (Lines{"...", "... sse=2", "... sse=3", "! sse=3"}));
  t.req(100, c.get(3, "/z"));
  t.res(101,
        s.headers(3,
                  {{":status", "200"}, {"content-type", "text/event-stream"}, {"content-encoding", "gzip"}}));
  t.res(102, last_data(3, "data: c\n\n"));
  EXPECT_EQ(t.take(), Lines{"!"}) << "coded content isn't looked into";
}

TEST(LongExchange, FollowsAWebSocket) {
  Told t;
  t.req(0, kAsk);
  t.res(1, kSwitch);
  EXPECT_EQ(t.take(), Lines{"... ws=0/0 0/0"});
  EXPECT_FALSE(t.builder.idle());
  t.req(10, ws(kFin | kText, "hello", true));
  t.res(20, ws(kFin | kText, "you"));
  EXPECT_EQ(t.take(), Lines{}) << "no more than one a second";
  t.res(1100, ws(kFin | kText, "again"));
  EXPECT_EQ(t.take(), Lines{"... ws=1/5 2/8"});
  t.res(1200, kCloseFrame);
  t.req(1300, kCloseFrame);
  EXPECT_EQ(t.take(), Lines{"! ws=1/5 2/8"});
  EXPECT_TRUE(t.seen.back().upgraded);
  EXPECT_EQ(t.seen.back().ended, Told::at(1300));
  EXPECT_TRUE(t.builder.idle());
  t.req(1400, "rest");
  EXPECT_EQ(t.builder.unparsed_bytes(Side::request), 4U);
  EXPECT_EQ(t.builder.unparsed_bytes(Side::response), 0U);
}

TEST(LongExchange, FollowsAWebSocketHoweverItIsCut) {
  const auto sent = kAsk + ws(kFin | kText, "hello", true) + kCloseFrame;
  const auto received = kSwitch + ws(kText, "yo") + ws(kFin, "u") + kCloseFrame;
  for (const bool answer_first : {false, true}) {
    const std::vector<Step> steps =
        answer_first ? std::vector{res(received), req(sent)} : std::vector{req(sent), res(received)};
    const auto result = run_all<ExchangeBuilder>(steps);
    EXPECT_EQ(result.before_finish, Lines{"0 GET /w /0 -> 101 /0 upgraded"});
    EXPECT_EQ(result.unparsed, (Unparsed{0, 0}));
    Told t;
    for (const auto& step : steps) t.builder.feed(step.side, bytes(step.data), Told::at(0));
    EXPECT_EQ(t.lines.back(), "! ws=1/5 1/3");
  }
}

TEST(LongExchange, AWebSocketLastsUntilItsConnectionEnded) {
  Exchange last;
  ExchangeBuilder builder(capturing(), [&](Exchange e) { last = std::move(e); });
  builder.feed(Side::request, bytes(kAsk), Told::at(0));
  builder.feed(Side::response, bytes(kSwitch), Told::at(1));
  builder.finish(Told::at(7));
  EXPECT_EQ(last.ended, Told::at(7));
}

TEST(LongExchange, SaysHowAWebSocketEnded) {
  const auto ended = [](const std::vector<Step>& steps) {
    Told t;
    t.req(0, kAsk);
    t.res(0, kSwitch);
    for (const auto& step : steps) {
      if (step.kind == Step::Kind::data) t.builder.feed(step.side, bytes(step.data), Told::at(1));
      if (step.kind == Step::Kind::gap) t.builder.gap(step.side, step.length, Told::at(1));
      if (step.kind == Step::Kind::end) t.builder.end(step.side, Told::at(1));
    }
    t.builder.finish(Told::at(2));
    return t.lines.back();
  };
  const auto hello = ws(kFin | kText, "hello");
  EXPECT_EQ(ended({}), "! ws=0/0 0/0 closed_early");
  EXPECT_EQ(ended({req(hello), end(Side::request), res(hello), end(Side::response)}),
            "! ws=1/5 1/5 closed_early");
  EXPECT_EQ(ended({res(kCloseFrame)}), "! ws=0/0 0/0");
  EXPECT_EQ(ended({req(hello.substr(0, 3)), lost(Side::request, 4), req(hello)}), "! ws=2/10 0/0 gap");
  EXPECT_EQ(ended({req(hello), lost(Side::request, 4), req(hello)}), "! ws=1/5 0/0 gap");
  EXPECT_EQ(ended({req(hello + "\x83")}), "! ws=1/5 0/0 closed_early");
  EXPECT_EQ(ended({req(hello + ws(0x83, "x") + hello)}), "! ws=1/5 0/0 closed_early error");
}

TEST(LongExchange, FollowsAWebSocketInAStream) {
  Told t;
  Client c;
  Server s;
  const Deflater::Fields ask = {{":method", "CONNECT"},
                                {":protocol", "websocket"},
                                {":scheme", "https"},
                                {":path", "/chat"},
                                {":authority", "a.test"}};
  t.req(0, c.open() + c.headers(1, ask));
  t.req(0, c.headers(3, ask));
  t.res(0, s.open());
  t.res(1, s.head(1, "200"));
  EXPECT_EQ(t.take(), Lines{"... ws=0/0 0/0"});
  t.res(2, s.head(3, "403", kEndStream));
  t.req(2, last_data(3, ""));
  EXPECT_EQ(t.take(), Lines{"!"});
  const auto hello = ws(kFin | kText, "hello", true);
  t.req(3, data(1, hello.substr(0, 4)));
  t.req(4, data(1, hello.substr(4)));
  t.res(1500, data(1, ws(kFin | kText, "yo")));
  EXPECT_EQ(t.take(), Lines{"... ws=1/5 1/2"});
  t.req(1600, last_data(1, kCloseFrame));
  t.res(1700, last_data(1, kCloseFrame));
  EXPECT_EQ(t.take(), Lines{"! ws=1/5 1/2"});
  ASSERT_FALSE(t.seen.empty());
  const auto& e = t.seen.back();
  EXPECT_EQ(e.request.target, "/chat");
  EXPECT_EQ(e.request.protocol, "websocket");
  EXPECT_TRUE(e.upgraded);
  EXPECT_EQ(e.request_body.size + e.response_body.size, 0U);
  EXPECT_EQ(t.builder.unparsed_bytes(Side::request), last_data(3, "").size()) << "of the refused one";
  EXPECT_EQ(t.builder.unparsed_bytes(Side::response), 0U);
}

TEST(LongExchange, CountsGrpcMessages) {
  Told t;
  Client c;
  Server s;
  const Deflater::Fields ask = {{":method", "POST"},
                                {":scheme", "http"},
                                {":path", "/p.S/M"},
                                {":authority", "a.test"},
                                {"content-type", "application/grpc+proto"}};
  const Deflater::Fields answer = {{":status", "200"}, {"content-type", "application/grpc"}};
  t.req(0, c.open() + c.headers(1, ask));
  t.req(0, c.headers(3, ask));
  t.res(0, s.open());
  t.req(1, last_data(1, grpc("one")));
  t.res(2, s.headers(1, answer) + data(1, grpc("yes")));
  t.res(3, s.headers(1, {{"grpc-status", "0"}}, kEndStream));
  EXPECT_EQ(t.take(), Lines{"! grpc=1 1"}) << "a short call has no interim";
  t.req(500, data(3, grpc("one")));
  t.req(1100, data(3, grpc("two")));
  t.res(1200, s.headers(3, answer));
  t.res(1300, data(3, grpc("yes")));
  EXPECT_EQ(t.take(), Lines{"... grpc=2 0"});
  t.res(2100, data(3, grpc("yes") + grpc("yes")));
  EXPECT_EQ(t.take(), Lines{"... grpc=2 3"});
  t.req(2200, rst(3, 8));
  EXPECT_EQ(t.take(), Lines{"! grpc=2 3 closed_early"});
  EXPECT_EQ(t.seen.back().response_body.size, 24U);
}

TEST(LongExchange, CopiesLittleIntoInterims) {
  Told t;
  t.req(0, "POST /e HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc");
  t.res(1, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n");
  t.res(2, "data: " + std::string(100'000, 'x') + "\n\n");
  ASSERT_EQ(t.seen.size(), 2U);
  const auto& e = t.seen[1];
  EXPECT_EQ(e.response_body.size, 100'008U);
  EXPECT_EQ(e.response_body.data.size(), 65536U);
  EXPECT_TRUE(e.response_body.truncated);
  EXPECT_TRUE(e.request_body.data.empty());
  t.builder.end(Side::response, Told::at(3));
  ASSERT_EQ(t.seen.size(), 3U);
  EXPECT_EQ(t.seen[2].response_body.data.size(), 100'008U);
  EXPECT_FALSE(t.seen[2].response_body.truncated);
  EXPECT_EQ(t.seen[2].request_body.data.size(), 3U);
}

}  // namespace
}  // namespace weir::http
