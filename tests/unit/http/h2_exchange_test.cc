// The HTTP/2 builder: which frames are whose, whatever their order and the cuts of the two streams.
#include "http/h2_exchange.h"

#include <gtest/gtest.h>

#include <random>

#include "tests/unit/http/conversation.h"
#include "tests/unit/http/h2_wire.h"

namespace weir::http {
namespace {

using namespace test;

Result run_all(const std::vector<Step>& steps, const ExchangeLimits& limits = capturing()) {
  return test::run_all<H2ExchangeBuilder>(steps, limits);
}

// A conversation of connections that each begin anew.
struct Talk {
  Client client;
  Server server;
  std::vector<Step> steps = {req(client.open()), res(server.open())};

  // Not +, which doesn't say which operand's header block comes first.
  Talk& operator<<(Step step) {
    steps.push_back(std::move(step));
    return *this;
  }
  Case expect(std::string_view name, Lines whole, Lines late = {}, Unparsed unparsed = {0, 0}) const {
    return {name, steps, std::move(whole), std::move(late), unparsed};
  }
};

void check(const Case& c) {
  SCOPED_TRACE(c.name);
  const auto result = run_all(c.steps);
  test::check(c, result);
  EXPECT_EQ(result.protocol, Protocol::http2);
}

TEST(H2Exchange, PairsByStream) {
  Talk t;
  auto& [c, s, steps] = t;
  t << req(c.get(1, "/1")) << req(c.get(3, "/3")) << req(c.post(5, "/5"));
  t << res(s.head(3, "200")) << res(s.head(1, "404"));
  t << req(data(5, "abc"));
  t << res(data(1, "x") + last_data(3, "yz"));
  t << req(last_data(5, "de"));
  t << res(last_data(1, "")) << res(s.head(5, "204", kEndStream));
  check(t.expect("interleaved",
                 {"1#3 GET /3 /0 -> 200 yz/2", "0#1 GET /1 /0 -> 404 x/1", "2#5 POST /5 abcde/5 -> 204 /0"}));
}

TEST(H2Exchange, ReadsAllOfAMessage) {
  {
    Talk t;
    t << req(t.client.continued(1,
                                {{":method", "POST"},
                                 {":scheme", "https"},
                                 {":path", "/long"},
                                 {":authority", "a.test"},
                                 {"x-long", std::string(300, 'x')}},
                                7));
    t << res(t.server.head(1, "100")) << res(t.server.head(1, "103"));
    t << req(frame(FrameType::data, kPadded, 1, std::string("\x03", 1) + "abc" + std::string(3, '\0')) +
             frame(FrameType::data, kPadded, 1, std::string("\x02", 1) + std::string(2, '\0')))
      << req(t.client.headers(1, {{"checksum", "7"}}, kEndStream));
    t << res(t.server.head(1, "200") + frame(FrameType::data, kPadded, 1, std::string(1, '\0') + "defg"))
      << res(t.server.continued(1, {{"grpc-status", "0"}, {"grpc-message", "fine"}}, 3, kEndStream));
    check(
        t.expect("CONTINUATION, padding, interim responses, trailers",
                 {"0#1 POST /long abc/3 -> 100 103 200 defg/4 >checksum=7 grpc-status=0 grpc-message=fine"}));
  }
  {
    Talk t;
    const auto block = t.client.block(Client::request("GET", "/p"));
    t << req(frame(FrameType::headers, kPadded | kPriority | kEndHeaders | kEndStream, 1,
                   std::string("\x04", 1) + big_endian(3, 4) + "\x10" + block + std::string(4, '\0')));
    t << req(frame(FrameType::priority, 0, 1, big_endian(0, 4) + "\x10") +
             frame(FrameType::window_update, 0, 0, big_endian(9, 4)) +
             frame(FrameType::ping, 0, 0, "12345678") +
             frame(static_cast<FrameType>(0x77), 0xff, 5, "anything") + frame(FrameType::settings, 1, 0));
    t << res(frame(FrameType::settings, 1, 0)) << res(t.server.ok(1, "k"));
    check(
        t.expect("padded and prioritised HEADERS; frames without consequence", {"0#1 GET /p /0 -> 200 k/1"}));
  }
}

TEST(H2Exchange, GivesRequestsTheShapeOfHttp1) {
  std::vector<Exchange> seen;
  H2ExchangeBuilder builder({}, [&](Exchange e) { seen.push_back(std::move(e)); });
  Client c;
  Server s;
  builder.feed(Side::request, bytes(c.open()), at(1));
  builder.feed(Side::response, bytes(s.open()), at(1));
  EXPECT_TRUE(builder.idle());
  const auto get = c.get(1, "/x?y");
  builder.feed(Side::request, bytes(get.substr(0, 3)), at(2));
  EXPECT_FALSE(builder.idle());
  builder.feed(Side::request, bytes(get.substr(3)), at(3));
  builder.feed(Side::response, bytes(s.head(1, "200")), at(4));
  builder.feed(Side::response, bytes(last_data(1, "abc")), at(5));
  EXPECT_TRUE(builder.idle());
  ASSERT_EQ(seen.size(), 1U);
  const auto& e = seen[0];
  EXPECT_EQ(e.request.method, "GET");
  EXPECT_EQ(e.request.target, "/x?y");
  EXPECT_EQ(e.request.scheme, "https");
  EXPECT_EQ(e.request.version.major, 2);
  EXPECT_EQ(e.request.version.minor, 0);
  ASSERT_EQ(e.request.fields.size(), 2U);
  EXPECT_EQ(e.request.fields[0].name, "host");
  EXPECT_EQ(e.request.fields[0].value, "a.test");
  EXPECT_EQ(e.request.fields[1].name, "user-agent");
  ASSERT_TRUE(e.response);
  EXPECT_EQ(e.response->version.major, 2);
  ASSERT_EQ(e.response->fields.size(), 1U);
  EXPECT_EQ(e.response->fields[0].name, "server");
  EXPECT_EQ(e.response_body.size, 3U);
  EXPECT_TRUE(e.response_body.data.empty()) << "captured without being asked to";
  EXPECT_FALSE(e.response_body.truncated);
  EXPECT_EQ(e.began, at(2));
  EXPECT_EQ(e.ended, at(5));
}

TEST(H2Exchange, KeepsAHostThatIsThere) {
  std::vector<Exchange> seen;
  H2ExchangeBuilder builder({}, [&](Exchange e) { seen.push_back(std::move(e)); });
  Client c;
  builder.feed(
      Side::request,
      bytes(
          c.open() +
          c.headers(
              1,
              {{":method", "GET"}, {":scheme", "https"}, {":path", "/"}, {":authority", "a"}, {"host", "b"}},
              kEndStream)),
      at(1));
  builder.finish(at(2));
  ASSERT_EQ(seen.size(), 1U);
  ASSERT_EQ(seen[0].request.fields.size(), 1U);
  EXPECT_EQ(seen[0].request.fields[0].value, "b");
}

TEST(H2Exchange, TakesAnyOrderOfTheTwoSides) {
  Client c;
  Server s;
  std::string requests = c.open();
  std::string responses = s.open();
  Lines expected;
  for (std::uint32_t id = 1; id < 40; id += 2) {
    const auto path = "/" + std::to_string(id);
    requests += c.post(id, path) + data(id, "ab") + last_data(id, "c");
    responses += s.ok(id, std::string(id, 'x'));
    expected.push_back(std::to_string(id / 2) + "#" + std::to_string(id) + " POST " + path +
                       " abc/3 -> 200 " + std::string(id, 'x') + "/" + std::to_string(id));
  }
  std::ranges::sort(expected);
  for (unsigned seed = 0; seed < 200; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937 random(seed);
    Lines seen;
    H2ExchangeBuilder builder(capturing(), [&](const Exchange& e) { seen.push_back(text_of(e)); });
    std::array<std::string_view, 2> rest = {requests, responses};
    const auto bias = seed % 5;  // from all of the responses first to all of the requests first
    while (!rest[0].empty() || !rest[1].empty()) {
      const std::size_t wanted = random() % 4 < bias ? 0 : 1;
      const auto side = rest[wanted].empty() ? 1 - wanted : wanted;
      const auto size = std::min<std::size_t>(rest[side].size(), 1 + random() % 60);
      builder.feed(static_cast<Side>(side), bytes(rest[side].substr(0, size)), at(1));
      rest[side].remove_prefix(size);
    }
    EXPECT_TRUE(builder.idle());
    std::ranges::sort(seen);
    EXPECT_EQ(seen, expected);
    EXPECT_EQ(builder.unparsed_bytes(Side::request) + builder.unparsed_bytes(Side::response), 0U);
  }
}

TEST(H2Exchange, ServesAThousandStreams) {
  Client c;
  Server s;
  std::string requests = c.open();
  std::string responses = s.open();
  for (std::uint32_t id = 1; id < 2000; id += 2) requests += c.get(id, "/" + std::to_string(id));
  for (std::uint32_t id = 1999; id < 2000; id -= 2) responses += s.ok(id, "ok");
  std::vector<Exchange> seen;
  H2ExchangeBuilder builder({}, [&](Exchange e) { seen.push_back(std::move(e)); });
  builder.feed(Side::request, bytes(requests), at(1));
  EXPECT_TRUE(seen.empty());
  builder.feed(Side::response, bytes(responses), at(1));
  ASSERT_EQ(seen.size(), 1000U);
  for (std::size_t i = 0; i < seen.size(); ++i) {
    EXPECT_EQ(seen[i].stream_id, 1999 - 2 * i);
    EXPECT_EQ(seen[i].number, 999 - i);
    EXPECT_EQ(seen[i].request.target, "/" + std::to_string(1999 - 2 * i));
    EXPECT_EQ(seen[i].incomplete, "");
  }
  EXPECT_TRUE(builder.idle());
}

TEST(H2Exchange, ReadsTunnelsAndPushes) {
  {
    Talk t;
    t << req(t.client.headers(1, {{":method", "CONNECT"}, {":authority", "b.test:443"}}));
    t << res(t.server.head(1, "200"));
    t << req(data(1, "hello"));
    t << res(data(1, "you") + last_data(1, ""));
    t << req(last_data(1, ""));
    check(t.expect("CONNECT", {"0#1 CONNECT b.test:443 /0 -> 200 /0 upgraded"}, {}, {9 + 5 + 9, 9 + 3 + 9}));
  }
  {
    Talk t;
    t << req(t.client.headers(1, {{":method", "CONNECT"}, {":authority", "b.test:443"}}));
    t << res(t.server.head(1, "403") + last_data(1, "no"));
    t << req(rst(1, 8));
    check(t.expect("CONNECT refused", {"0#1 CONNECT b.test:443 /0 -> 403 no/2 closed_early"}));
  }
  {
    Talk t;
    t << req(t.client.headers(1, {{":method", "CONNECT"},
                                  {":protocol", "connect-ip"},
                                  {":scheme", "https"},
                                  {":path", "/ip"},
                                  {":authority", "b.test"}}));
    t << res(t.server.head(1, "501", kEndStream));
    t << req(last_data(1, ""));
    check(t.expect("extended CONNECT", {"0#1 CONNECT /ip /0 -> 501 /0"}, {}, {9, 0}));
  }
  {
    Talk t;
    t << req(t.client.get(1, "/page"));
    t << res(frame(FrameType::push_promise, kEndHeaders, 1,
                   big_endian(2, 4) + t.server.block(Client::request("GET", "/style"))));
    t << res(t.server.ok(1, "page")) << res(t.server.ok(2, "style"));
    check(t.expect("push", {"0#1 GET /page /0 -> 200 page/4", "1#2 GET /style /0 -> 200 style/5"}));
  }
}

TEST(H2Exchange, SaysWhatWasCutOff) {
  {
    Talk t;
    t << req(t.client.post(1, "/1") + data(1, "ab"));
    t << res(t.server.head(1, "200") + data(1, "x"));
    t << req(rst(1, 8));
    t << res(data(1, "late"));
    check(t.expect("client cancels", {"0#1 POST /1 ab/2 -> 200 x/1 closed_early"}, {}, {0, 9 + 4}));
  }
  {
    Talk t;
    t << req(t.client.get(1, "/1"));
    t << res(rst(1, 7));
    check(t.expect("server refuses", {"0#1 GET /1 /0 -> none /0 closed_early"}));
  }
  {
    Talk t;
    t << res(rst(1, 7));
    t << req(t.client.get(1, "/1"));
    check(t.expect("server refuses, told early", {"0#1 GET /1 /0 -> none /0 closed_early"}));
  }
  {
    Talk t;
    t << req(t.client.post(1, "/1") + data(1, "ab"));
    t << res(t.server.ok(1, "enough") + rst(1, 0));
    check(t.expect("the server needs no more of the body", {"0#1 POST /1 ab/2 -> 200 enough/6"}));
  }
  {
    Talk t;
    t << req(t.client.get(1, "/1")) << req(t.client.get(3, "/3")) << req(t.client.get(5, "/5"));
    t << res(goaway(3)) << res(t.server.ok(1, "a"));
    t << req(t.client.get(7, "/7"));
    t << res(t.server.ok(3, "b"));
    check(t.expect("GOAWAY", {"2#5 GET /5 /0 -> none /0 closed_early", "0#1 GET /1 /0 -> 200 a/1",
                              "3#7 GET /7 /0 -> none /0 closed_early", "1#3 GET /3 /0 -> 200 b/1"}));
  }
  {
    Talk t;
    t << req(t.client.post(1, "/1") + data(1, "ab")) << req(t.client.get(3, "/3"));
    t << res(t.server.ok(1, "a")) << res(t.server.head(3, "200") + data(3, "cd").substr(0, 10));
    check(t.expect("the connection ends", {},
                   {"0#1 POST /1 ab/2 -> 200 a/1 closed_early", "1#3 GET /3 /0 -> 200 c/1 closed_early"}));
  }
  {
    Talk t;
    t << req(t.client.post(1, "/1") + data(1, "ab")) << req(t.client.get(3, "/3"));
    t << end(Side::request);
    t << res(t.server.ok(1, "a"));
    t << end(Side::response);
    check(t.expect("each side ends",
                   {"0#1 POST /1 ab/2 -> 200 a/1 closed_early", "1#3 GET /3 /0 -> none /0 closed_early"}));
  }
  {
    Talk t;
    const auto half = t.client.continued(1, Client::request("GET", "/1"), 5).substr(0, 20);
    t << req(half);
    const auto orphan = t.server.ok(1, "a");
    t << res(orphan);
    check(t.expect("half a header block; a response without a request", {}, {}, {20, orphan.size()}));
  }
}

TEST(H2Exchange, EndsAtWhatIsMalformed) {
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
    const auto result = run_all(t.steps);
    EXPECT_EQ(result.before_finish, Lines{"0#1 GET /1 /0 -> none /0 error"});
    EXPECT_EQ(result.all.size(), 1U);
    EXPECT_GE(result.unparsed[0], dead.size());
    EXPECT_GT(result.unparsed[1], 0U);
  }
}

TEST(H2Exchange, MarksMessagesThatAreMalformed) {
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
    const auto result = run_all(t.steps);
    ASSERT_EQ(result.before_finish.size(), 2U);
    EXPECT_TRUE(result.all[0].ends_with(" error")) << result.all[0];
    EXPECT_EQ(result.all[1], "1#3 GET / /0 -> 200 b/1");
  }
  for (const F& fields : {F{{"a", "b"}}, F{{":status", "20"}}, F{{":status", "2x0"}}}) {
    Talk t;
    t << req(t.client.get(1, "/"));
    t << res(t.server.headers(1, fields, kEndStream));
    check(t.expect("response", {"0#1 GET / /0 -> 0 /0 error"}));
  }
}

TEST(H2Exchange, FollowsTheHeaderTable) {
  Talk t;
  t.client.resize(0);
  t << req(t.client.get(1, "/1"));
  t.client.resize(65536);
  t << req(t.client.get(3, "/3")) << req(t.client.get(5, "/3"));
  t.client.resize(100);
  t << req(t.client.get(7, "/3"));
  t << res(t.server.ok(1, "")) << res(t.server.ok(3, "")) << res(t.server.ok(5, ""))
    << res(t.server.ok(7, ""));
  check(t.expect("table sizes", {"0#1 GET /1 /0 -> 200 /0", "1#3 GET /3 /0 -> 200 /0",
                                 "2#5 GET /3 /0 -> 200 /0", "3#7 GET /3 /0 -> 200 /0"}));
}

TEST(H2Exchange, HoldsItsLimits) {
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
    EXPECT_EQ(run_all(t.steps, limits).all, Lines{"0#1 POST /1 0123/10! -> 200 abcd/4"});
  }
  {
    Talk t;
    t << req(t.client.get(1, "/1")) << req(t.client.get(3, "/3")) << req(t.client.get(5, "/5"));
    t << res(t.server.ok(1, "a")) << res(t.server.ok(3, "b")) << res(t.server.ok(5, "c"));
    const Lines expected = {"0#1 GET /1 /0 -> none /0 closed_early error", "1#3 GET /3 /0 -> 200 b/1",
                            "2#5 GET /5 /0 -> 200 c/1"};
    EXPECT_EQ(run_all(t.steps, limits).all, expected);
  }
  {
    Talk t;
    const auto flood = t.server.ok(1, std::string(300, 'x'));
    t << res(flood) << res(t.server.ok(3, "b"));
    t << req(t.client.get(1, "/1")) << req(t.client.get(3, "/3"));
    const auto result = run_all(t.steps, limits);
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
    EXPECT_EQ(run_all(t.steps, limits).all, expected);
  }
}

TEST(H2Exchange, BoundsTheBodiesOfAllStreams) {
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

TEST(H2Exchange, GoesOnFromAnUpgrade) {
  Exchange upgraded;
  upgraded.number = 4;
  upgraded.request.method = "GET";
  upgraded.request.target = "/u";
  Lines seen;
  H2ExchangeBuilder builder(capturing(), [&](const Exchange& e) { seen.push_back(text_of(e)); }, upgraded);
  Client c;
  Server s;
  builder.feed(Side::response, bytes(s.open() + s.ok(1, "first")), at(1));
  builder.feed(Side::request, bytes(c.open() + c.get(3, "/3")), at(1));
  builder.feed(Side::response, bytes(s.ok(3, "x")), at(1));
  const Lines expected = {"4#1 GET /u /0 -> 200 first/5", "5#3 GET /3 /0 -> 200 x/1"};
  EXPECT_EQ(seen, expected);
}

TEST(H2Exchange, RecognisesTheProtocol) {
  const auto protocol = [](const std::vector<Step>& steps) { return run_all(steps).protocol; };
  EXPECT_EQ(protocol({}), Protocol::undecided);
  EXPECT_EQ(protocol({req(std::string(kH2Preface))}), Protocol::http2);
  EXPECT_EQ(protocol({req("PRI * HTTP/2.0\r\n\r\n")}), Protocol::other);
  EXPECT_EQ(protocol({req("GET / HTTP/1.1\r\n\r\n"), res("HTTP/1.1 200 OK\r\n\r\n")}), Protocol::other);
  EXPECT_EQ(protocol({res(settings())}), Protocol::undecided);
  H2ExchangeBuilder builder({}, [](const Exchange&) { FAIL(); });
  const std::string noise(1 << 16, '\x7f');
  for (int i = 0; i < 17; ++i) builder.feed(Side::request, bytes(noise), at(1));
  EXPECT_EQ(builder.protocol(), Protocol::other);
  EXPECT_EQ(builder.unparsed_bytes(Side::request), 17U << 16);
  EXPECT_TRUE(builder.idle());
}

}  // namespace
}  // namespace weir::http
