// HTTP/2 on both sides: what passes, how it ends, who waits for whom; and the limits.
#include <gtest/gtest.h>

#include "h2_bridge.h"

namespace weir::proxy::test {
namespace {

using std::string;

TEST(H2, AnExchangePassesAsItIs) {
  Bridge bridge;
  const Pairs more = {{"x-a", "2"}, {"x-a", "1"}, {"cookie", "a=b"}, {"cookie", "c=d"}, {"x-none", ""}};
  bridge.client(head(1, request_fields(more, "POST", "/p?q"), false) + data(1, "body", false) +
                frame(kHeaders, kEndHeaders | kEndStream, 1, block({{"x-end", "t"}})));
  auto sent = bridge.to_upstream.of(1);
  ASSERT_EQ(sent.size(), 3u);
  EXPECT_EQ(sent[0].fields, request_fields(more, "POST", "/p?q"));
  EXPECT_FALSE(sent[0].ends());
  EXPECT_EQ(sent[1].payload, "body");
  EXPECT_EQ(sent[2].fields, (Pairs{{"x-end", "t"}}));
  EXPECT_TRUE(sent[2].ends());

  bridge.upstream(head(1, {{":status", "103"}, {"link", "l"}}, false) +
                  head(1, {{":status", "200"}, {"b", "1"}}, false) + data(1, "first", false));
  EXPECT_EQ(bridge.to_client.content(1), "first");  // while the response is open
  bridge.upstream(data(1, "", false) + head(1, {{"grpc-status", "0"}}));
  const auto got = bridge.to_client.of(1);
  ASSERT_EQ(got.size(), 4u);
  EXPECT_EQ(got[0].fields, (Pairs{{":status", "103"}, {"link", "l"}}));
  EXPECT_EQ(got[1].fields, (Pairs{{":status", "200"}, {"b", "1"}}));
  EXPECT_EQ(got[3].fields, (Pairs{{"grpc-status", "0"}}));
  EXPECT_TRUE(got[3].ends());
  EXPECT_TRUE(bridge.front.idle());
}

TEST(H2, AFieldThatMustNotBeIndexedStaysSo) {
  Bridge bridge;
  const string never = string("\x10") + literal_string("x-secret") + literal_string("v");
  bridge.client(frame(kHeaders, kEndHeaders | kEndStream, 1, block(request_fields()) + never));
  const auto sent = bridge.to_upstream.of(1);
  ASSERT_EQ(sent.size(), 1u);
  EXPECT_NE(sent[0].payload.find('\x10'), string::npos);
  EXPECT_EQ(sent[0].fields.back(), std::pair(string("x-secret"), string("v")));
}

TEST(H2, ResetsPassWithTheirCodes) {
  Bridge bridge;
  bridge.client(head(1, request_fields(), false) + head(3, request_fields(), false));
  bridge.client(frame(kRst, 0, 1, number(5, 4)));
  EXPECT_EQ(bridge.to_upstream.of(1).back().type, kRst);
  EXPECT_EQ(bridge.to_upstream.of(1).back().code(), 5u);
  bridge.upstream(frame(kRst, 0, 3, number(11, 4)));
  EXPECT_EQ(bridge.to_client.of(3).back().code(), 11u);
  EXPECT_TRUE(bridge.front.idle());
}

TEST(H2, WhatCameBeforeAResetIsDeliveredBeforeIt) {
  Bridge bridge;
  bridge.client(head(1, request_fields()));
  bridge.stopped = true;
  bridge.upstream(head(1, {{":status", "200"}}, false) + data(1, "part", false) +
                  frame(kRst, 0, 1, number(2, 4)));
  bridge.stopped = false;
  bridge.move();
  const auto got = bridge.to_client.of(1);
  ASSERT_EQ(got.size(), 3u);
  EXPECT_EQ(got[1].payload, "part");
  EXPECT_EQ(got[2].code(), 2u);
}

TEST(H2, AnEarlyAnswerStopsTheRequest) {
  Bridge bridge;
  bridge.client(head(1, request_fields({}, "POST"), false) + data(1, "some", false));
  bridge.upstream(head(1, {{":status", "413"}}, false) + data(1, "no") + frame(kRst, 0, 1, number(0, 4)));
  const auto got = bridge.to_client.of(1);
  ASSERT_EQ(got.size(), 3u);
  EXPECT_TRUE(got[1].ends());
  EXPECT_EQ(got[2].type, kRst);
  EXPECT_EQ(got[2].code(), 0u);
}

TEST(H2, ARequestGoesOnAfterItsAnswer) {
  Bridge bridge;
  bridge.client(head(1, request_fields({}, "POST"), false));
  bridge.upstream(head(1, {{":status", "200"}}));
  bridge.client(data(1, "late"));
  EXPECT_EQ(bridge.to_upstream.content(1), "late");
  EXPECT_TRUE(bridge.to_upstream.of(1).back().ends());
  EXPECT_TRUE(bridge.front.idle());
}

TEST(H2, ARefusedRequestIsAnsweredAndTheConnectionLives) {
  Bridge bridge;
  bridge.client(head(1, request_fields({}, "POST", "/refused"), false) + head(3, request_fields()));
  const auto got = bridge.to_client.of(1);
  ASSERT_GE(got.size(), 2u);
  EXPECT_EQ(got[0].fields[0], std::pair(string(":status"), string("403")));
  EXPECT_EQ(bridge.to_client.content(1), "weir: refused\n");
  EXPECT_EQ(bridge.requests(), 1u);
  bridge.client(data(1, "for nobody"));
  EXPECT_EQ(bridge.to_upstream.content(1), "");
  bridge.upstream(head(1, {{":status", "204"}}));
  EXPECT_EQ(bridge.to_client.of(3)[0].fields[0].second, "204");
}

TEST(H2, ASlowClientHoldsTheUpstream) {
  H2Limits limits;
  limits.stream_window = limits.connection_window = 65'535;
  Bridge bridge(limits);
  bridge.client(frame(kSettings, 0, 0, setting(4, 100)) + head(1, request_fields()));
  bridge.upstream(head(1, {{":status", "200"}}, false));
  for (int i = 0; i < 4; ++i) bridge.upstream(data(1, string(16'000, 'x'), false));
  EXPECT_EQ(bridge.to_client.content(1).size(), 100u);
  EXPECT_TRUE(bridge.to_upstream.of_type(kWindow).empty());
  bridge.client(frame(kWindow, 0, 1, number(60'000, 4)));
  EXPECT_EQ(bridge.to_client.content(1).size(), 60'100u);
  EXPECT_FALSE(bridge.to_upstream.of_type(kWindow).empty());
}

TEST(H2, ASlowUpstreamHoldsTheClient) {
  H2Limits limits;
  limits.stream_window = limits.connection_window = 65'535;
  Bridge bridge(limits);
  bridge.upstream(frame(kSettings, 0, 0, setting(4, 100)));
  bridge.client(head(1, request_fields({}, "POST"), false));
  for (int i = 0; i < 4; ++i) bridge.client(data(1, string(16'000, 'x'), false));
  EXPECT_EQ(bridge.to_upstream.content(1).size(), 100u);
  EXPECT_TRUE(bridge.to_client.of_type(kWindow).empty());
  bridge.upstream(frame(kWindow, 0, 1, number(60'000, 4)));
  EXPECT_EQ(bridge.to_upstream.content(1).size(), 60'100u);
  EXPECT_FALSE(bridge.to_client.of_type(kWindow).empty());
}

// What a cancelled stream had waiting is paid back to the connection's window, or others would starve.
TEST(H2, CancelledStreamsFreeTheConnectionsWindow) {
  H2Limits limits;
  limits.stream_window = limits.connection_window = 65'535;
  Bridge bridge(limits);
  bridge.client(frame(kSettings, 0, 0, setting(4, 0)));
  for (std::uint32_t stream = 1; stream < 20; stream += 2) {
    bridge.client(head(stream, request_fields()));
    bridge.upstream(head(stream, {{":status", "200"}}, false));
    for (int i = 0; i < 3; ++i) ASSERT_TRUE(bridge.upstream(data(stream, string(16'000, 'x'), false)));
    bridge.client(frame(kRst, 0, stream, number(8, 4)));
  }
  EXPECT_TRUE(bridge.to_upstream.of_type(kGoaway).empty());
}

TEST(H2, AnUpstreamThatLeaves) {
  Bridge bridge;
  bridge.client(head(1, request_fields()) + head(3, request_fields()));
  bridge.upstream(frame(kGoaway, 0, 0, number(1, 4) + number(0, 4)));
  EXPECT_EQ(bridge.to_client.of(3).back().code(), 7u);  // REFUSED_STREAM: not taken up
  bridge.client(head(5, request_fields()));
  EXPECT_EQ(bridge.to_client.of(5).back().code(), 7u);
  EXPECT_EQ(bridge.requests(), 2u);
  bridge.upstream(head(1, {{":status", "200"}}));
  EXPECT_EQ(bridge.to_client.of(1).back().fields[0].second, "200");
  EXPECT_EQ(bridge.to_client.of_type(kGoaway).size(), 2u);
  EXPECT_TRUE(bridge.front.finished());
}

TEST(H2, AnUpstreamThatBreaksOff) {
  Bridge bridge;
  bridge.client(head(1, request_fields()) + head(3, request_fields()));
  bridge.upstream(head(1, {{":status", "200"}}, false) + data(1, "part", false));
  bridge.back.ended({502, "gone"});
  bridge.move();
  EXPECT_EQ(bridge.to_client.of(1).back().type, kRst);
  EXPECT_EQ(bridge.to_client.of(3).front().fields[0].second, "502");
  EXPECT_FALSE(bridge.to_client.of_type(kGoaway).empty());
}

TEST(H2, AMalformedAnswerIsNotPassedOn) {
  for (const auto& answer : std::vector<Pairs>{{{":status", "200"}, {"Upper", "x"}},
                                               {{":status", "200"}, {"connection", "close"}},
                                               {{":status", "101"}},
                                               {{"no-status", "1"}},
                                               {{":status", "200"}, {"v", "a\r\nb"}}}) {
    Bridge bridge;
    bridge.client(head(1, request_fields()));
    bridge.upstream(head(1, answer));
    ASSERT_FALSE(bridge.to_client.of(1).empty());
    EXPECT_EQ(bridge.to_client.of(1).front().fields[0].second, "502");
  }
}

TEST(H2, HeadsOverTheLimitsAreAnsweredAndTheConnectionLives) {
  Bridge bridge;
  Pairs many;
  for (int i = 0; i < 300; ++i) many.emplace_back("x", "1");
  bridge.client(head(1, request_fields(many)));
  EXPECT_EQ(bridge.to_client.of(1).front().fields[0].second, "431");
  Pairs large;
  for (int i = 0; i < 5; ++i) large.emplace_back("x", string(14'000, 'v'));
  const string text = block(request_fields(large));
  string frames = frame(kHeaders, kEndStream, 3, text.substr(0, 16'000));
  for (std::size_t at = 16'000; at < text.size(); at += 16'000)
    frames += frame(kContinuation, at + 16'000 >= text.size() ? kEndHeaders : 0, 3, text.substr(at, 16'000));
  bridge.client(frames);
  EXPECT_EQ(bridge.to_client.of(3).front().fields[0].second, "431");
  EXPECT_EQ(bridge.requests(), 0u);
  bridge.client(head(5, request_fields()));
  EXPECT_EQ(bridge.requests(), 1u);
}

TEST(H2, ResponsesMayHaveLargerHeads) {
  Bridge bridge;
  bridge.client(head(1, request_fields()));
  Pairs large = {{":status", "200"}};
  for (int i = 0; i < 1'000; ++i) large.emplace_back("x", string(100, 'v') + std::to_string(i));
  const string text = block(large);
  string frames = frame(kHeaders, kEndStream, 1, text.substr(0, 16'000));
  for (std::size_t at = 16'000; at < text.size(); at += 16'000)
    frames += frame(kContinuation, at + 16'000 >= text.size() ? kEndHeaders : 0, 1, text.substr(at, 16'000));
  bridge.upstream(frames);
  ASSERT_FALSE(bridge.to_client.of(1).empty());
  EXPECT_EQ(bridge.to_client.of(1).front().fields.size(), 1'001u);
}

TEST(H2, TheClientIsToldHowManyStreamsTheUpstreamTakes) {
  Bridge bridge;
  bridge.upstream(frame(kSettings, 0, 0, setting(3, 7)));
  bridge.front.limit_streams(bridge.back.max_streams());
  bridge.front.limit_streams(bridge.back.max_streams());
  bridge.move();
  const auto told = bridge.to_client.of_type(kSettings);
  EXPECT_EQ(told.back().payload, setting(3, 7));
  EXPECT_EQ(told.size(), 3u);  // the first, an ACK, and this
}

TEST(H2, StreamsOverTheLimitAreRefused) {
  H2Limits limits;
  limits.streams = 3;
  Bridge bridge(limits);
  for (std::uint32_t stream = 1; stream <= 7; stream += 2) bridge.client(head(stream, request_fields()));
  EXPECT_EQ(bridge.requests(), 3u);
}

// Each flood is sent away with ENHANCE_YOUR_CALM; a little of the same is not.
TEST(H2, Floods) {
  H2Limits limits;
  limits.flood_burst = 50;
  std::uint32_t stream = 1;
  const auto open_and_reset = [&stream] {
    stream += 2;
    return head(stream, request_fields()) + frame(kRst, 0, stream, number(8, 4));
  };
  const auto malformed = [&stream] {
    stream += 2;
    return head(stream, request_fields({{"X", "1"}}));
  };
  const std::vector<std::pair<const char*, std::function<string()>>> floods = {
      {"rapid reset", open_and_reset},
      {"made to reset", malformed},
      {"PING", [] { return frame(kPing, 0, 0, string(8, 'x')); }},
      {"SETTINGS", [] { return frame(kSettings, 0, 0); }},
      {"PRIORITY", [] { return frame(kPriority, 0, 1, number(0, 4) + "x"); }},
      {"empty DATA", [] { return data(1, "", false); }},
  };
  for (const auto& [what, one] : floods) {
    SCOPED_TRACE(what);
    Bridge bridge(limits);
    stream = 1;
    bridge.client(head(1, request_fields({}, "POST"), false));
    for (int i = 0; i < 40; ++i) ASSERT_TRUE(bridge.client(one()));
    ASSERT_TRUE(bridge.to_client.of_type(kGoaway).empty());
    bridge.now += std::chrono::seconds(1);
    for (int i = 0; i < 40; ++i) ASSERT_TRUE(bridge.client(one()));
    ASSERT_TRUE(bridge.to_client.of_type(kGoaway).empty());
    for (int i = 0; i < 40; ++i) bridge.client(one());
    ASSERT_EQ(bridge.to_client.of_type(kGoaway).size(), 1u);
    EXPECT_EQ(bridge.to_client.of_type(kGoaway)[0].code(), 11u);
    EXPECT_TRUE(bridge.front.flooded());
    EXPECT_TRUE(bridge.front.finished());
  }
}

TEST(H2, ContinuationFlood) {
  Bridge bridge;
  bridge.client(frame(kHeaders, kEndStream, 1, block(request_fields())));
  bool taken = true;
  for (int i = 0; i < 100 && taken; ++i) taken = bridge.client(frame(kContinuation, 0, 1, ""));
  EXPECT_FALSE(taken);
  EXPECT_EQ(bridge.to_client.of_type(kGoaway)[0].code(), 11u);
  EXPECT_EQ(bridge.requests(), 0u);
}

TEST(H2, HpackBomb) {
  Bridge bridge;
  // One entry of nearly the table's size, then one byte for each of its repeats.
  const string entry = "\x40" + literal_string("x") + literal_string(string(3'900, 'v'));
  const string repeats(12'000, '\xbe');
  EXPECT_FALSE(
      bridge.client(frame(kHeaders, kEndHeaders | kEndStream, 1, block(request_fields()) + entry + repeats)));
  EXPECT_EQ(bridge.to_client.of_type(kGoaway)[0].code(), 11u);
  EXPECT_EQ(bridge.requests(), 0u);
}

}  // namespace
}  // namespace weir::proxy::test
