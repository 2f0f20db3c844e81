// The HTTP/2 builder where bytes are missing, or were never ours to see: nothing is guessed, nothing is given
// to another stream.
#include <gtest/gtest.h>

#include "tests/unit/http/h2_talk.h"

namespace weir::http {
namespace {

using namespace test;

// Each piece is one chunk: where framing is lost, a chunk's end tells something.
Result play(const std::vector<Step>& steps, const ExchangeLimits& limits = capturing()) {
  return run<H2ExchangeBuilder>(steps, 0, limits);
}

struct Talk : test::Talk {
  void expect(std::string_view name, Lines whole, Lines late = {}, Unparsed unparsed = {0, 0}) const {
    check(test::Talk::expect(name, std::move(whole), std::move(late), unparsed), play(steps));
  }
};

TEST(H2Gap, CountsWhatIsMissingInsideContent) {
  Talk t;
  t << req(t.client.post(1, "/1") + data(1, "0123456789").substr(0, 11)) << lost(Side::request, 8)
    << req(last_data(1, "x")) << res(t.server.head(1, "200") + last_data(1, "abcdef").substr(0, 9))
    << lost(Side::response, 6) << req(t.client.get(3, "/3")) << res(t.server.ok(3, "b"));
  const Lines expected = {"0#1 POST /1 01x/11! -> 200 /6! gap_bytes=14 gap", "1#3 GET /3 /0 -> 200 b/1"};
  const auto result = run_all<H2ExchangeBuilder>(t.steps);
  EXPECT_EQ(result.before_finish, expected);
  EXPECT_EQ(result.unparsed, (Unparsed{0, 0}));
}

TEST(H2Gap, PassesOverFramesWithoutConsequence) {
  Talk t;
  t << req(t.client.get(1, "/1") + frame(FrameType::ping, 0, 0, "12345678").substr(0, 11))
    << lost(Side::request, 6)
    << res(frame(FrameType::data, kPadded, 9, std::string("\x05", 1) + "ab" + std::string(5, '\0'))
               .substr(0, 11))
    << lost(Side::response, 6) << req(t.client.get(3, "/3")) << res(t.server.ok(1, "a"))
    << res(t.server.ok(3, "b"));
  const auto result = run_all<H2ExchangeBuilder>(t.steps);
  const Lines expected = {"0#1 GET /1 /0 -> 200 a/1", "1#3 GET /3 /0 -> 200 b/1"};
  EXPECT_EQ(result.before_finish, expected);
}

TEST(H2Gap, PaddingIsNoContent) {
  Talk t;
  const auto padded = frame(FrameType::data, kPadded | kEndStream, 1,
                            "\x05"
                            "abc" +
                                std::string(5, '\0'));
  t << req(t.client.get(1, "/1")) << res(t.server.head(1, "200") + padded.substr(0, 11))
    << lost(Side::response, 7);
  const auto result = run_all<H2ExchangeBuilder>(t.steps);
  EXPECT_EQ(result.before_finish, Lines{"0#1 GET /1 /0 -> 200 a/3! gap_bytes=2 gap"});
}

// A field that refers to what was said before the gap is unknown, which marks its exchange, too.
TEST(H2Gap, FindsFramesAgain) {
  {
    Talk t;
    t << req(t.client.get(1, "/1")) << req(t.client.get(3, "/3"))
      << res(t.server.head(1, "200") + data(1, "abcd").substr(0, 11));
    t << lost(Side::response, 100) << res(data(1, "x")) << res(last_data(1, "y")) << res(t.server.ok(3, "b"));
    t.expect("more than a frame's content is lost",
             {"0#1 GET /1 /0 -> 200 abxy/6! gap_bytes=2 gap", "1#3 GET /3 /0 -> 200 b/1 gap"});
  }
  {
    Talk t;
    t << req(t.client.get(1, "/1")) << res(t.server.head(1, "200"));
    t << lost(Side::response, 100) << res("the middle of a frame" + data(1, "x") + last_data(1, "y"));
    t.expect("inside a chunk", {"0#1 GET /1 /0 -> 200 xy/2 gap"}, {}, {0, 21});
  }
  {
    Talk t;
    t << req(t.client.get(1, "/1")) << res(t.server.head(1, "200")) << lost(Side::response, 100);
    const auto frames = data(1, std::string(5000, 'x')) + last_data(1, "y");
    t << res("tail" + frames.substr(0, 3000)) << res(frames.substr(3000, 1500)) << res(frames.substr(4500));
    t.expect("a frame longer than the chunk",
             {"0#1 GET /1 /0 -> 200 " + std::string(5000, 'x') + "y/5001 gap"}, {}, {0, 4});
  }
  {
    Talk t;
    t << req(t.client.post(1, "/1") + data(1, "ab")) << lost(Side::request, 50) << req(t.client.get(5, "/5"))
      << res(t.server.ok(1, "a")) << res(t.server.ok(3, "never asked for")) << res(t.server.ok(5, "b"));
    Server s;
    t.expect("a request's end and a whole one are lost",
             {"0#1 POST /1 ab/2 -> 200 a/1 gap", "1#5 GET /5 /0 -> 200 b/1 gap"}, {},
             {0, (s.ok(1, "a"), s.ok(3, "never asked for")).size()});
  }
  {
    Talk t;
    t << req(t.client.get(1, "/1"));
    const auto head = t.server.ok(1, "a");
    t << res(head.substr(0, 12)) << lost(Side::response, head.size() - 12) << req(t.client.get(3, "/3"))
      << res(t.server.ok(3, "b"));
    t.expect("a whole response is lost, from within its header block", {"1#3 GET /3 /0 -> 200 b/1 gap"},
             {"0#1 GET /1 /0 -> none /0 gap"}, {0, 12});
  }
  {
    Talk t;
    t << req(t.client.get(1, "/1")) << lost(Side::response, 10) << res(t.server.ok(1, "a"));
    t.expect("what is lost ended before the response began", {"0#1 GET /1 /0 -> 200 a/1"});
  }
  {
    Talk t;
    t << req(t.client.get(1, "/1")) << lost(Side::response, 10)
      << res(t.server.headers(1, {{"grpc-status", "0"}}, kEndStream));
    t.expect("the head is lost, the trailers come", {"0#1 GET /1 /0 -> none /0 gap grpc-status=0"});
  }
}

TEST(H2Gap, WhatLooksLikeFramesAndIsNot) {
  Talk t;
  t << req(t.client.get(1, "/1")) << lost(Side::response, 100);
  const auto ping = frame(FrameType::ping, 0, 0, "12345678");
  t << res("xx" + ping + ping + "not a frame");
  t << res(t.server.ok(1, "a")) << req(t.client.get(3, "/3")) << res(t.server.ok(3, "b"));
  t.expect("given up, found again", {"0#1 GET /1 /0 -> 200 a/1", "1#3 GET /3 /0 -> 200 b/1"}, {},
           {0, 2 + 11});
}

// A client and a server that have been talking for long.
struct Old : Talk {
  Deflater::Fields get(std::string_view path) {
    return {{":method", "GET"},
            {":scheme", "https"},
            {":authority", "a.test"},
            {":path", path},
            {"x-old", "said before"}};
  }
  Old() {
    client.block(get("/old"));
    server.block({{":status", "418"}, {"x-old", "said before"}});
    steps = {lost(Side::request, 0), lost(Side::response, 0)};
  }
};

TEST(H2Gap, JoinsInTheMiddle) {
  {
    Old t;
    const auto tail = data(7, "tail") + last_data(7, "end");
    t << res(tail) << req(t.client.headers(9, t.get("/new"), kEndStream))
      << res(t.server.head(9, "200") + last_data(9, "a"))
      << req(t.client.headers(11, t.get("/new"), kEndStream)) << res(t.server.ok(11, "b"));
    const auto result = play(t.steps);
    // x-old and :authority refer to what was said before.
    const Lines expected = {"0#9 GET /new /0 -> 200 a/1 joined_midstream",
                            "1#11 GET /new /0 -> 200 b/1 joined_midstream"};
    EXPECT_EQ(result.before_finish, expected);
    EXPECT_EQ(result.protocol, Protocol::http2);
    EXPECT_EQ(result.unparsed, (Unparsed{0, tail.size()}));
  }
  {
    Old t;
    const Deflater::Fields fresh = {
        {":method", "GET"}, {":path", "/n"}, {":scheme", "https"}, {"x-new", "now"}};
    t << req(t.client.headers(9, fresh, kEndStream)) << req(t.client.headers(11, fresh, kEndStream));
    t << res(t.server.ok(9, "a")) << res(t.server.ok(11, "b"));
    t.expect("nothing refers to the past", {"0#9 GET /n /0 -> 200 a/1", "1#11 GET /n /0 -> 200 b/1"});
  }
  {
    Old t;
    // :method GET, :scheme https, and the fifth newest entry.
    t << req(frame(FrameType::headers, kEndHeaders | kEndStream, 9, "\x82\x87\xc2"))
      << res(t.server.headers(9, {{":status", "418"}}) + last_data(9, "tea"));
    t.expect("path and status unknown", {"0#9 GET  /0 -> 0 tea/3 joined_midstream"});
  }
  {
    Old t;
    t << req(t.client.headers(9, t.get("/new"), kEndStream)) << res(t.server.headers(9, {{":status", "418"}}))
      << res(t.server.ok(9, "a"));
    t.expect("an unknown status that was an interim one", {"0#9 GET /new /0 -> 0 200 a/1 joined_midstream"});
  }
  {
    Old t;
    t << req(t.client.headers(9, {{"trailer", "1"}}, kEndStream)) << res(t.server.ok(9, "old"))
      << req(t.client.headers(11, {{":method", "GET"}, {":path", "/n"}}, kEndStream))
      << res(t.server.ok(11, "b"));
    t.expect("the end of an old request", {"0#11 GET /n /0 -> 200 b/1"}, {},
             {9 + 9, Server().ok(9, "old").size()});
  }
}

TEST(H2Gap, ForgetsAnswersWhoseRequestsArePast) {
  Old t;
  H2ExchangeBuilder builder({}, [](const Exchange&) {});
  for (const auto side : {Side::request, Side::response}) builder.gap(side, 0, at(1));
  builder.feed(Side::response, bytes(t.server.ok(7, "old")), at(1));
  EXPECT_FALSE(builder.idle()) << "its request may still be told";
  builder.feed(Side::request, bytes(t.client.get(9, "/9")), at(1));
  builder.feed(Side::response, bytes(t.server.ok(9, "new")), at(1));
  EXPECT_TRUE(builder.idle());
}

TEST(H2Gap, JoinsWithoutBeingTold) {
  Old t;
  t.steps.clear();
  t << req(t.client.headers(9, {{":method", "GET"}, {":path", "/n"}}, kEndStream))
    << res(t.server.ok(9, "b"));
  t.expect("between exchanges", {"0#9 GET /n /0 -> 200 b/1"});
}

TEST(H2Gap, JoinedFieldsResolveToTheEntriesOfNow) {
  std::vector<Exchange> seen;
  H2ExchangeBuilder builder({}, [&](Exchange e) { seen.push_back(std::move(e)); });
  Client c(65536);
  c.resize(65536);
  std::vector<std::string> values;
  for (int i = 0; i < 400; ++i) values.push_back("v" + std::to_string(i));
  for (std::size_t i = 0; i < 300; ++i) c.block({{"x-before", values[i]}});
  builder.gap(Side::request, 0, at(1));
  builder.gap(Side::response, 0, at(1));
  std::uint32_t id = 101;
  const auto ask = [&](std::size_t i) {
    const std::string_view name = i < 300 ? "x-before" : "x-now";
    const auto head = c.headers(id, {{":method", "GET"}, {":path", "/"}, {name, values[i]}}, kEndStream);
    builder.feed(Side::request, bytes(head), at(1));
    id += 2;
  };
  for (std::size_t i = 300; i < 400; ++i) ask(i);
  for (std::size_t i = 0; i < 400; ++i) ask(i);
  builder.finish(at(2));
  ASSERT_EQ(seen.size(), 500U);
  for (std::size_t i = 0; i < 500; ++i) {
    SCOPED_TRACE(i);
    const auto value = i < 100 ? 300 + i : i - 100;
    const auto& fields = seen[i].request.fields;
    EXPECT_EQ(seen[i].request.target, "/");
    if (value < 300) {
      EXPECT_TRUE(fields.empty());
      EXPECT_EQ(seen[i].incomplete, "joined_midstream");
    } else {
      ASSERT_EQ(fields.size(), 1U);
      EXPECT_EQ(fields[0].name, "x-now");
      EXPECT_EQ(fields[0].value, values[value]);
      EXPECT_EQ(seen[i].incomplete, "closed_early");
    }
  }
}

// Content that never was frames, and is long: nothing is given out, and little is kept.
TEST(H2Gap, SeeksWithinBounds) {
  H2ExchangeBuilder builder({}, [](const Exchange&) { FAIL(); });
  builder.feed(Side::request, bytes(Client().open()), at(1));
  builder.gap(Side::response, 1, at(1));
  std::string tempting;
  for (int i = 0; i < 4000; ++i)
    tempting += frame(FrameType::data, 0, 1, "").replace(0, 3, std::string("\0\x3f\xff", 3));
  std::uint64_t fed = 0;
  for (int i = 0; i < 40; ++i) {
    builder.feed(Side::response, bytes(tempting), at(1));
    fed += tempting.size();
    EXPECT_GE(builder.unparsed_bytes(Side::response) + (std::uint64_t{1} << 17), fed);
  }
  builder.finish(at(1));
  EXPECT_EQ(builder.unparsed_bytes(Side::response), fed);
}

}  // namespace
}  // namespace weir::http
