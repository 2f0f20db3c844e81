// HTTP inside opened TLS: what the origin got, what the client got and what was published, byte for byte.
#include <gtest/gtest.h>
#include <openssl/x509v3.h>

#include "harness.h"

namespace weir::proxy::test {
namespace {

using std::string;

const string kName = "origin.test";

Origin tls_origin(const World& world, Origin::Script script) {
  return {world.origin_ca.server_context({kName}), std::move(script)};
}

// What every test ends with: the events hold exactly the client's plaintext.
void expect_published(World& world, Wire& client) {
  client.close();
  ASSERT_TRUE(world.events.wait_for_end());
  EXPECT_EQ(world.events.bytes(Direction::sent), client.sent);
  EXPECT_EQ(world.events.bytes(Direction::received), client.received);
}

TEST(Bump, KeepAliveGetAndPost) {
  World world;
  world.start();
  const string get = "GET /a?b=1 HTTP/1.1\r\nhost: origin.test\r\nX-Twice: 1\r\nX-tWICE: 2\r\n\r\n";
  const string post = "POST /p HTTP/1.1\r\nHost: origin.test\r\nContent-Length: 4\r\n\r\nbody";
  const string first =
      "HTTP/1.1 200 Very  Fine\r\nSet-Cookie: a\r\nset-cookie: b\r\nContent-Length: 5\r\n\r\nhello";
  const string second = "HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n";
  auto origin = tls_origin(world, [&](Wire& wire) {
    EXPECT_EQ(wire.read_exactly(get.size()), get);
    wire.write(first);
    EXPECT_EQ(wire.read_exactly(post.size()), post);
    wire.write(second);
    wire.read_to_end();
  });
  auto client = world.open(origin, kName);
  client.write(get);
  EXPECT_EQ(client.read_exactly(first.size()), first);
  client.write(post);
  EXPECT_EQ(client.read_exactly(second.size()), second);
  expect_published(world, client);

  EXPECT_EQ(origin.connections(), 1);
  EXPECT_EQ(world.events.order(),
            (std::vector<string>{"opened", "decision", "handshake", "bytes", "ended", "ended"}));
  const auto decision = world.events.all<DecisionMade>().front();
  EXPECT_EQ(decision.decision, Decision::bumped);
  EXPECT_EQ(decision.server_name, "127.0.0.1");
  EXPECT_EQ(decision.server_port, origin.port());
  EXPECT_EQ(decision.cookie.value, 4711u);
  ASSERT_TRUE(decision.upstream_peer);
  EXPECT_EQ(decision.upstream_peer->port, origin.port());
  EXPECT_TRUE(decision.upstream_local);
  const auto handshake = world.events.all<Handshake>().front();
  EXPECT_TRUE(handshake.completed);
  EXPECT_EQ(handshake.version, "1.3");
  EXPECT_EQ(handshake.sni, kName);
  EXPECT_EQ(world.proxy->counters().requests, 2u);
  EXPECT_EQ(world.proxy->counters().bumped, 1u);
}

TEST(Bump, PipelinedRequestsAreAnsweredInOrder) {
  World world;
  world.start();
  auto origin = tls_origin(world, [&](Wire& wire) {
    for (const char* answer : {"1", "2", "3"}) {
      const auto head = wire.read_until("\r\n\r\n");
      if (head.empty()) return;
      const std::size_t content = head.starts_with("POST") ? 5 : 0;
      EXPECT_EQ(wire.read_exactly(content).size(), content);
      wire.write(string("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n") + answer);
    }
    wire.read_to_end();
  });
  auto client = world.open(origin, kName);
  client.write(
      "GET /1 HTTP/1.1\r\nHost: o\r\n\r\nPOST /2 HTTP/1.1\r\nHost: o\r\nTransfer-Encoding: "
      "chunked\r\n\r\n0\r\n\r\n"
      "GET /3 HTTP/1.1\r\nHost: o\r\nConnection: close\r\n\r\n");
  const auto all = client.read_to_end();
  EXPECT_LT(all.find("\r\n\r\n1"), all.find("\r\n\r\n2"));
  EXPECT_LT(all.find("\r\n\r\n2"), all.find("\r\n\r\n3"));
  EXPECT_NE(all.find("\r\n\r\n3"), string::npos);
  expect_published(world, client);
}

TEST(Bump, ChunkedBothWaysWithTrailers) {
  World world;
  world.start();
  const string head = "PUT /c HTTP/1.1\r\nHost: o\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n";
  const string body = "3\r\nabc\r\n4\r\ndefg\r\n0\r\nX-Sum: 7\r\n\r\n";
  const string response =
      "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-Trailer: yes\r\n\r\n";
  auto origin = tls_origin(world, [&](Wire& wire) {
    EXPECT_EQ(wire.read_until("\r\n\r\n"), head);
    EXPECT_EQ(wire.read_exactly(body.size()), body);
    wire.write(response);
    wire.read_to_end();
  });
  auto client = world.open(origin, kName);
  client.write(head);
  client.write(body);
  EXPECT_EQ(client.read_exactly(response.size()), response);
  expect_published(world, client);
}

TEST(Bump, HeadAndBodilessStatusesDoNotWaitForABody) {
  World world;
  world.start();
  const string to_head = "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n";
  const string unchanged = "HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n";
  const string nothing = "HTTP/1.1 204 No Content\r\n\r\n";
  auto origin = tls_origin(world, [&](Wire& wire) {
    for (const auto& answer : {to_head, unchanged, nothing}) {
      wire.read_until("\r\n\r\n");
      wire.write(answer);
    }
    wire.read_to_end();
  });
  auto client = world.open(origin, kName);
  client.write("HEAD / HTTP/1.1\r\nHost: o\r\n\r\n");
  EXPECT_EQ(client.read_exactly(to_head.size()), to_head);
  client.write("GET /304 HTTP/1.1\r\nHost: o\r\n\r\n");
  EXPECT_EQ(client.read_exactly(unchanged.size()), unchanged);
  client.write("GET /204 HTTP/1.1\r\nHost: o\r\n\r\n");
  EXPECT_EQ(client.read_exactly(nothing.size()), nothing);
  expect_published(world, client);
}

TEST(Bump, ExpectContinueComesBeforeTheBody) {
  World world;
  world.start();
  const string go_on = "HTTP/1.1 100 Continue\r\n\r\n";
  const string done = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
  auto origin = tls_origin(world, [&](Wire& wire) {
    wire.read_until("\r\n\r\n");
    wire.write(go_on);
    EXPECT_EQ(wire.read_exactly(6), "a body");
    wire.write(done);
    wire.read_to_end();
  });
  auto client = world.open(origin, kName);
  client.write("POST / HTTP/1.1\r\nHost: o\r\nContent-Length: 6\r\nExpect: 100-continue\r\n\r\n");
  EXPECT_EQ(client.read_exactly(go_on.size()), go_on);
  client.write("a body");
  EXPECT_EQ(client.read_exactly(done.size()), done);
  expect_published(world, client);
}

TEST(Bump, EventStreamArrivesPieceByPiece) {
  World world;
  world.start();
  const string head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n";
  std::atomic<int> read_by_client = 0;
  auto origin = tls_origin(world, [&](Wire& wire) {
    wire.read_until("\r\n\r\n");
    wire.write(head);
    for (int i = 0; i < 3; ++i) {
      wire.write("data: " + std::to_string(i) + "\n\n");
      read_by_client.wait(i);  // the next only once this one has arrived
    }
  });
  auto client = world.open(origin, kName);
  client.write("GET /sse HTTP/1.1\r\nHost: o\r\n\r\n");
  EXPECT_EQ(client.read_exactly(head.size()), head);
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(client.read_exactly(9), "data: " + std::to_string(i) + "\n\n");
    ++read_by_client;
    read_by_client.notify_all();
  }
  EXPECT_EQ(client.read_some(), "");
  EXPECT_TRUE(client.clean_end);
  expect_published(world, client);
}

TEST(Bump, FiveMegabytesBothWays) {
  World world;
  world.start();
  string big(5'000'000, '\0');
  for (std::size_t i = 0; i < big.size(); ++i) big[i] = static_cast<char>(i * 2654435761u >> 13);
  const string length = std::to_string(big.size());
  auto origin = tls_origin(world, [&](Wire& wire) {
    wire.read_until("\r\n\r\n");
    const string body = wire.read_exactly(big.size());
    EXPECT_TRUE(body == big);
    wire.write("HTTP/1.1 200 OK\r\nContent-Length: " + length + "\r\n\r\n" + body);
    wire.read_to_end();
  });
  auto client = world.open(origin, kName);
  client.write("POST / HTTP/1.1\r\nHost: o\r\nContent-Length: " + length + "\r\n\r\n" + big);
  client.read_until("\r\n\r\n");
  EXPECT_TRUE(client.read_exactly(big.size()) == big);
  client.close();
  ASSERT_TRUE(world.events.wait_for_end());
  EXPECT_TRUE(world.events.bytes(Direction::sent) == client.sent);
  EXPECT_TRUE(world.events.bytes(Direction::received) == client.received);
}

TEST(Bump, UpgradeIsRelayedAndPublished) {
  World world;
  world.start();
  const string switched = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n";
  auto origin = tls_origin(world, [&](Wire& wire) {
    wire.read_until("\r\n\r\n");
    wire.write(switched + "welcome");
    EXPECT_EQ(wire.read_exactly(4), string("\0\r\n\1", 4));
    wire.write("echo");
    EXPECT_EQ(wire.read_some(), "");
    EXPECT_TRUE(wire.clean_end);
    wire.write("last words");
  });
  auto client = world.open(origin, kName);
  client.write("GET /ws HTTP/1.1\r\nHost: o\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n");
  EXPECT_EQ(client.read_exactly(switched.size() + 7), switched + "welcome");
  client.write(string("\0\r\n\1", 4));
  EXPECT_EQ(client.read_exactly(4), "echo");
  client.half_close();
  EXPECT_EQ(client.read_to_end(), "last words");
  expect_published(world, client);
}

TEST(Bump, CloseDelimitedAndCutShort) {
  World world;
  world.start();
  auto origin = tls_origin(world, [&](Wire& wire) {
    const bool cut = wire.read_until("\r\n\r\n").starts_with("GET /cut");
    wire.write(cut ? "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\npart"
                   : "HTTP/1.0 200 OK\r\n\r\nall of it");
  });
  auto whole = world.open(origin, kName);
  whole.write("GET / HTTP/1.1\r\nHost: o\r\n\r\n");
  EXPECT_EQ(whole.read_to_end(), "HTTP/1.0 200 OK\r\n\r\nall of it");
  EXPECT_TRUE(whole.clean_end);
  auto cut = world.open(origin, kName);
  cut.write("GET /cut HTTP/1.1\r\nHost: o\r\n\r\n");
  cut.read_to_end();
  EXPECT_FALSE(cut.clean_end);
  const auto all_ended = [](const auto& events) { return Events::count<StreamEnded>(events) == 4; };
  ASSERT_TRUE(world.events.wait_until(all_ended));
  std::vector<std::pair<Direction, bool>> ends;
  for (const auto& end : world.events.all<StreamEnded>()) ends.emplace_back(end.direction, end.broken_off);
  EXPECT_EQ(ends, (std::vector<std::pair<Direction, bool>>{{Direction::sent, false},
                                                           {Direction::received, false},
                                                           {Direction::sent, false},
                                                           {Direction::received, true}}));
}

TEST(Bump, IdleUpstreamThatClosedIsReplacedForRepeatableRequests) {
  World world;
  world.start();
  std::atomic<int> closed = 0;
  auto origin = tls_origin(world, [&](Wire& wire) {
    wire.read_until("\r\n\r\n");
    wire.write("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx");
    wire.close();
    ++closed;
    closed.notify_all();
  });
  auto client = world.open(origin, kName);
  for (int i = 0; i < 3; ++i) {
    client.write(i < 2 ? "GET / HTTP/1.1\r\nHost: o\r\n\r\n"
                       : "POST / HTTP/1.1\r\nHost: o\r\nContent-Length: 1\r\n\r\nb");
    EXPECT_TRUE(client.read_until("\r\n\r\n").starts_with("HTTP/1.1 200 OK\r\n"));
    EXPECT_EQ(client.read_exactly(1), "x");
    closed.wait(i);
  }
  EXPECT_EQ(origin.connections(), 3);
  expect_published(world, client);
}

TEST(Bump, MalformedRequestsAreRefusedAndNeverForwarded) {
  for (const string bad :
       {"GET / HTTP/1.1\r\nHost: o\r\nA: 1\r\n folded\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: o\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "GET / HTTP/1.1\r\n\r\n", "GET / HTTP/1.1\r\nHost: o\r\nbad field\r\n\r\n"}) {
    World world;
    world.start();
    {
      auto origin = tls_origin(world, [&](Wire& wire) { EXPECT_EQ(wire.read_to_end(), "") << bad; });
      auto client = world.open(origin, kName);
      client.write(bad);
      EXPECT_TRUE(client.read_to_end().starts_with("HTTP/1.1 400 Bad Request\r\n")) << bad;
      expect_published(world, client);
    }
    EXPECT_EQ(world.proxy->counters().malformed_requests, 1u);
  }
}

TEST(Bump, PolicyIsAskedForEachRequest) {
  World world;
  world.decider.refused_target = "/secret";
  world.start();
  auto origin = tls_origin(world, [&](Wire& wire) { EXPECT_EQ(wire.read_to_end(), ""); });
  auto client = world.open(origin, kName);
  client.write("GET /secret HTTP/1.1\r\nHost: o\r\n\r\n");
  EXPECT_TRUE(client.read_to_end().starts_with("HTTP/1.1 403 Forbidden\r\n"));
  expect_published(world, client);
  EXPECT_EQ(world.events.all<DecisionMade>().back().rule, "no target");
  EXPECT_FALSE(world.events.all<DecisionMade>().back().stream);
}

// The origin may take the lines for one, and HTTP/2 joins them.
TEST(Bump, PolicyIsAskedForTheWholeCookie) {
  World world;
  world.decider.refused_cookie = "a=1; b=2";
  world.start();
  auto origin = tls_origin(world, [&](Wire& wire) { EXPECT_EQ(wire.read_to_end(), ""); });
  auto client = world.open(origin, kName);
  client.write("GET / HTTP/1.1\r\nHost: o\r\nCookie: a=1\r\nX: y\r\nCookie: b=2\r\n\r\n");
  EXPECT_TRUE(client.read_to_end().starts_with("HTTP/1.1 403 Forbidden\r\n"));
  EXPECT_EQ(world.events.all<DecisionMade>().back().rule, "no cookie");
}

TEST(Bump, WhoUploadsMuchReadsItsRefusal) {
  World world;
  world.decider.refused_target = "/secret";
  world.start();
  auto origin = tls_origin(world, [&](Wire& wire) { EXPECT_EQ(wire.read_to_end(), ""); });
  auto client = world.open(origin, kName);
  const string body(std::size_t{16} * 1024 * 1024, 'x');
  client.write("PUT /secret HTTP/1.1\r\nHost: o\r\nContent-Length: " + std::to_string(body.size()) +
               "\r\n\r\n");
  client.write(body);
  EXPECT_TRUE(client.sent.ends_with(body)) << "it was reset before it could read";
  EXPECT_TRUE(client.read_until("\r\n\r\n").starts_with("HTTP/1.1 403 Forbidden\r\n"));
}

// HTTP/1's requests have no stream, whatever the upstream speaks.
TEST(Bump, AnUpstreamOfHttp2ChangesNothingAboutARefusal) {
  World world;
  world.decider.refused_target = "/secret";
  world.start();
  Origin origin(world.origin_ca.server_context({.name = kName, .http2 = true}), [](Wire& wire) {
    wire.write(string("\0\0\0\4\0\0\0\0\0", 9));  // SETTINGS
    wire.read_to_end();
  });
  auto client = world.open(origin, kName);
  client.write("GET /secret HTTP/1.1\r\nHost: o\r\n\r\n");
  EXPECT_TRUE(client.read_until("\r\n\r\n").starts_with("HTTP/1.1 403 Forbidden\r\n"));
  const auto decision = world.events.all<DecisionMade>().back();
  EXPECT_EQ(decision.rule, "no target");
  EXPECT_FALSE(decision.stream);
}

void offer_encrypted_hello(SSL_CTX* context) {
  const auto add = [](SSL*, unsigned, unsigned, const unsigned char** out, size_t* size, X509*, size_t, int*,
                      void*) {
    static const unsigned char inner[] = "\x00 looks like nothing";
    *out = inner;
    *size = sizeof inner;
    return 1;
  };
  ASSERT_EQ(
      SSL_CTX_add_custom_ext(context, 0xfe0d, SSL_EXT_CLIENT_HELLO, add, nullptr, nullptr, nullptr, nullptr),
      1);
}

TEST(Bump, PolicyIsAskedWithWhatTheClientHelloHas) {
  World world;
  world.decider.refuses_hello = [](const HelloFacts& hello) {
    return hello.has_encrypted || (hello.is_tls && !hello.has_server_name);
  };
  world.start();
  auto origin = tls_origin(world, [&](Wire& wire) {
    if (wire.read_until("\r\n\r\n").empty()) return;
    wire.write("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    wire.read_to_end();
  });
  const auto connect = [&](bool encrypted, const string& name) {
    auto client = world.connect_through("127.0.0.1:" + std::to_string(origin.port()));
    const auto context = world.client_context(world.weir_ca);
    if (encrypted) offer_encrypted_hello(context.get());
    if (!client.start_tls(context.get(), false, name)) return string("refused");
    client.write("GET / HTTP/1.1\r\nHost: " + kName + "\r\n\r\n");
    return client.read_until("\r\n\r\n").substr(9, 3);
  };
  EXPECT_EQ(connect(true, kName), "refused");
  EXPECT_EQ(connect(false, ""), "refused");
  EXPECT_EQ(connect(false, kName), "200") << "an ordinary one, and its request";
  EXPECT_EQ(world.events.all<DecisionMade>().front().rule, "no such hello");
  EXPECT_FALSE(world.events.all<DecisionMade>().front().stream);
  EXPECT_EQ(origin.received().find("GET", 5), string::npos) << "more than one request arrived";
}

struct BadUpstream {
  const char* error_type;
  TestCa::Leaf leaf;
  bool trusted_issuer = true;
};

TEST(Bump, UpstreamsThatDoNotVerifyGive502) {
  const std::vector<BadUpstream> cases = {
      {"tls_certificate_expired", {kName, -3600, false}},
      {"tls_certificate_self_signed", {kName, 3600, true}},
      {"tls_certificate_wrong_host", {"other.test", 3600, false}},
      {"tls_certificate_untrusted", {kName, 3600, false}, false},
  };
  for (const auto& bad : cases) {
    World world;
    world.start();
    const TestCa unknown("nobody's CA");
    Origin origin((bad.trusted_issuer ? world.origin_ca : unknown).server_context(bad.leaf), [](Wire&) {});
    auto client = world.open(origin, kName);
    client.write("GET / HTTP/1.1\r\nHost: o\r\n\r\n");
    const auto answer = client.read_to_end();
    EXPECT_TRUE(answer.starts_with("HTTP/1.1 502 Bad Gateway\r\n")) << answer;
    EXPECT_NE(answer.find(bad.error_type), string::npos) << answer;
    EXPECT_NE(answer.find(kName), string::npos) << answer;
    expect_published(world, client);
    const auto decision = world.events.all<DecisionMade>().front();
    EXPECT_EQ(decision.decision, Decision::upstream_failed);
    EXPECT_EQ(decision.error_type, bad.error_type);
    EXPECT_EQ(origin.received(), "");
    EXPECT_EQ(world.proxy->counters().upstream_failed, 1u);
  }
}

TEST(Bump, UpstreamsThatCanNotBeReachedGive502) {
  World world;
  world.start();
  std::uint16_t free_port = 0;
  {
    free_port = Origin(nullptr, [](Wire&) {}).port();
  }
  auto client = world.connect_through("127.0.0.1:" + std::to_string(free_port));
  const auto context = world.client_context(world.weir_ca);
  ASSERT_TRUE(client.start_tls(context.get(), false, kName));
  client.write("GET / HTTP/1.1\r\nHost: o\r\n\r\n");
  EXPECT_NE(client.read_to_end().find("connect_refused"), string::npos);
  expect_published(world, client);
  EXPECT_EQ(world.events.all<DecisionMade>().front().error_type, "connect_refused");
}

TEST(Bump, ClientThatRejectsTheCertificateIsSaid) {
  World world;
  world.start();
  auto origin = tls_origin(world, [](Wire& wire) { EXPECT_EQ(wire.read_to_end(), ""); });
  auto client = world.connect_through("127.0.0.1:" + std::to_string(origin.port()));
  const auto context = world.client_context(world.origin_ca);
  EXPECT_FALSE(client.start_tls(context.get(), false, kName));
  client.close();
  ASSERT_TRUE(world.events.wait_for_end());
  const auto handshake = world.events.all<Handshake>().front();
  EXPECT_FALSE(handshake.completed);
  EXPECT_EQ(handshake.alert, 48);  // unknown_ca
  const auto decision = world.events.all<DecisionMade>().back();
  EXPECT_EQ(decision.decision, Decision::bumped);
  EXPECT_EQ(decision.error_type, "client_rejected_certificate");
  EXPECT_EQ(world.proxy->counters().client_rejected_certificate, 1u);
}

TEST(Bump, WithoutServerNameTheLeafIsForTheConnectAddress) {
  World world;
  world.start();
  Origin origin(world.origin_ca.server_context({"127.0.0.1"}), [](Wire& wire) {
    wire.read_until("\r\n\r\n");
    wire.write("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    wire.read_to_end();
  });
  for (int i = 0; i < 2; ++i) {
    auto client = world.connect_through("127.0.0.1:" + std::to_string(origin.port()));
    const auto context = world.client_context(world.weir_ca);
    ASSERT_TRUE(client.start_tls(context.get(), false));
    const Certificate leaf(SSL_get1_peer_certificate(client.ssl()));
    EXPECT_EQ(X509_check_ip_asc(leaf.get(), "127.0.0.1", 0), 1);
    client.write("GET / HTTP/1.1\r\nHost: o\r\n\r\n");
    EXPECT_TRUE(client.read_until("\r\n\r\n").starts_with("HTTP/1.1 200"));
  }
  EXPECT_EQ(world.proxy->counters().leaves_signed, 1u);
}

}  // namespace
}  // namespace weir::proxy::test
