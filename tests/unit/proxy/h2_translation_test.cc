// HTTP/2 clients of HTTP/1 upstreams, and the reverse.
#include <gtest/gtest.h>

#include "h2_bridge.h"

namespace weir::proxy::test {
namespace {

using std::string;

TEST(H2ToH1, ARequestWithEverything) {
  TranslatingBridge bridge;
  bridge.client(
      head(1,
           request_fields({{"x", "1"}, {"cookie", "a=b"}, {"x", "2"}, {"cookie", "c"}, {"te", "trailers"}},
                          "POST", "/p?q"),
           false));
  const string sent =
      "POST /p?q HTTP/1.1\r\nhost: o.test\r\nx: 1\r\ncookie: a=b; c\r\nx: 2\r\nte: trailers\r\nconnection: "
      "te\r\n"
      "transfer-encoding: chunked\r\n\r\n";
  EXPECT_EQ(bridge.legs[0].sent, sent);
  bridge.client(data(1, "hello", false));
  EXPECT_EQ(bridge.legs[0].sent, sent + "5\r\nhello\r\n");
  bridge.client(frame(kHeaders, kEndHeaders | kEndStream, 1, block({{"x-end", "t"}})));
  EXPECT_EQ(bridge.legs[0].sent, sent + "5\r\nhello\r\n0\r\nx-end: t\r\n\r\n");

  bridge.upstream(
      0,
      "HTTP/1.1 103 Early\r\nLink: l\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX-B: 1\r\n"
      "Connection: keep-alive, x-hop\r\nX-Hop: 1\r\n\r\n3\r\none\r\n");
  EXPECT_EQ(bridge.to_client.content(1), "one");
  EXPECT_TRUE(bridge.upstream(0, "0\r\nX-Late: l\r\n\r\n"));
  const auto got = bridge.to_client.of(1);
  ASSERT_EQ(got.size(), 4u);
  EXPECT_EQ(got[0].fields, (Pairs{{":status", "103"}, {"link", "l"}}));
  EXPECT_EQ(got[1].fields, (Pairs{{":status", "200"}, {"x-b", "1"}}));
  EXPECT_EQ(got[3].fields, (Pairs{{"x-late", "l"}}));
  EXPECT_TRUE(bridge.front.idle());
}

TEST(H2ToH1, FramingOfRequests) {
  TranslatingBridge bridge;
  bridge.client(head(1, request_fields({}, "POST")) +
                head(3, request_fields({{"content-length", "2"}}, "PUT"), false) + data(3, "ab") +
                head(5, request_fields()) + head(7, request_fields({}, "OPTIONS", "*")));
  EXPECT_EQ(bridge.legs[0].sent, "POST / HTTP/1.1\r\nhost: o.test\r\ncontent-length: 0\r\n\r\n");
  EXPECT_EQ(bridge.legs[1].sent, "PUT / HTTP/1.1\r\nhost: o.test\r\ncontent-length: 2\r\n\r\nab");
  EXPECT_EQ(bridge.legs[2].sent, "GET / HTTP/1.1\r\nhost: o.test\r\n\r\n");
  EXPECT_EQ(bridge.legs[3].sent, "OPTIONS * HTTP/1.1\r\nhost: o.test\r\n\r\n");
}

TEST(H2ToH1, LegsAreUsedAgainWhereBothAllow) {
  TranslatingBridge bridge;
  const string answer = "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx";
  bridge.client(head(1, request_fields()));
  EXPECT_TRUE(bridge.upstream(0, answer));
  bridge.client(head(3, request_fields()));
  ASSERT_EQ(bridge.legs.size(), 1u);
  EXPECT_FALSE(bridge.upstream(0, "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nConnection: close\r\n\r\nx"));
  bridge.client(head(5, request_fields()));
  ASSERT_EQ(bridge.legs.size(), 2u);
  EXPECT_FALSE(bridge.upstream(1, answer + "what is this"));
  bridge.reuse = false;
  bridge.client(head(7, request_fields()));
  EXPECT_EQ(bridge.legs.size(), 3u);
  for (const std::uint32_t stream : {1u, 3u, 5u}) EXPECT_EQ(bridge.status(stream), "200");
}

TEST(H2ToH1, HeadAndNoContent) {
  TranslatingBridge bridge;
  bridge.client(head(1, request_fields({}, "HEAD")));
  EXPECT_TRUE(bridge.upstream(0, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"));
  EXPECT_TRUE(bridge.to_client.of(1)[0].ends());
  bridge.client(head(3, request_fields()));
  EXPECT_TRUE(bridge.upstream(0, "HTTP/1.1 204 No Content\r\n\r\n"));
  EXPECT_TRUE(bridge.to_client.of(3)[0].ends());
}

TEST(H2ToH1, ABodyUntilTheEndIsWholeOnlyWithAnOrderlyOne) {
  for (const bool orderly : {true, false}) {
    TranslatingBridge bridge;
    bridge.client(head(1, request_fields()));
    bridge.upstream(0, "HTTP/1.1 200 OK\r\n\r\nsome");
    bridge.legs[0].leg->ended(orderly, {502, "gone"});
    bridge.move();
    EXPECT_EQ(bridge.to_client.content(1), "some");
    const auto last = bridge.to_client.of(1).back();
    EXPECT_EQ(last.type, orderly ? kData : kRst);
  }
}

TEST(H2ToH1, BadAnswersAreNotPassedOn) {
  for (const string answer : {"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
                              "HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
                              "HTTP/1.1 200 OK\r\nA: b\rc\r\n\r\n", "nonsense\r\n\r\n"}) {
    TranslatingBridge bridge;
    bridge.client(head(1, request_fields()));
    EXPECT_FALSE(bridge.upstream(0, answer));
    EXPECT_EQ(bridge.status(1), "502") << answer;
    EXPECT_EQ(bridge.judge.failures, std::vector<string>{"upstream_malformed_response"});
  }
}

TEST(H2ToH1, LargeHeadsPassUnlessAFieldIsTooLong) {
  string many = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n";
  for (int i = 0; i < 1'000; ++i) many += "X-" + std::to_string(i) + ": " + string(150, 'y') + "\r\n";
  TranslatingBridge bridge;
  bridge.client(head(1, request_fields()));
  EXPECT_TRUE(bridge.upstream(0, many + "\r\n"));
  EXPECT_EQ(bridge.status(1), "200");
  bridge.client(head(3, request_fields()));
  EXPECT_FALSE(
      bridge.upstream(0, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX: " + string(70'000, 'y') + "\r\n\r\n"));
  EXPECT_EQ(bridge.status(3), "502");
  EXPECT_EQ(bridge.judge.failures, std::vector<string>{"upstream_oversized_response"});
}

TEST(H2ToH1, AKeptConnectionThatEndedIsNotAnAnswer) {
  for (const string method : {"GET", "POST"}) {
    TranslatingBridge bridge;
    bridge.client(head(1, request_fields()));
    bridge.upstream(0, "HTTP/1.1 204 No Content\r\n\r\n");
    bridge.client(head(3, request_fields({}, method)));
    bridge.legs[0].sent.clear();
    bridge.legs[0].leg->ended(true, {502, "gone"});
    const bool again = bridge.legs[0].leg->begin_again();
    EXPECT_EQ(again, method == "GET");
    bridge.move();
    EXPECT_EQ(bridge.legs[0].sent.empty(), method == "POST");
    EXPECT_EQ(bridge.status(3), again ? "" : "502");
  }
}

TEST(H2ToH1, ACancelledStreamEndsItsLeg) {
  TranslatingBridge bridge;
  bridge.client(head(1, request_fields()) + frame(kRst, 0, 1, number(8, 4)));
  EXPECT_FALSE(bridge.legs[0].leg->usable());
  bridge.client(head(3, request_fields()));
  EXPECT_EQ(bridge.legs.size(), 2u);
}

TEST(H2ToH1, ASlowClientHoldsTheLeg) {
  H2Limits limits;
  limits.stream_window = 1'000;
  TranslatingBridge bridge(limits);
  bridge.client(frame(kSettings, 0, 0, setting(4, 100)) + head(1, request_fields()));
  bridge.upstream(0, "HTTP/1.1 200 OK\r\nContent-Length: 2000\r\n\r\n" + string(1'000, 'x'));
  EXPECT_TRUE(bridge.legs[0].leg->wants_input());
  bridge.upstream(0, string(200, 'x'));
  EXPECT_FALSE(bridge.legs[0].leg->wants_input());
  bridge.client(frame(kWindow, 0, 1, number(500, 4)));
  EXPECT_TRUE(bridge.legs[0].leg->wants_input());
}

TEST(H1ToH2, RequestsOneAfterTheOther) {
  ReverseBridge bridge;
  bridge.client(
      "POST /p HTTP/1.1\r\nHost: o.test\r\nX-A: 1\r\nConnection: keep-alive, x-hop\r\nX-Hop: 1\r\nx-a: 2\r\n"
      "Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\nX-End: t\r\n\r\nGET /next HTTP/1.1\r\nHost: "
      "o.test\r\n\r\n");
  auto sent = bridge.to_upstream.of(1);
  ASSERT_EQ(sent.size(), 3u);
  EXPECT_EQ(sent[0].fields, request_fields({{"x-a", "1"}, {"x-a", "2"}}, "POST", "/p"));
  EXPECT_EQ(sent[1].payload, "ab");
  EXPECT_EQ(sent[2].fields, (Pairs{{"x-end", "t"}}));
  EXPECT_TRUE(bridge.to_upstream.of(3).empty());  // waits for the answer

  bridge.upstream(head(1, {{":status", "103"}, {"link", "l"}}, false) +
                  head(1, {{":status", "200"}, {"b", "1"}}, false) + data(1, "one", false));
  const string begun =
      "HTTP/1.1 103 \r\nlink: l\r\n\r\nHTTP/1.1 200 \r\nb: 1\r\ntransfer-encoding: "
      "chunked\r\n\r\n3\r\none\r\n";
  EXPECT_EQ(bridge.answered, begun);
  bridge.upstream(head(1, {{"x-late", "l"}}));
  EXPECT_EQ(bridge.answered, begun + "0\r\nx-late: l\r\n\r\n");
  sent = bridge.to_upstream.of(3);
  ASSERT_EQ(sent.size(), 1u);
  EXPECT_EQ(sent[0].fields, request_fields({}, "GET", "/next"));
  bridge.answered.clear();
  bridge.upstream(head(3, {{":status", "200"}, {"content-length", "2"}}, false) + data(3, "ok"));
  EXPECT_EQ(bridge.answered, "HTTP/1.1 200 \r\ncontent-length: 2\r\n\r\nok");
  EXPECT_TRUE(bridge.front.idle());
  EXPECT_FALSE(bridge.front.finished());
}

TEST(H1ToH2, HowResponsesEnd) {
  const auto answer_to = [](const string& request, const string& response) {
    ReverseBridge bridge;
    bridge.client(request);
    bridge.upstream(response);
    return std::pair(bridge.answered, bridge.front.finished());
  };
  const string get = "GET / HTTP/1.1\r\nHost: o.test\r\n\r\n";
  EXPECT_EQ(answer_to(get, head(1, {{":status", "204"}})), std::pair(string("HTTP/1.1 204 \r\n\r\n"), false));
  EXPECT_EQ(answer_to(get, head(1, {{":status", "200"}})),
            std::pair(string("HTTP/1.1 200 \r\ncontent-length: 0\r\n\r\n"), false));
  EXPECT_EQ(answer_to("HEAD / HTTP/1.1\r\nHost: o.test\r\n\r\n",
                      head(1, {{":status", "200"}, {"content-length", "9"}})),
            std::pair(string("HTTP/1.1 200 \r\ncontent-length: 9\r\n\r\n"), false));
  EXPECT_EQ(answer_to("GET / HTTP/1.0\r\nHost: o.test\r\n\r\n",
                      head(1, {{":status", "200"}}, false) + data(1, "x")),
            std::pair(string("HTTP/1.1 200 \r\nconnection: close\r\n\r\nx"), true));
}

TEST(H1ToH2, AResetIsAnAnswer) {
  ReverseBridge bridge;
  bridge.client("GET / HTTP/1.1\r\nHost: o.test\r\n\r\n");
  bridge.upstream(frame(kRst, 0, 1, number(2, 4)));
  EXPECT_TRUE(bridge.answered.starts_with("HTTP/1.1 502 ")) << bridge.answered;
  EXPECT_EQ(bridge.judge.failures, std::vector<string>{"upstream_reset"});
}

TEST(H1ToH2, WhatBreaksOff) {
  ReverseBridge bridge;
  bridge.client("GET / HTTP/1.1\r\nHost: o.test\r\n\r\n");
  bridge.upstream(head(1, {{":status", "200"}}, false) + data(1, "part", false));
  bridge.upstream(frame(kRst, 0, 1, number(2, 4)));
  EXPECT_TRUE(bridge.answered.ends_with("4\r\npart\r\n"));
  EXPECT_TRUE(bridge.front.broke_off());
}

TEST(H1ToH2, WhatIsRefusedReachesNobody) {
  const std::vector<std::pair<string, string>> cases = {
      {"GET /refused HTTP/1.1\r\nHost: o.test\r\n\r\n", "403"},
      {"CONNECT o.test:1 HTTP/1.1\r\nHost: o.test\r\n\r\n", "400"},
      {"GET http://o.test/ HTTP/1.1\r\nHost: o.test\r\n\r\n", "400"},
      {"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", "400"},
      {"GET / HTTP/1.1\r\nHost: o.test\r\nA: b\rc\r\n\r\n", "400"},
      {"POST / HTTP/1.1\r\nHost: o.test\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
       "400"},
      {"POST / HTTP/1.1\r\nHost: o.test\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", "400"},
  };
  for (const auto& [text, status] : cases) {
    ReverseBridge bridge;
    bridge.client(text + "GET /smuggled HTTP/1.1\r\nHost: o.test\r\n\r\n");
    EXPECT_TRUE(bridge.answered.starts_with("HTTP/1.1 " + status)) << text;
    EXPECT_TRUE(bridge.to_upstream.of_type(kHeaders).empty()) << text;
    EXPECT_TRUE(bridge.front.finished());
  }
  ReverseBridge bridge;
  bridge.client("POST / HTTP/1.1\r\nHost: o.test\r\nTransfer-Encoding: chunked\r\n\r\n");
  bridge.client("zz\r\n");
  EXPECT_TRUE(bridge.answered.starts_with("HTTP/1.1 400"));
  EXPECT_EQ(bridge.to_upstream.of(1).back().type, kRst);
}

}  // namespace
}  // namespace weir::proxy::test
