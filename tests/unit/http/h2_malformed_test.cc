// The HTTP/2 builder where a connection is cut off, breaks the rules or asks for too much.
#include <gtest/gtest.h>

#include "tests/unit/http/h2_talk.h"

namespace weir::http {
namespace {

using namespace test;

TEST(H2Malformed, SaysWhatWasCutOff) {
  {
    Talk t;
    t << req(t.client.post(1, "/1") + data(1, "ab"));
    t << res(t.server.head(1, "200") + data(1, "x"));
    t << req(rst(1, 8));
    t << res(data(1, "late"));
    check_h2(t.expect("client cancels", {"0#1 POST /1 ab/2 -> 200 x/1 closed_early"}, {}, {0, 9 + 4}));
  }
  {
    Talk t;
    t << req(t.client.get(1, "/1"));
    t << res(rst(1, 7));
    check_h2(t.expect("server refuses", {"0#1 GET /1 /0 -> none /0 closed_early"}));
  }
  {
    Talk t;
    t << res(rst(1, 7));
    t << req(t.client.get(1, "/1"));
    check_h2(t.expect("server refuses, told early", {"0#1 GET /1 /0 -> none /0 closed_early"}));
  }
  {
    Talk t;
    t << req(t.client.post(1, "/1") + data(1, "ab"));
    t << res(t.server.ok(1, "enough") + rst(1, 0));
    check_h2(t.expect("the server needs no more of the body", {"0#1 POST /1 ab/2 -> 200 enough/6"}));
  }
  {
    Talk t;
    t << req(t.client.get(1, "/1")) << req(t.client.get(3, "/3")) << req(t.client.get(5, "/5"));
    t << res(goaway(3)) << res(t.server.ok(1, "a"));
    t << req(t.client.get(7, "/7"));
    t << res(t.server.ok(3, "b"));
    check_h2(t.expect("GOAWAY", {"2#5 GET /5 /0 -> none /0 closed_early", "0#1 GET /1 /0 -> 200 a/1",
                                 "3#7 GET /7 /0 -> none /0 closed_early", "1#3 GET /3 /0 -> 200 b/1"}));
  }
  {
    Talk t;
    t << req(t.client.post(1, "/1") + data(1, "ab")) << req(t.client.get(3, "/3"));
    t << res(t.server.ok(1, "a")) << res(t.server.head(3, "200") + data(3, "cd").substr(0, 10));
    check_h2(t.expect("the connection ends", {},
                      {"0#1 POST /1 ab/2 -> 200 a/1 closed_early", "1#3 GET /3 /0 -> 200 c/1 closed_early"}));
  }
  {
    Talk t;
    t << req(t.client.post(1, "/1") + data(1, "ab")) << req(t.client.get(3, "/3"));
    t << end(Side::request);
    t << res(t.server.ok(1, "a"));
    t << end(Side::response);
    check_h2(t.expect("each side ends",
                      {"0#1 POST /1 ab/2 -> 200 a/1 closed_early", "1#3 GET /3 /0 -> none /0 closed_early"}));
  }
  {
    Talk t;
    const auto half = t.client.continued(1, Client::request("GET", "/1"), 5).substr(0, 20);
    t << req(half);
    const auto orphan = t.server.ok(1, "a");
    t << res(orphan);
    check_h2(t.expect("half a header block; a response without a request", {}, {}, {20, orphan.size()}));
  }
}

TEST(H2Malformed, EndsAtWhatIsMalformed) {
  struct Bad {
    std::string_view name;
    Side side;
    std::string bytes;
  };
  const Bad cases[] = {
      {"DATA on stream 0", Side::request, data(0, "x")},
      {"SETTINGS on a stream", Side::response, frame(FrameType::settings, 0, 1)},
      {"SETTINGS of a bad size", Side::response, settings("12345")},
      {"an acknowledgment that says something", Side::response, frame(FrameType::settings, 1, 0, "123456")},
      {"RST_STREAM of a bad size", Side::request, frame(FrameType::rst_stream, 0, 1, "12345")},
      {"more padding than payload", Side::request,
       frame(FrameType::data, kPadded, 1,
             "\x04"
             "abc")},
      {"no room for the padding's length", Side::request, frame(FrameType::data, kPadded, 1)},
      {"CONTINUATION of nothing", Side::request, frame(FrameType::continuation, kEndHeaders, 1)},
      {"no CONTINUATION", Side::request,
       frame(FrameType::headers, 0, 3, "\x82") + frame(FrameType::ping, 0, 0, "12345678")},
      {"CONTINUATION of another stream", Side::request,
       frame(FrameType::headers, 0, 3, "\x82") + frame(FrameType::continuation, kEndHeaders, 5, "\x84\x87")},
      {"a client's even stream", Side::request, frame(FrameType::headers, kEndHeaders, 2, "\x82")},
      {"a client's promise", Side::request, frame(FrameType::push_promise, kEndHeaders, 1, big_endian(2, 4))},
      {"an odd stream promised", Side::response,
       frame(FrameType::push_promise, kEndHeaders, 1, big_endian(3, 4))},
      {"an index that nothing has", Side::request, frame(FrameType::headers, kEndHeaders, 3, "\xff\x7f")},
      {"a block that ends in a field", Side::request, frame(FrameType::headers, kEndHeaders, 3, "\x40\x05")},
  };
  for (const auto& bad : cases) {
    SCOPED_TRACE(bad.name);
    Talk t;
    t << req(t.client.get(1, "/1"));
    t << Step{Step::Kind::data, bad.side, bad.bytes};
    const auto dead = t.client.get(9, "/9");
    t << req(dead);
    t << res(t.server.ok(1, "a"));
    const auto result = run_all_h2(t.steps);
    EXPECT_EQ(result.before_finish, Lines{"0#1 GET /1 /0 -> none /0 error"});
    EXPECT_EQ(result.all.size(), 1U);
    EXPECT_GE(result.unparsed[0], dead.size());
    EXPECT_GT(result.unparsed[1], 0U);
  }
}

TEST(H2Malformed, MarksMessagesThatAreMalformed) {
  using F = Deflater::Fields;
  const F requests[] = {
      {{":scheme", "https"}, {":path", "/"}},
      {{":method", "GET"}, {":scheme", "https"}},
      {{":method", "CONNECT"}, {":path", "/"}},
      {{":method", "GET"}, {":method", "PUT"}, {":path", "/"}},
      {{":method", "GET"}, {"a", "b"}, {":path", "/"}},
      {{":method", "GET"}, {":path", "/"}, {":odd", "1"}},
  };
  for (const auto& fields : requests) {
    Talk t;
    t << req(t.client.headers(1, fields, kEndStream)) << req(t.client.get(3, "/"));
    t << res(t.server.ok(1, "a")) << res(t.server.ok(3, "b"));
    const auto result = run_all_h2(t.steps);
    ASSERT_EQ(result.before_finish.size(), 2U);
    EXPECT_TRUE(result.all[0].ends_with(" error")) << result.all[0];
    EXPECT_EQ(result.all[1], "1#3 GET / /0 -> 200 b/1");
  }
  for (const F& fields : {F{{"a", "b"}}, F{{":status", "20"}}, F{{":status", "2x0"}}}) {
    Talk t;
    t << req(t.client.get(1, "/"));
    t << res(t.server.headers(1, fields, kEndStream));
    check_h2(t.expect("response", {"0#1 GET / /0 -> 0 /0 error"}));
  }
}

TEST(H2Malformed, NamesErrorsAndKeepsWhatWasReadBefore) {
  using F = Deflater::Fields;
  std::vector<std::string> seen;
  H2ExchangeBuilder builder({}, [&](const Exchange& e) {
    seen.push_back(e.request.target + " " + std::to_string(e.response ? e.response->status : 0) + " " +
                   e.protocol_error);
  });
  Client c;
  Server s;
  F many = {{":status", "203"}};
  many.resize(1100, {"x", "y"});
  builder.feed(Side::request, bytes(c.open()), at(1));
  builder.feed(Side::response, bytes(s.open()), at(1));
  builder.feed(Side::request, bytes(c.headers(1, F{{":path", "/1"}}, kEndStream)), at(1));
  builder.feed(Side::response, bytes(s.ok(1, "")), at(1));
  builder.feed(Side::request, bytes(c.get(3, "/3")), at(1));
  builder.feed(Side::response, bytes(s.headers(3, many, kEndStream)), at(1));
  builder.feed(Side::request, bytes(c.get(5, "/5")), at(1));
  builder.feed(Side::response, bytes(s.headers(5, F{{":status", "204"}, {":status", "204"}}, kEndStream)),
               at(1));
  builder.feed(Side::request, bytes(c.get(7, "/7")), at(1));
  builder.feed(Side::response, bytes(frame(FrameType::headers, kEndHeaders, 7, "\xff\x7f")), at(1));
  const std::vector<std::string> expected = {"/1 200 malformed_request", "/3 203 oversized_response",
                                             "/5 204 malformed_response", "/7 0 malformed_http2"};
  EXPECT_EQ(seen, expected);
}

TEST(H2Malformed, HoldsItsLimits) {
  auto limits = capturing();
  limits.body_bytes = 4;
  limits.pending = 2;
  limits.early_response = 200;
  limits.h1.head = 150;
  limits.h1.fields = 6;
  {
    Talk t;
    t << req(t.client.post(1, "/1") + last_data(1, "0123456789"));
    t << res(t.server.ok(1, "abcd"));
    EXPECT_EQ(run_all_h2(t.steps, limits).all, Lines{"0#1 POST /1 0123/10! -> 200 abcd/4"});
  }
  {
    Talk t;
    t << req(t.client.get(1, "/1")) << req(t.client.get(3, "/3")) << req(t.client.get(5, "/5"));
    t << res(t.server.ok(1, "a")) << res(t.server.ok(3, "b")) << res(t.server.ok(5, "c"));
    const Lines expected = {"0#1 GET /1 /0 -> none /0 closed_early error", "1#3 GET /3 /0 -> 200 b/1",
                            "2#5 GET /5 /0 -> 200 c/1"};
    EXPECT_EQ(run_all_h2(t.steps, limits).all, expected);
  }
  limits.body_bytes = 1000;
  {
    Talk t;
    const auto flood = t.server.ok(1, std::string(300, 'x'));
    t << res(flood) << res(t.server.ok(3, "b"));
    t << req(t.client.get(1, "/1")) << req(t.client.get(3, "/3"));
    const auto result = run_all_h2(t.steps, limits);
    const Lines expected = {"1#3 GET /3 /0 -> 200 b/1", "0#1 GET /1 /0 -> none /0 closed_early"};
    EXPECT_EQ(result.all, expected);
    EXPECT_EQ(result.unparsed[1], flood.size());
  }
  {
    Talk t;
    t << req(t.client.headers(
        1,
        {{":method", "GET"}, {":path", "/1"}, {":scheme", "https"}, {"a", std::string(200, 'x')}, {"b", "c"}},
        kEndStream));
    t << req(t.client.headers(3,
                              {{":method", "GET"},
                               {":path", "/3"},
                               {":scheme", "https"},
                               {"1", ""},
                               {"2", ""},
                               {"3", ""},
                               {"4", ""},
                               {"5", ""},
                               {"6", ""},
                               {"7", ""}},
                              kEndStream));
    t << res(t.server.ok(1, "a")) << res(t.server.ok(3, "b"));
    const Lines expected = {"0#1 GET /1 /0 -> 200 a/1 error", "1#3 GET /3 /0 -> 200 b/1 error"};
    EXPECT_EQ(run_all_h2(t.steps, limits).all, expected);
  }
}

TEST(H2Malformed, BoundsTheBodiesOfAllStreams) {
  auto limits = capturing();
  limits.body_bytes = 100;
  Client c;
  Server s;
  std::string requests = c.open();
  std::string responses = s.open();
  for (std::uint32_t id = 1; id < 41; id += 2) {
    requests += c.get(id, "/");
    responses += s.head(id, "200") + data(id, std::string(100, 'x'));
  }
  std::size_t captured = 0;
  std::uint64_t size = 0;
  H2ExchangeBuilder builder(limits, [&](const Exchange& e) {
    captured += e.response_body.data.size();
    size += e.response_body.size;
    EXPECT_EQ(e.response_body.truncated, e.response_body.data.size() < 100);
  });
  builder.feed(Side::request, bytes(requests), at(1));
  builder.feed(Side::response, bytes(responses), at(1));
  builder.finish(at(1));
  EXPECT_EQ(captured, 400U);
  EXPECT_EQ(size, 2000U);
}

}  // namespace
}  // namespace weir::http
