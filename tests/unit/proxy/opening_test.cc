// What is opened and what is passed through, and clients that ask for a connection by SOCKS 5.
#include <gtest/gtest.h>

#include <array>
#include <atomic>

#include "tests/unit/proxy/harness.h"

namespace weir::proxy::test {
namespace {

using std::string;

constexpr const char* kName = "origin.test";
constexpr const char* kRequest = "GET / HTTP/1.1\r\nHost: origin.test\r\nConnection: close\r\n\r\n";
constexpr const char* kAnswer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";

string authority_of(const Origin& origin) {
  return "127.0.0.1:" + std::to_string(origin.port());
}

Origin answering(SslContext context) {
  return Origin(std::move(context), [](Wire& wire) {
    if (!wire.read_until("\r\n\r\n").empty()) wire.write(kAnswer);
  });
}

string socks_request(std::uint16_t port, const string& name) {
  return string("\5\1\0", 3) + string("\5\1\0\3", 4) + static_cast<char>(name.size()) + name +
         static_cast<char>(port >> 8) + static_cast<char>(port & 0xff);
}
const string kSocksAnswer = string("\5\0", 2) + string("\5\0\0\1\0\0\0\0\0\0", 10);

bool waits_for(World& world, std::size_t ended_connections) {
  return world.events.wait_until(
      [&](const auto& all) { return Events::count<StreamEnded>(all) == 2 * ended_connections; });
}

std::shared_ptr<const ClientFacts> facts(const string& executable) {
  return std::make_shared<const ClientFacts>(ClientFacts{executable, 0, true, "/", ""});
}

// Fails to begin TLS, as it trusts the origin's CA alone, or doesn't because it is not us that it meets.
bool pinned_client(World& world, const Origin& origin) {
  auto client = world.connect_through(authority_of(origin));
  const auto context = world.client_context(world.origin_ca);
  if (!client.start_tls(context.get(), false, kName)) return false;
  client.write(kRequest);
  EXPECT_TRUE(client.read_to_end().ends_with("ok"));
  return true;
}

TEST(Socks, TlsIsOpenedAndHttpIsRead) {
  World world;
  world.start();
  auto origin = answering(world.origin_ca.server_context({kName}));
  auto client = world.connect();
  client.write(socks_request(origin.port(), "127.0.0.1"));
  EXPECT_EQ(client.read_exactly(kSocksAnswer.size()), kSocksAnswer);
  const auto context = world.client_context(world.weir_ca);
  ASSERT_TRUE(client.start_tls(context.get(), false, kName));
  client.write(kRequest);
  EXPECT_TRUE(client.read_to_end().ends_with("ok"));
  client.close();
  ASSERT_TRUE(world.events.wait_for_end());
  EXPECT_EQ(world.events.bytes(Direction::sent), kRequest);
  const auto decision = world.events.all<DecisionMade>().front();
  EXPECT_EQ(decision.decision, Decision::bumped);
  EXPECT_EQ(decision.server_port, origin.port());
}

TEST(Socks, HttpInTheClearIsRead) {
  World world;
  world.start();
  auto origin = answering(nullptr);
  auto client = world.connect();
  client.write(socks_request(origin.port(), "127.0.0.1"));
  EXPECT_EQ(client.read_exactly(kSocksAnswer.size()), kSocksAnswer);
  client.write(kRequest);
  EXPECT_TRUE(client.read_to_end().ends_with("ok"));
  client.close();
  ASSERT_TRUE(world.events.wait_for_end());
  EXPECT_EQ(world.events.bytes(Direction::sent), kRequest);
  EXPECT_EQ(world.events.bytes(Direction::received), kAnswer);
}

TEST(Socks, OtherProtocolsPassAndTheServerMaySpeakFirst) {
  World world;
  world.start();
  Origin origin(nullptr, [](Wire& wire) {
    wire.write("hello");
    wire.write(wire.read_exactly(4));
  });
  auto client = world.connect();
  client.write(socks_request(origin.port(), "127.0.0.1"));
  EXPECT_EQ(client.read_exactly(kSocksAnswer.size()), kSocksAnswer);
  EXPECT_EQ(client.read_exactly(5), "hello");
  client.write("ping");
  EXPECT_EQ(client.read_exactly(4), "ping");
  client.close();
  EXPECT_EQ(world.events.all<DecisionMade>().front().decision, Decision::tunnelled);
}

// What may be the beginning of a ClientHello of another form is waited for no longer than half a request
// line.
TEST(Opening, AFewBytesOfAnotherProtocolAreLetThrough) {
  World world;
  world.start();
  for (const string& first : {string("\xfe\x01"), string("\xff\xfd\x01"), string("\x14")}) {
    Origin origin(nullptr, [&](Wire& wire) {
      EXPECT_EQ(wire.read_exactly(first.size()), first);
      wire.write("answer");
      wire.read_to_end();
    });
    auto client = world.connect_through("127.0.0.1:" + std::to_string(origin.port()));
    client.write(first);
    EXPECT_EQ(client.read_exactly(6), "answer");
  }
}

TEST(Opening, ANameThatIsLeftClosedIsSoInTheClear) {
  World world;
  Config config;
  config.passthrough = {"127.0.0.1"};
  world.start(std::move(config));
  Origin origin(nullptr, [&](Wire& wire) {
    wire.read_until("\r\n\r\n");
    wire.write("ICY 200 OK\r\n\r\nmusic");
  });
  auto client = world.connect_through("127.0.0.1:" + std::to_string(origin.port()));
  client.write("GET /stream HTTP/1.0\r\n\r\n");
  EXPECT_EQ(client.read_to_end(), "ICY 200 OK\r\n\r\nmusic");
  EXPECT_EQ(world.events.all<DecisionMade>().front().decision, Decision::passed_through);
}

TEST(Socks, WhatIsNoTlsIsJudgedAsThat) {
  World world;
  world.decider.refuses_hello = [](const HelloFacts& hello) { return !hello.is_tls; };
  world.start();
  Origin origin(nullptr, [](Wire& wire) { EXPECT_EQ(wire.read_to_end(), ""); });
  auto client = world.connect();
  client.write(socks_request(origin.port(), "127.0.0.1"));
  EXPECT_EQ(client.read_exactly(kSocksAnswer.size()), kSocksAnswer);
  client.write("ping ping ping\r\n");
  EXPECT_EQ(client.read_to_end(), "");
  EXPECT_EQ(world.events.all<DecisionMade>().front().rule, "no such hello");
}

TEST(Socks, PolicyRefusesAndNothingArrives) {
  World world;
  world.decider.refused_name = "127.0.0.1";
  world.start();
  auto origin = answering(nullptr);
  auto client = world.connect();
  client.write(socks_request(origin.port(), "127.0.0.1"));
  EXPECT_EQ(client.read_to_end(), string("\5\0", 2) + string("\5\2\0\1\0\0\0\0\0\0", 10));
  EXPECT_EQ(origin.connections(), 0);
  EXPECT_EQ(world.events.all<DecisionMade>().front().rule, "no 127.0.0.1");
}

// Nobody is there who could speak instead of the client.
TEST(Socks, AnUpstreamThatIsNotThereEndsTheConnection) {
  World world;
  world.start();
  const auto free_port = Origin(nullptr, [](Wire&) {}).port();
  auto client = world.connect();
  client.write(socks_request(free_port, "127.0.0.1"));
  EXPECT_EQ(client.read_exactly(kSocksAnswer.size()), kSocksAnswer);
  client.write("GE");
  client.write("T / HTTP/1.1\r\nHost: o\r\n\r\n");
  EXPECT_TRUE(client.read_to_end().starts_with("HTTP/1.1 502 "));
  EXPECT_EQ(world.events.all<DecisionMade>().front().error_type, "connect_refused");
}

// There is nobody to wait for, and nothing to say to who says nothing.
TEST(Opening, ASilentClientIsSoonToldThatTheUpstreamIsNotThere) {
  World world;
  world.start();
  const auto free_port = Origin(nullptr, [](Wire&) {}).port();
  const auto began = std::chrono::steady_clock::now();
  auto client = world.connect_through("127.0.0.1:" + std::to_string(free_port));
  EXPECT_EQ(client.read_to_end(), "");
  EXPECT_LT(std::chrono::steady_clock::now() - began, std::chrono::seconds(5));
  EXPECT_EQ(world.events.all<DecisionMade>().front().error_type, "connect_refused");
}

TEST(Opening, HttpInTheClearThroughConnectIsReadAndJudged) {
  World world;
  world.decider.refused_name = "bad.test";
  world.start();
  Origin origin(nullptr, [](Wire& wire) {
    while (!wire.read_until("\r\n\r\n").empty()) wire.write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
  });
  auto client = world.connect_through(authority_of(origin));
  const string fine = "GET / HTTP/1.1\r\nHost: origin.test\r\n\r\n";
  client.write(fine);
  EXPECT_TRUE(client.read_until("ok").ends_with("ok"));
  client.write("GET / HTTP/1.1\r\nHost: bad.test\r\n\r\n");
  EXPECT_TRUE(client.read_to_end().starts_with("HTTP/1.1 403 Forbidden\r\n"));
  client.close();
  ASSERT_TRUE(world.events.wait_for_end());
  EXPECT_TRUE(wait_for([&] { return !origin.received().empty(); }));
  EXPECT_EQ(origin.received(), fine);
  EXPECT_TRUE(world.events.bytes(Direction::sent).starts_with(fine));
  EXPECT_EQ(world.events.all<DecisionMade>().front().decision, Decision::redirected);
}

TEST(Opening, AWebSocketThroughConnectIsReadAndRelayed) {
  World world;
  world.start();
  const string switched =
      "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
  Origin origin(nullptr, [&](Wire& wire) {
    EXPECT_TRUE(wire.read_until("\r\n\r\n").starts_with("GET /ws HTTP/1.1\r\n"));
    wire.write(switched);
    EXPECT_EQ(wire.read_exactly(4), "ping");
    wire.write("pong");
    wire.read_to_end();
  });
  auto client = world.connect_through(authority_of(origin));
  const string asked = "GET /ws HTTP/1.1\r\nHost: o\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
  client.write(asked);
  EXPECT_EQ(client.read_exactly(switched.size()), switched);
  client.write("ping");
  EXPECT_EQ(client.read_exactly(4), "pong");
  client.close();
  ASSERT_TRUE(world.events.wait_for_end());
  EXPECT_EQ(world.events.bytes(Direction::sent), asked + "ping");
  EXPECT_EQ(world.events.bytes(Direction::received), switched + "pong");
}

// The client's own time to say what it wants is over then, and must not be what ends it.
TEST(Opening, AnUpstreamWhoseHandshakeTakesTooLongIsA502) {
  World world;
  Config config;
  config.limits.handshake_timeout = std::chrono::milliseconds(2000);
  world.start(config);
  std::atomic<bool> greeted = false;
  Origin origin(nullptr, [&](Wire& wire) {
    wire.read_exactly(1);
    greeted = true;
    wire.read_to_end();
  });
  auto client = world.open(origin, kName);
  ASSERT_TRUE(wait_for([&] { return greeted.load(); }));  // whose handshake is waited for from now on
  client.write(kRequest);
  EXPECT_TRUE(client.read_to_end().starts_with("HTTP/1.1 502 "));
}

TEST(Socks, WhatIsMalformedIsCounted) {
  World world;
  world.start();
  auto client = world.connect();
  client.write(string("\5\1\0\5\2\0\1\0\0\0\0\0\0", 13));  // BIND
  EXPECT_EQ(client.read_to_end().substr(2, 2), string("\5\7", 2));
  EXPECT_EQ(world.proxy->counters().malformed_requests, 1u);
}

TEST(Opening, AConnectHidesNoNameInAnOddClientHello) {
  World world;
  world.decider.refused_name = "bad.test";
  world.start();
  Origin origin(nullptr, [](Wire& wire) { EXPECT_EQ(wire.read_to_end(), ""); });
  for (const string name : {"bad.test.", "bad.test:443"}) {
    auto client = world.connect_through(authority_of(origin));
    client.write(client_hello(name));
    EXPECT_EQ(client.read_to_end(), kAccessDeniedAlert) << name;
  }
  const auto decisions = world.events.all<DecisionMade>();
  ASSERT_EQ(decisions.size(), 2u);
  EXPECT_EQ(decisions[0].rule, "no bad.test");
  EXPECT_EQ(decisions[1].rule, "unreadable ClientHello");
}

TEST(Opening, ThreeRejectionsAndThePinnedClientIsPassedThrough) {
  World world;
  world.resolver.facts = facts("/opt/pinned");
  world.start();
  auto origin = answering(world.origin_ca.server_context({kName}));
  for (std::size_t i = 1; i <= 3; ++i) {
    EXPECT_FALSE(pinned_client(world, origin)) << i;
    ASSERT_TRUE(waits_for(world, i));
  }
  ASSERT_EQ(world.proxy->passed_through().size(), 1u);
  const auto passed = world.proxy->passed_through().front();
  EXPECT_EQ(passed.who, (Rejections::Who{"/opt/pinned", "", kName}));
  EXPECT_TRUE(pinned_client(world, origin));
  const auto decision = world.events.all<DecisionMade>().back();
  EXPECT_EQ(decision.decision, Decision::passed_through);
  EXPECT_TRUE(decision.rule.starts_with("certificate rejected by client, passed through until 20"));
  EXPECT_EQ(world.proxy->counters().passed_through, 1u);
  EXPECT_EQ(world.proxy->counters().client_rejected_certificate, 3u);

  // Another program is not.
  world.resolver.facts = facts("/opt/other");
  EXPECT_FALSE(pinned_client(world, origin));
  // A new CA is tried anew.
  world.proxy->forget_leaves();
  world.resolver.facts = facts("/opt/pinned");
  EXPECT_FALSE(pinned_client(world, origin));
}

TEST(Opening, ARuleThatInspectsIsNotEscapedByRejecting) {
  World world;
  world.resolver.facts = facts("/opt/pinned");
  world.decider.inspected_name = kName;
  Config config;
  config.passthrough = {kName};
  world.start(config);
  auto origin = answering(world.origin_ca.server_context({kName}));
  for (int i = 0; i < 5; ++i) EXPECT_FALSE(pinned_client(world, origin)) << i;
  EXPECT_EQ(world.proxy->counters().passed_through, 0u);
}

TEST(Opening, AClientThatSpeaksIsNotRejecting) {
  World world;
  world.resolver.facts = facts("/opt/mixed");
  world.start();
  auto origin = answering(world.origin_ca.server_context({kName}));
  for (std::size_t i = 0; i < 4; ++i) {
    EXPECT_FALSE(pinned_client(world, origin));
    auto client = world.open(origin, kName);
    client.write(kRequest);
    EXPECT_TRUE(client.read_to_end().ends_with("ok"));
    client.close();
    ASSERT_TRUE(waits_for(world, 2 * i + 2));
  }
  EXPECT_TRUE(world.proxy->passed_through().empty());
}

SslContext asking(World& world) {
  auto context = world.origin_ca.server_context({kName});
  SSL_CTX_set_verify(context.get(), SSL_VERIFY_PEER, [](int, X509_STORE_CTX*) { return 1; });
  return context;
}

TEST(Opening, AnUpstreamThatAsksForAClientCertificateIsLeftToTheClient) {
  for (const bool open : {false, true}) {
    World world;
    Config config;
    config.open_mutual_tls = open;
    world.start(config);
    auto origin = answering(asking(world));
    auto client = world.connect_through(authority_of(origin));
    const auto context = world.client_context(open ? world.weir_ca : world.origin_ca);
    ASSERT_TRUE(client.start_tls(context.get(), false, kName)) << open;
    client.write(kRequest);
    EXPECT_TRUE(client.read_to_end().ends_with("ok"));
    const auto decision = world.events.all<DecisionMade>().front();
    EXPECT_EQ(decision.decision, open ? Decision::bumped : Decision::passed_through);
    EXPECT_EQ(decision.rule, open ? "" : "upstream asks for a client certificate");
  }
}

TEST(Opening, AnUpstreamIsShownTheConfiguredCertificate) {
  World world;
  Config config;
  config.client_certificates = {{".test", world.origin_ca.identity_pem("the client"), "client.pem"}};
  world.start(config);
  std::string shown;
  Origin origin(asking(world), [&](Wire& wire) {
    if (const Certificate peer{SSL_get1_peer_certificate(wire.ssl())}; peer) {
      std::array<char, 64> name{};
      X509_NAME_get_text_by_NID(X509_get_subject_name(peer.get()), NID_commonName, name.data(), name.size());
      shown = name.data();
    }
    if (!wire.read_until("\r\n\r\n").empty()) wire.write(kAnswer);
  });
  auto client = world.open(origin, kName);
  client.write(kRequest);
  EXPECT_TRUE(client.read_to_end().ends_with("ok"));
  EXPECT_EQ(shown, "the client");
  EXPECT_EQ(world.events.all<DecisionMade>().front().decision, Decision::bumped);
}

TEST(Opening, WhatIsNoCertificateWithItsKeyIsNamed) {
  World world;
  const string good = world.origin_ca.identity_pem("one");
  const string other = world.origin_ca.identity_pem("two");
  const auto key_at = good.find("-----BEGIN PRIVATE KEY");
  const struct {
    string pem, says;
  } bad[] = {{"nothing", "holds no certificate"},
             {good.substr(0, key_at), "holds no private key that can be read"},
             {good.substr(0, key_at) + other.substr(other.find("-----BEGIN PRIVATE KEY")),
              "holds a key that is not its certificate's"}};
  for (const auto& [pem, says] : bad) {
    Config config;
    config.listen = {parse_ip_address("127.0.0.1"), 0};
    config.client_certificates = {{"a.test", pem, "/etc/client.pem"}};
    const auto made = Proxy::create(config, world.weir_ca, world.resolver, world.decider,
                                    [&]() -> EventPublisher& { return world.events; });
    ASSERT_FALSE(made) << says;
    EXPECT_EQ(made.error().what, "/etc/client.pem " + says);
  }
}

}  // namespace
}  // namespace weir::proxy::test
