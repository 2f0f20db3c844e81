// The HTTP/2 builder: which frames are whose, whatever their order and the cuts of the two streams.
#include <gtest/gtest.h>

#include <random>

#include "tests/unit/http/h2_talk.h"

namespace weir::http {
namespace {

using namespace test;

TEST(H2Exchange, PairsByStream) {
  Talk t;
  auto& [c, s, steps] = t;
  t << req(c.get(1, "/1")) << req(c.get(3, "/3")) << req(c.post(5, "/5"));
  t << res(s.head(3, "200")) << res(s.head(1, "404"));
  t << req(data(5, "abc"));
  t << res(data(1, "x") + last_data(3, "yz"));
  t << req(last_data(5, "de"));
  t << res(last_data(1, "")) << res(s.head(5, "204", kEndStream));
  check_h2(t.expect("interleaved", {"1#3 GET /3 /0 -> 200 yz/2", "0#1 GET /1 /0 -> 404 x/1",
                                    "2#5 POST /5 abcde/5 -> 204 /0"}));
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
    check_h2(
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
    check_h2(
        t.expect("padded and prioritised HEADERS; frames without consequence", {"0#1 GET /p /0 -> 200 k/1"}));
  }
}

TEST(H2Exchange, AllOfItsContentMakesAMessageWhole) {
  using F = Deflater::Fields;
  const F three = {{":status", "200"}, {"content-length", "3"}};
  const F post = {{":method", "POST"}, {":path", "/p"}, {":authority", "a"}, {"content-length", "2"}};
  {
    Talk t;
    t << req(t.client.get(1, "/1")) << res(t.server.headers(1, three) + data(1, "abc"));
    t << end(Side::request) << end(Side::response);
    check_h2(t.expect("the connection ends before END_STREAM", {"0#1 GET /1 /0 -> 200 abc/3"}));
  }
  {
    Talk t;
    t << req(t.client.get(1, "/1")) << res(t.server.headers(1, three) + data(1, "abc"));
    t << req(rst(1, 8));
    check_h2(t.expect("the client cancels", {"0#1 GET /1 /0 -> 200 abc/3"}));
  }
  {
    Talk t;
    t << req(t.client.headers(1, post) + data(1, "ab")) << res(t.server.ok(1, "x"));
    check_h2(t.expect("nobody says any more", {}, {"0#1 POST /p ab/2 -> 200 x/1"}));
  }
  {
    Talk t;
    t << req(t.client.headers(1, post) + data(1, "a")) << res(t.server.headers(1, three) + data(1, "ab"));
    t << req(rst(1, 8));
    check_h2(t.expect("some of it is missing", {"0#1 POST /p a/1 -> 200 ab/2 closed_early"}));
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
    check_h2(
        t.expect("CONNECT", {"0#1 CONNECT b.test:443 /0 -> 200 /0 upgraded"}, {}, {9 + 5 + 9, 9 + 3 + 9}));
  }
  {
    Talk t;
    t << req(t.client.headers(1, {{":method", "CONNECT"}, {":authority", "b.test:443"}}));
    t << res(t.server.head(1, "403") + last_data(1, "no"));
    t << req(rst(1, 8));
    check_h2(t.expect("CONNECT refused", {"0#1 CONNECT b.test:443 /0 -> 403 no/2 closed_early"}));
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
    check_h2(t.expect("extended CONNECT", {"0#1 CONNECT /ip /0 -> 501 /0"}, {}, {9, 0}));
  }
  {
    Talk t;
    t << req(t.client.get(1, "/page"));
    t << res(frame(FrameType::push_promise, kEndHeaders, 1,
                   big_endian(2, 4) + t.server.block(Client::request("GET", "/style"))));
    t << res(t.server.ok(1, "page")) << res(t.server.ok(2, "style"));
    check_h2(t.expect("push", {"0#1 GET /page /0 -> 200 page/4", "1#2 GET /style /0 -> 200 style/5"}));
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
  check_h2(t.expect("table sizes", {"0#1 GET /1 /0 -> 200 /0", "1#3 GET /3 /0 -> 200 /0",
                                    "2#5 GET /3 /0 -> 200 /0", "3#7 GET /3 /0 -> 200 /0"}));
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
  const auto protocol = [](const std::vector<Step>& steps) { return run_all_h2(steps).protocol; };
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
