// The exchange builder: which response goes to which request, whatever the order and the cuts of the two
// streams.
#include "http/exchange.h"

#include <gtest/gtest.h>
#include <time.h>

#include "tests/unit/http/conversation.h"

namespace weir::http {
namespace {

using namespace test;
using namespace std::chrono_literals;

std::string get(std::string_view target) {
  return "GET " + std::string(target) + " HTTP/1.1\r\nHost: a\r\n\r\n";
}
std::string ok(std::string_view body) {
  return "HTTP/1.1 200 OK\r\nContent-Length: " + std::to_string(body.size()) + "\r\n\r\n" + std::string(body);
}

Result run_all(const std::vector<Step>& steps, const ExchangeLimits& limits = capturing()) {
  return test::run_all<H1ExchangeBuilder>(steps, limits);
}

void check(const std::vector<Case>& cases) {
  for (const auto& c : cases) {
    SCOPED_TRACE(c.name);
    test::check(c, run_all(c.steps));
  }
}

const std::string kPost10 = "POST /p HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n";
const std::string kPostChunked = "POST /c HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
const std::string kChunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
const std::string kUpgrade = "GET /w HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n";
const std::string kConnect = "CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n";

TEST(Exchange, PairsInOrder) {
  check({
      {"keep-alive",
       {req(get("/1")), res(ok("a")), req(get("/2")), res(ok("bc"))},
       {"0 GET /1 /0 -> 200 a/1", "1 GET /2 /0 -> 200 bc/2"}},
      {"pipelining",
       {req(get("/1") + get("/2") + get("/3")), res(ok("a") + ok("b") + ok(""))},
       {"0 GET /1 /0 -> 200 a/1", "1 GET /2 /0 -> 200 b/1", "2 GET /3 /0 -> 200 /0"}},
      {"response before its request",
       {res(ok("a") + ok("b")), req(get("/1") + get("/2"))},
       {"0 GET /1 /0 -> 200 a/1", "1 GET /2 /0 -> 200 b/1"}},
      {"response in the middle of its request's head",
       {req("GET /1 HT"), res(ok("a")), req("TP/1.1\r\nHost: a\r\n\r\n")},
       {"0 GET /1 /0 -> 200 a/1"}},
      {"response complete before the request's body",
       {req(kPost10 + "01234"), res(ok("no")), req("56789" + get("/2")), res(ok("b"))},
       {"0 POST /p 0123456789/10 -> 200 no/2", "1 GET /2 /0 -> 200 b/1"}},
      {"next response early, while the body is still sent",
       {req(kPost10 + "01234"), res(ok("no") + ok("b")), req("56789" + get("/2"))},
       {"0 POST /p 0123456789/10 -> 200 no/2", "1 GET /2 /0 -> 200 b/1"}},
      {"HEAD, 204, 304, 1xx",
       {req("HEAD /h HTTP/1.1\r\nHost: a\r\n\r\n"), res("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"),
        req(get("/1")), res("HTTP/1.1 204 N\r\n\r\n"), req(get("/2")),
        res("HTTP/1.1 304 N\r\nContent-Length: 5\r\n\r\n"), req(kPost10), res("HTTP/1.1 100 C\r\n\r\n"),
        req("0123456789"), res("HTTP/1.1 103 E\r\n\r\n" + ok("z"))},
       {"0 HEAD /h /0 -> 200 /0", "1 GET /1 /0 -> 204 /0", "2 GET /2 /0 -> 304 /0",
        "3 POST /p 0123456789/10 -> 100 103 200 z/1"}},
      {"chunked both ways",
       {req(kPostChunked + "3\r\nabc\r\n0\r\n\r\n"),
        res(kChunked + "2;x\r\nde\r\n1\r\nf\r\n0\r\nT: u\r\n\r\n")},
       {"0 POST /c abc/3 -> 200 def/3 T=u"}},
      {"body until close",
       {req(get("/1")), res("HTTP/1.0 200 OK\r\n\r\nabc"), end(Side::response)},
       {"0 GET /1 /0 -> 200 abc/3"}},
      {"body until close, published before its request",
       {res("HTTP/1.0 200 OK\r\n\r\nabc"), end(Side::response), req(get("/1"))},
       {"0 GET /1 /0 -> 200 abc/3"}},
      {"half-closed client", {req(get("/1")), end(Side::request), res(ok("a"))}, {"0 GET /1 /0 -> 200 a/1"}},
  });
}

TEST(Exchange, StopsReadingAtAnUpgrade) {
  const std::string switching = "HTTP/1.1 101 S\r\nUpgrade: x\r\n\r\n";
  check({
      {"websocket",
       {req(kUpgrade), res(switching + "abc"), req("de")},
       {"0 GET /w /0 -> 101 /0 upgraded"},
       {},
       {2, 3}},
      {"bytes that look like a request behind an upgrade",
       {req(kUpgrade + get("/x")), res(switching)},
       {"0 GET /w /0 -> 101 /0 upgraded"},
       {},
       {get("/x").size(), 0}},
      {"upgrade declined",
       {req(kUpgrade + get("/x")), res(ok("a") + ok("b"))},
       {"0 GET /w /0 -> 200 a/1", "1 GET /x /0 -> 200 b/1"}},
      {"CONNECT",
       {req(kConnect), req("\x16\x03"), res("HTTP/1.1 200 C\r\n\r\n\x16\x03\x03")},
       {"0 CONNECT a:1 /0 -> 200 /0 upgraded"},
       {},
       {2, 3}},
      {"CONNECT refused, then asked again",
       {req(kConnect), res("HTTP/1.1 407 A\r\nContent-Length: 2\r\n\r\nno"), req(kConnect),
        res("HTTP/1.1 200 C\r\n\r\n")},
       {"0 CONNECT a:1 /0 -> 407 no/2", "1 CONNECT a:1 /0 -> 200 /0 upgraded"}},
  });
}

TEST(Exchange, SaysWhatWasCutOff) {
  check({
      {"no answer", {req(get("/1"))}, {}, {"0 GET /1 /0 -> none /0 closed_early"}},
      {"no answer, response side ended",
       {req(get("/1")), end(Side::response)},
       {"0 GET /1 /0 -> none /0 closed_early"}},
      {"short body",
       {req(get("/1")), res("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc"), end(Side::response)},
       {"0 GET /1 /0 -> 200 abc/3 closed_early"}},
      {"until close, close not seen",
       {req(get("/1")), res("HTTP/1.0 200 OK\r\n\r\nabc")},
       {},
       {"0 GET /1 /0 -> 200 abc/3 closed_early"}},
      {"request's body cut off, answered",
       {req(kPost10 + "012"), end(Side::request), res(ok("a"))},
       {"0 POST /p 012/3 -> 200 a/1 closed_early"}},
      {"answered before the request's body was done",
       {req(kPost10 + "012"), res(ok("a"))},
       {},
       {"0 POST /p 012/3 -> 200 a/1 closed_early"}},
      {"two unanswered",
       {req(get("/1") + get("/2"))},
       {},
       {"0 GET /1 /0 -> none /0 closed_early", "1 GET /2 /0 -> none /0 closed_early"}},
      {"half a head", {req(get("/1").substr(0, 20))}, {}, {}, {20, 0}},
      {"half a response head",
       {req(get("/1")), res("HTTP/1.1 200 O")},
       {},
       {"0 GET /1 /0 -> none /0 closed_early"},
       {0, 14}},
      {"a response without a request", {res(ok("a"))}, {}, {}, {0, ok("a").size()}},
  });
}

TEST(Exchange, KeepsErrors) {
  check({
      {"bad chunk in a request",
       {req(kPostChunked + "1\r\na\r\nzz\r\n" + get("/2")),
        res("HTTP/1.1 400 B\r\nContent-Length: 0\r\n\r\n")},
       {"0 POST /c a/1 -> 400 /0 error"},
       {},
       {get("/2").size(), 0}},
      {"bad request head",
       {req("GET / HTTP/1.1\r\nHost : a\r\n\r\n"), res("HTTP/1.1 400 B\r\nContent-Length: 0\r\n\r\n")},
       {"0 GET / /0 -> 400 /0 error"},
       {},
       {28, 0}},
      {"bad response head",
       {req(get("/1") + get("/2")), res("HTTP/1.1 200 OK\r\nX : a\r\n\r\n")},
       {"0 GET /1 /0 -> 200 /0 error", "1 GET /2 /0 -> none /0 error"},
       {},
       {0, 26}},
  });
}

TEST(Exchange, NamesErrorsAndKeepsWhatWasReadBefore) {
  std::string many;
  for (int i = 0; i < 1100; ++i) many += "X" + std::to_string(i) + ": y\r\n";
  const std::string head = "GET /r HTTP/1.1\r\nHost: a\r\n";
  const std::string answer = "HTTP/1.1 203 N\r\nServer: s\r\n";
  struct Bad {
    std::string request;
    std::string response;
    std::string error;
    std::string detail;
    std::size_t request_fields;
    std::size_t response_fields;
  };
  const std::vector<Bad> cases = {
      {head + many + "\r\n", answer + "\r\n", "oversized_request", "too many fields", 256, 1},
      {head + "X: " + std::string(70'000, 'y'), answer + "\r\n", "oversized_request",
       "limit exceeded by header section", 1, 1},
      {head + "Host: b\r\n\r\n", answer + "\r\n", "malformed_request", "repeated Host", 2, 1},
      {head + "Transfer-Encoding: gzip\r\n\r\n", answer + "\r\n", "unsupported_request",
       "Transfer-Encoding other than chunked", 2, 1},
      {get("/r"), answer + many + "\r\n", "oversized_response", "too many fields", 1, 1024},
      {get("/r"), answer + "Content-Length: 1\r\nContent-Length: 1\r\n\r\na", "malformed_response",
       "Duplicate Content-Length", 1, 2},
      {get("/r"), answer + "X: a\r\n b\r\n\r\n", "malformed_response", "obs-fold in field section", 1, 2},
      {get("/r"), answer + "X: a\n\r\n", "malformed_response", "bare LF in header section", 1, 1},
      {get("/r"), answer + "Transfer-Encoding: gzip\r\n\r\n", "unsupported_response",
       "Transfer-Encoding other than chunked", 1, 2},
  };
  for (const auto& bad : cases) {
    SCOPED_TRACE(bad.error + ": " + bad.detail);
    std::vector<Exchange> seen;
    H1ExchangeBuilder builder({}, [&](Exchange e) { seen.push_back(std::move(e)); });
    builder.feed(Side::request, bytes(bad.request), at(1));
    builder.feed(Side::response, bytes(bad.response), at(2));
    builder.end(Side::response, at(3));
    builder.finish(at(3));
    ASSERT_EQ(seen.size(), 1U);
    const auto& e = seen[0];
    EXPECT_EQ(e.protocol_error, bad.error);
    EXPECT_EQ(e.protocol_error_detail, bad.detail);
    EXPECT_EQ(e.request.method + " " + e.request.target, "GET /r");
    EXPECT_EQ(e.request.fields.size(), bad.request_fields);
    ASSERT_TRUE(e.response);
    EXPECT_EQ(e.response->status, 203);
    ASSERT_EQ(e.response->fields.size(), bad.response_fields);
    EXPECT_EQ(e.response->fields[0].value, "s");
  }
}

TEST(Exchange, CountsGapsInsideContent) {
  check({
      {"content of known length",
       {req(kPost10 + "01"), lost(Side::request, 8), req(get("/2")), res(ok("a")),
        res("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\na"), lost(Side::response, 4), res("f")},
       {"0 POST /p 01/10! -> 200 a/1 gap_bytes=8 gap", "1 GET /2 /0 -> 200 af/6! gap_bytes=4 gap"}},
      {"inside a chunk",
       {req(get("/1")), res(kChunked + "5\r\na"), lost(Side::response, 3), res("e\r\n0\r\n\r\n"),
        req(get("/2")), res(ok("b"))},
       {"0 GET /1 /0 -> 200 ae/5! gap_bytes=3 gap", "1 GET /2 /0 -> 200 b/1"}},
      {"body until close",
       {req(get("/1")), res("HTTP/1.0 200 OK\r\n\r\na"), lost(Side::response, 3), res("e"),
        end(Side::response)},
       {"0 GET /1 /0 -> 200 ae/5! gap_bytes=3 gap"}},
  });
}

TEST(Exchange, NeverPairsAcrossAGapInDoubt) {
  check({
      {"a response's end is lost",
       {req(get("/1")), res(kChunked + "5\r\na"), lost(Side::response, 50), res("rest\r\n0\r\n\r\n"),
        req(get("/2")), res(ok("b"))},
       {"0 GET /1 /0 -> 200 a/1! gap_bytes=50 gap", "1 GET /2 /0 -> 200 b/1"},
       {},
       {0, 11}},
      {"a whole response is lost",
       {req(get("/1")), lost(Side::response, 50), req(get("/2")), res(ok("b")), req(get("/3")), res(ok("c"))},
       {"0 GET /1 /0 -> none /0! gap_bytes=50 gap", "1 GET /2 /0 -> 200 b/1", "2 GET /3 /0 -> 200 c/1"}},
      {"two responses are lost, the second one's request told late",
       {req(get("/1")), lost(Side::response, 90), req(get("/2")), req(get("/3")), res(ok("c")),
        req(get("/4")), res(ok("d"))},
       {"0 GET /1 /0 -> none /0! gap_bytes=90 gap", "1 GET /2 /0 -> none /0 gap", "2 GET /3 /0 -> 200 c/1",
        "3 GET /4 /0 -> 200 d/1"}},
      {"a whole request is lost",
       {req(get("/1")), res(ok("a")), lost(Side::request, 50), res(ok("lost")), req(get("/3")), res(ok("c"))},
       {"0 GET /1 /0 -> 200 a/1", "1 GET /3 /0 -> 200 c/1"},
       {},
       {0, ok("lost").size()}},
      {"a request's end is lost, and it is answered",
       {req(kPostChunked + "5\r\na"), lost(Side::request, 50), req("bc\r\n0\r\n\r\n"), res(ok("a")),
        req("\r\n" + get("/2")), res(ok("b"))},
       {"0 POST /c a/1! -> 200 a/1 gap_bytes=50 gap", "1 GET /2 /0 -> 200 b/1"},
       {},
       {11, 0}},
      {"half a request head is lost",
       {req("GET /1 HT"), lost(Side::request, 9), req("\r\n\r\n"), res(ok("a")), req(get("/2")),
        res(ok("b"))},
       {"0 GET /2 /0 -> 200 b/1"},
       {},
       {13, ok("a").size()}},
      {"pipelined requests, one response lost: the rest can't be told apart",
       {req(get("/1") + get("/2") + get("/3")), res(ok("a")), lost(Side::response, 20), res(ok("c")),
        req(get("/4")), res(ok("d"))},
       {"0 GET /1 /0 -> 200 a/1", "1 GET /2 /0 -> none /0! gap_bytes=20 gap", "2 GET /3 /0 -> none /0 gap"},
       {},
       {get("/4").size(), ok("c").size() + ok("d").size()}},
      {"pipelined requests, one request lost: those before it are still answered in order",
       {req(get("/1") + get("/2")), lost(Side::request, 30), req(get("/4")),
        res(ok("a") + ok("b") + ok("c") + ok("d"))},
       {"0 GET /1 /0 -> 200 a/1", "1 GET /2 /0 -> 200 b/1"},
       {},
       {get("/4").size(), ok("c").size() + ok("d").size()}},
  });
}

TEST(Exchange, JoinsInTheMiddle) {
  check({
      {"in the middle of a response",
       {lost(Side::request, 0), lost(Side::response, 0), res("tail of a body"), req(get("/1")), res(ok("a"))},
       {"0 GET /1 /0 -> 200 a/1"},
       {},
       {0, 14}},
      {"in the middle of a request",
       {lost(Side::request, 7), req("tail" + get("/1")), res(ok("a"))},
       {"0 GET /1 /0 -> 200 a/1"},
       {},
       {4, 0}},
      {"between request and response",
       {lost(Side::response, 0), lost(Side::request, 0), res(ok("old")), req(get("/1")), res(ok("a"))},
       {"0 GET /1 /0 -> 200 a/1"},
       {},
       {0, ok("old").size()}},
      {"not told, between messages",
       {req(get("/1")), res("tail" + ok("a"))},
       {"0 GET /1 /0 -> 200 a/1"},
       {},
       {0, 4}},
  });
}

TEST(Exchange, AnOldResponseIsNobodysAnswer) {
  std::vector<std::string> seen;
  H1ExchangeBuilder builder(capturing(), [&](const Exchange& e) { seen.push_back(text_of(e)); });
  builder.feed(Side::response, bytes(ok("old")), at(1));
  builder.feed(Side::request, bytes(get("/1")), at(60));
  builder.feed(Side::response, bytes(ok("a")), at(61));
  EXPECT_EQ(seen, Lines{"0 GET /1 /0 -> 200 a/1"});
  EXPECT_EQ(builder.unparsed_bytes(Side::response), ok("old").size());
}

TEST(Exchange, TellsTimes) {
  std::vector<Exchange> seen;
  H1ExchangeBuilder builder({}, [&](Exchange e) { seen.push_back(std::move(e)); });
  EXPECT_TRUE(builder.idle());
  builder.feed(Side::request, bytes("G"), at(1));
  EXPECT_FALSE(builder.idle());
  builder.feed(Side::request, bytes(get("/1").substr(1)), at(2));
  builder.feed(Side::response, bytes(ok("abc").substr(0, 30)), at(3));
  builder.feed(Side::response, bytes(ok("abc").substr(30)), at(4));
  EXPECT_TRUE(builder.idle());
  builder.feed(Side::request, bytes(kPost10.substr(0, 9)), at(5));
  builder.feed(Side::request, bytes(kPost10.substr(9)), at(6));
  builder.feed(Side::response, bytes(ok("")), at(7));
  builder.feed(Side::request, bytes("0123456789"), at(8));
  ASSERT_EQ(seen.size(), 2U);
  EXPECT_EQ(seen[0].began, at(1));
  EXPECT_EQ(seen[0].ended, at(4));
  EXPECT_EQ(seen[0].response_body.size, 3U);
  EXPECT_TRUE(seen[0].response_body.data.empty()) << "captured without being asked to";
  EXPECT_FALSE(seen[0].response_body.truncated);
  EXPECT_EQ(seen[1].began, at(5));
  EXPECT_EQ(seen[1].ended, at(8));
}

TEST(Exchange, WhatWasClosedEarlyEndedWithItsConnection) {
  const auto ended = [](const std::vector<Step>& steps) {
    std::vector<Time> times;
    H1ExchangeBuilder builder({}, [&](const Exchange& e) { times.push_back(e.ended); });
    for (const auto& step : steps) {
      if (step.kind == Step::Kind::data) builder.feed(step.side, bytes(step.data), at(1));
      if (step.kind == Step::Kind::gap) builder.gap(step.side, step.length, at(2));
      if (step.kind == Step::Kind::end) builder.end(step.side, at(3));
    }
    builder.finish(at(4));
    return times;
  };
  EXPECT_EQ(ended({req(get("/1") + get("/2"))}), (std::vector{at(4), at(4)}));
  EXPECT_EQ(ended({req(get("/1")), end(Side::request)}), std::vector{at(4)});
  EXPECT_EQ(ended({req(get("/1")), res(ok("abc").substr(0, 40)), end(Side::response)}), std::vector{at(3)});
  EXPECT_EQ(ended({req(kPost10 + "01"), lost(Side::request, 30)}), std::vector{at(1)})
      << "its end was lost, and the connection's says nothing of it";
}

TEST(Exchange, RecognisesTheProtocol) {
  struct Stream {
    std::vector<Step> steps;
    Protocol protocol;
  };
  const Stream cases[] = {
      {{}, Protocol::undecided},
      {{req(get("/"))}, Protocol::http1},
      {{req("\r\n" + get("/"))}, Protocol::http1},
      {{req("GET / HTTP/1.1\r\n")}, Protocol::http1},
      {{req("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")}, Protocol::other},
      {{req("\x16\x03\x01")}, Protocol::other},
      {{req(std::string("\0\0\0\x08", 4))}, Protocol::other},
      {{req("SSH-2.0-x\r\n")}, Protocol::other},
      {{req("EHLO a\r\n")}, Protocol::other},
      {{req("GET / HTTP/1.1\n")}, Protocol::other},
      {{req("GET /\r HTTP/1.1\r\n")}, Protocol::other},
      {{req("hel")}, Protocol::other},
      {{req(std::string(20'000, 'A'))}, Protocol::other},
      {{lost(Side::request, 1), req(std::string(80'000, '\x01'))}, Protocol::other},
  };
  for (const auto& c : cases) {
    const auto result = run_all(c.steps);
    EXPECT_EQ(result.protocol, c.protocol) << (c.steps.empty() ? "" : c.steps[0].data);
  }
  H1ExchangeBuilder builder({}, [](const Exchange&) { FAIL(); });
  builder.feed(Side::request, bytes("GET"), at(1));
  EXPECT_EQ(builder.protocol(), Protocol::undecided);
  builder.feed(Side::request, bytes("\x01"), at(1));
  EXPECT_EQ(builder.protocol(), Protocol::other);
  EXPECT_EQ(builder.unparsed_bytes(Side::request), 4U);
  EXPECT_TRUE(builder.idle());
}

TEST(Exchange, AResponseMayBeReadWholeBeforeItsRequestIsTold) {
  const std::string body(std::size_t{1} << 20, 'x');
  std::vector<Step> steps;
  const std::string answer = ok(body);
  for (std::size_t at = 0; at < answer.size(); at += 16384) steps.push_back(res(answer.substr(at, 16384)));
  steps.push_back(req(get("/1")));
  EXPECT_EQ(test::run<H1ExchangeBuilder>(steps, 0, {}).all, Lines{"0 GET /1 /0 -> 200 /1048576"});
}

TEST(Exchange, HoldsItsLimits) {
  auto limits = capturing();
  limits.body_bytes = 4;
  limits.pending = 2;
  limits.early_response = 200;
  EXPECT_EQ(run_all({req(kPost10 + "0123456789"), res(ok("abcd"))}, limits).all,
            Lines{"0 POST /p 0123/10! -> 200 abcd/4"});
  EXPECT_EQ(run_all({req(get("/1") + get("/2")), res(ok("a") + ok("b"))}, limits).all.size(), 2U);

  const Lines given_up = {"0 GET /1 /0 -> none /0 error", "1 GET /2 /0 -> none /0 error",
                          "2 GET /3 /0 -> none /0 error"};
  EXPECT_EQ(run_all({req(get("/1") + get("/2") + get("/3") + get("/4")), res(ok("a"))}, limits).all,
            given_up);

  // A refused request ends its side: nothing piles up behind it, and the answers to the others are read.
  const Lines refused = {"0 GET /1 /0 -> 200 a/1", "1 GET /2 /0 -> 200 b/1",
                         "2   /0 -> none /0 closed_early error"};
  EXPECT_EQ(
      run_all({req(get("/1") + get("/2") + "GET \xaf HTTP/1.1\r\n\r\n"), res(ok("a") + ok("b"))}, limits).all,
      refused);

  const auto flooded = run_all(
      {res(std::string(1000, 'x')), req(get("/1")), res(ok("a")), req(get("/2")), res(ok("b"))}, limits);
  const Lines expected = {"0 GET /1 /0 -> 200 a/1", "1 GET /2 /0 -> 200 b/1"};
  EXPECT_EQ(flooded.all, expected);
  EXPECT_EQ(flooded.unparsed[1], 1000U);
}

// Two answers a piece, all before the first request: the requests' thread was told of late.
std::chrono::nanoseconds cpu_time_of_early_answers(std::size_t pieces) {
  const auto cpu_time = [] {
    timespec now{};
    ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return std::chrono::seconds(now.tv_sec) + std::chrono::nanoseconds(now.tv_nsec);
  };
  std::size_t count = 0;
  H1ExchangeBuilder builder({}, [&](Exchange&& exchange) { count += exchange.response ? 1 : 0; });
  const std::string answers = ok("a") + ok("b");
  const auto began = cpu_time();
  for (std::size_t i = 0; i < pieces; ++i)
    builder.feed(Side::response, bytes(answers), Time(std::chrono::microseconds(i)));
  for (std::size_t i = 0; i < 2 * pieces; ++i)
    builder.feed(Side::request, bytes(get("/1")), Time(std::chrono::microseconds(pieces + i)));
  const auto taken = cpu_time() - began;
  EXPECT_EQ(count, 2 * pieces);
  return taken;
}

TEST(Exchange, ManyEarlyAnswersTakeNoLongerEach) {
  const auto least = [](std::size_t pieces) {
    auto time = cpu_time_of_early_answers(pieces);
    for (int i = 0; i < 2; ++i) time = std::min(time, cpu_time_of_early_answers(pieces));
    return time;
  };
  EXPECT_LT(least(12'000), 8 * least(3'000));  // four times as many
}

TEST(Exchange, EarlyAnswersOfAllConnectionsHaveALimit) {
  EarlyBytes early{.most = 1000};
  auto limits = capturing();
  limits.early_bytes = &early;
  const auto ignore = [](Exchange&&) {};
  {
    H1ExchangeBuilder first(limits, ignore);
    first.feed(Side::response, bytes(ok(std::string(600, 'x'))), Time{});
    EXPECT_GT(early.now, 600U);
    H1ExchangeBuilder second(limits, ignore);
    second.feed(Side::response, bytes(ok(std::string(600, 'x'))), Time{});
    EXPECT_GT(second.unparsed_bytes(Side::response), 600U);
    EXPECT_EQ(first.unparsed_bytes(Side::response), 0U);
    EXPECT_LT(early.now, 1000U);
    first.feed(Side::request, bytes(get("/1")), Time{});
    EXPECT_EQ(early.now, 0U);
    first.feed(Side::response, bytes(ok("held")), Time{});
  }
  EXPECT_EQ(early.now, 0U);
}

}  // namespace
}  // namespace weir::http
