// Which of the two protocols a connection speaks, and that nothing is lost until that is known.
#include "http/exchange_builder.h"

#include <gtest/gtest.h>

#include "tests/unit/http/conversation.h"
#include "tests/unit/http/h2_wire.h"

namespace weir::http {
namespace {

using namespace test;

const std::string kGet = "GET /1 HTTP/1.1\r\nHost: a\r\n\r\n";
const std::string kOk = "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na";
const std::string kAskH2c =
    "GET /u HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: "
    "AAMAAABk\r\n\r\n";
const std::string kSwitch = "HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n";

Result run_all(const std::vector<Step>& steps) {
  return test::run_all<ExchangeBuilder>(steps);
}

TEST(ExchangeBuilder, TellsTheProtocolsApart) {
  struct Conversation {
    std::string_view name;
    std::vector<Step> steps;
    Protocol protocol;
    Lines all;
    Unparsed unparsed = {0, 0};
  };
  Client c;
  Server s;
  const auto get = c.get(1, "/1");
  const auto ok = s.ok(1, "a");
  const Lines h1 = {"0 GET /1 /0 -> 200 a/1"};
  const Lines h2 = {"0#1 GET /1 /0 -> 200 a/1"};
  const std::string noise(5000, '\x16');
  const Conversation cases[] = {
      {"nothing", {}, Protocol::undecided, {}},
      {"HTTP/1", {req(kGet), res(kOk)}, Protocol::http1, h1},
      {"HTTP/1, answer first", {res(kOk), req(kGet)}, Protocol::http1, h1},
      {"HTTP/2", {req(c.open() + get), res(s.open() + ok)}, Protocol::http2, h2},
      {"HTTP/2, server first", {res(s.open()), req(c.open() + get), res(ok)}, Protocol::http2, h2},
      {"HTTP/2, all answers first", {res(s.open() + ok), req(c.open() + get)}, Protocol::http2, h2},
      {"neither", {req(noise), res(noise)}, Protocol::other, {}, {5000, 5000}},
      {"half a preface", {req("PRI * HT")}, Protocol::other, {}, {8, 0}},
      {"half a request line", {req("GET /x")}, Protocol::other, {}, {6, 0}},
      {"HTTP/1, joined",
       {lost(Side::request, 0), lost(Side::response, 0), res("tail"), req("of" + kGet), res(kOk)},
       Protocol::http1,
       h1,
       {2, 4}},
  };
  for (const auto& one : cases) {
    SCOPED_TRACE(one.name);
    const auto result = run_all(one.steps);
    EXPECT_EQ(result.protocol, one.protocol);
    EXPECT_EQ(result.all, one.all);
    EXPECT_EQ(result.unparsed, one.unparsed);
  }
}

TEST(ExchangeBuilder, FollowsAnUpgradeToHttp2) {
  Client c;
  Server s;
  const auto get = c.get(3, "/3");
  const auto requests = c.open() + get;
  const auto first = s.open() + s.ok(1, "first");
  const auto second = s.ok(3, "b");
  const Lines expected = {"0#1 GET /u /0 -> 101 200 first/5", "1#3 GET /3 /0 -> 200 b/1"};
  const std::vector<Step> orders[] = {
      {req(kAskH2c), res(kSwitch), res(first), req(requests), res(second)},
      {req(kAskH2c), res(kSwitch + first), req(requests), res(second)},
      {req(kAskH2c + requests), res(kSwitch + first + second)},
      {res(kSwitch + first), req(kAskH2c + requests), res(second)},
  };
  for (const auto& steps : orders) {
    const auto result = run_all(steps);
    EXPECT_EQ(result.before_finish, expected);
    EXPECT_EQ(result.protocol, Protocol::http2);
    EXPECT_EQ(result.unparsed, (Unparsed{0, 0}));
  }
  const auto cut = run_all({req(kAskH2c), res(kSwitch), req(c.open())});
  EXPECT_EQ(cut.all, Lines{"0#1 GET /u /0 -> 101 none /0 closed_early"});
  const auto no_preface = run_all({req(kAskH2c), res(kSwitch), req(c.get(3, "/3"))});
  EXPECT_EQ(no_preface.all, Lines{"0#1 GET /u /0 -> 101 none /0 error"});
  const auto unasked = run_all({req(kGet + kGet), res(kSwitch + first)});
  const Lines nothing_followed = {"0 GET /1 /0 -> 101 /0 upgraded", "1 GET /1 /0 -> none /0 closed_early"};
  EXPECT_EQ(unasked.all, nothing_followed);
  const auto declined = run_all({req(kAskH2c + kGet), res(kOk + kOk)});
  const Lines answered = {"0 GET /u /0 -> 200 a/1", "1 GET /1 /0 -> 200 a/1"};
  EXPECT_EQ(declined.all, answered);
}

TEST(ExchangeBuilder, NeverCountsBytesBack) {
  std::uint64_t before = 0;
  ExchangeBuilder builder({}, [](const Exchange&) {});
  const auto check = [&] {
    const auto now = builder.unparsed_bytes(Side::request);
    EXPECT_GE(now, before);
    before = now;
  };
  Client c;
  builder.gap(Side::request, 0, at(1));
  for (const auto& chunk :
       {std::string(9000, '\x7f'), std::string(9000, '\0'), c.get(1, "/"), c.get(3, "/")}) {
    builder.feed(Side::request, bytes(chunk), at(1));
    check();
  }
  EXPECT_EQ(builder.protocol(), Protocol::http2);
  builder.finish(at(1));
  check();
  EXPECT_EQ(before, 18000U);
}

}  // namespace
}  // namespace weir::http
