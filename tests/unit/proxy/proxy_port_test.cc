// What happens on the proxy's own port: who may use it, absolute-form requests, tunnels, limits, the end.
#include <gtest/gtest.h>

#include "harness.h"

namespace weir::proxy::test {
namespace {

using std::string;

string authority_of(const Origin& origin) {
  return "127.0.0.1:" + std::to_string(origin.port());
}

TEST(ProxyPort, AbsoluteFormGoesOutInOriginForm) {
  World world;
  world.start();
  const string answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
  const Origin::Script script = [&](Wire& wire) {
    while (!wire.read_until("\r\n\r\n").empty()) wire.write(answer);
  };
  string sent;
  {
    Origin first(nullptr, script);
    Origin second(nullptr, script);
    {
      auto client = world.connect();
      for (const Origin* origin : {&first, &first, &second}) {
        client.write("GET http://" + authority_of(*origin) +
                     "/x?y HTTP/1.1\r\nHost: wrong\r\nUser-Agent: t\r\n" +
                     "Proxy-Connection: Keep-Alive\r\n\r\n");
        EXPECT_EQ(client.read_exactly(answer.size()), answer);
      }
      client.close();
      ASSERT_TRUE(world.events.wait_for_end());
      EXPECT_EQ(world.events.bytes(Direction::sent), client.sent);
      EXPECT_EQ(world.events.bytes(Direction::received), client.received);
    }
    EXPECT_EQ(first.connections(), 1);
    EXPECT_EQ(second.connections(), 1);
    const auto expected = "GET /x?y HTTP/1.1\r\nHost: " + authority_of(second) + "\r\nUser-Agent: t\r\n\r\n";
    world.proxy->stop(std::chrono::milliseconds(0));
    for (sent = second.received(); sent.empty(); sent = second.received()) std::this_thread::yield();
    EXPECT_EQ(sent, expected);
  }
  const auto decisions = world.events.all<DecisionMade>();
  ASSERT_EQ(decisions.size(), 2u);
  EXPECT_EQ(decisions.front().decision, Decision::bumped);
  EXPECT_NE(decisions.front().server_port, decisions.back().server_port);
  EXPECT_EQ(world.events.order(),
            (std::vector<string>{"opened", "decision", "bytes", "decision", "bytes", "ended", "ended"}));
}

TEST(ProxyPort, ClientThatNobodyIsBehindGetsNothing) {
  World world;
  world.resolver.known = false;
  world.start();
  auto client = world.connect();
  EXPECT_EQ(client.read_to_end(), "");
  EXPECT_EQ(world.proxy->counters().unresolved_refused, 1u);
  EXPECT_TRUE(world.events.all<ConnectionOpened>().empty());
  EXPECT_EQ(world.resolver.last().peer, world.proxy->address());
}

TEST(ProxyPort, RefusesItselfAndConfiguredDestinations) {
  World world;
  Origin api(nullptr, [](Wire& wire) { EXPECT_EQ(wire.read_to_end(), ""); });
  Config config;
  config.refused_destinations = {{parse_ip_address("127.0.0.1"), api.port()}};
  world.start(config);
  const string own = std::to_string(world.proxy->address().port);
  for (const string& target : {"127.0.0.1:" + own, "localhost:" + own, "0.0.0.0:" + own, authority_of(api)}) {
    auto tunnel = world.connect();
    tunnel.write("CONNECT " + target + " HTTP/1.1\r\nHost: x\r\n\r\n");
    EXPECT_TRUE(tunnel.read_to_end().starts_with("HTTP/1.1 403 Forbidden\r\n")) << target;
    auto plain = world.connect();
    plain.write("GET http://" + target + "/ HTTP/1.1\r\nHost: x\r\n\r\n");
    EXPECT_TRUE(plain.read_to_end().starts_with("HTTP/1.1 403 Forbidden\r\n")) << target;
  }
  EXPECT_EQ(api.connections(), 0);
  EXPECT_EQ(world.events.all<DecisionMade>().front().decision, Decision::refused);
}

TEST(ProxyPort, PolicyRefusesConnect) {
  World world;
  world.decider.refused_name = "127.0.0.1";
  world.start();
  Origin origin(nullptr, [](Wire&) {});
  auto client = world.connect();
  client.write("CONNECT " + authority_of(origin) + " HTTP/1.1\r\nHost: x\r\n\r\n");
  EXPECT_TRUE(client.read_to_end().starts_with("HTTP/1.1 403 Forbidden\r\n"));
  EXPECT_EQ(world.events.all<DecisionMade>().front().rule, "no 127.0.0.1");
  EXPECT_FALSE(world.events.all<DecisionMade>().front().stream) << "it is the connection that is refused";
  EXPECT_EQ(origin.connections(), 0);
}

TEST(ProxyPort, WhatIsNoProxyRequestGets400) {
  World world;
  world.start();
  for (const string request :
       {"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "CONNECT nonsense HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET http://a/ HTTP/1.1\r\nHost: x\r\nA : b\r\n\r\n", "GET https://a/ HTTP/1.1\r\nHost: x\r\n\r\n",
        "\x16\x03\x01 not a proxy's business\r\n"}) {
    auto client = world.connect();
    client.write(request);
    EXPECT_TRUE(client.read_to_end().starts_with("HTTP/1.1 400 Bad Request\r\n")) << request;
  }
}

TEST(ProxyPort, PassthroughShowsTheOriginsOwnCertificate) {
  World world;
  Config config;
  config.passthrough = {".test"};
  world.start(config);
  Origin origin(world.origin_ca.server_context({"origin.test"}),
                [](Wire& wire) { wire.write(wire.read_exactly(4)); });
  auto client = world.connect_through(authority_of(origin));
  const auto context = world.client_context(world.origin_ca);
  ASSERT_TRUE(client.start_tls(context.get(), false, "origin.test"));
  client.write("ping");
  EXPECT_EQ(client.read_exactly(4), "ping");
  client.close();
  const auto decision = world.events.all<DecisionMade>().front();
  EXPECT_EQ(decision.decision, Decision::passed_through);
  EXPECT_EQ(decision.rule, "passthrough: .test");
  EXPECT_EQ(decision.upstream_peer->port, origin.port());
  EXPECT_TRUE(world.events.all<Bytes>().empty());
  EXPECT_EQ(world.proxy->counters().passed_through, 1u);
}

// Enough for the kernel to move it, in both directions at once; then the sides leave in either order.
TEST(ProxyPort, MuchPassesThroughATunnel) {
  World world;
  world.start();
  std::string much(3'000'000, '\0');
  for (std::size_t i = 0; i < much.size(); ++i) much[i] = static_cast<char>('a' + i * 7 % 23 + i / 65'536);
  const std::string other(much.rbegin(), much.rend());
  Origin origin(nullptr, [&](Wire& wire) {
    std::thread writer([&] { wire.write(other); });
    EXPECT_EQ(wire.read_exactly(much.size()), much);
    writer.join();
    wire.half_close();
    EXPECT_EQ(wire.read_to_end(), "bye");
  });
  auto client = world.connect_through("127.0.0.1:" + std::to_string(origin.port()));
  std::thread writer([&] { client.write(much); });
  EXPECT_EQ(client.read_exactly(other.size()), other);
  writer.join();
  EXPECT_EQ(client.read_to_end(), "");
  EXPECT_TRUE(client.clean_end);
  client.write("bye");
  client.half_close();
}

// A send to who is gone raises a signal, which ends the process if nobody keeps it from that.
TEST(ProxyPort, AMovedTunnelEndsWithAClientThatResets) {
  World world;
  world.start();
  Origin origin(nullptr, [](Wire& wire) {
    wire.read_exactly(1);
    const std::string piece(1'000'000, 'x');
    for (int i = 0; i < 20; ++i) wire.write(piece);
  });
  auto client = world.connect_through("127.0.0.1:" + std::to_string(origin.port()));
  client.write("x");
  client.read_exactly(2'000'000);
  client.reset();
  EXPECT_TRUE(
      world.events.wait_until([](const auto& events) { return Events::count<DecisionMade>(events) == 1; }));
  auto again = world.connect_through("127.0.0.1:" + std::to_string(origin.port()));
  again.write("x");
  EXPECT_EQ(again.read_exactly(10), "xxxxxxxxxx");
}

TEST(ProxyPort, OtherProtocolsAreTunnelledWithHalfClose) {
  World world;
  world.start();
  Origin server_first(nullptr, [](Wire& wire) {
    wire.write("220 ready\r\n");
    EXPECT_EQ(wire.read_to_end(), "QUIT\r\n");
    wire.write("221 bye\r\n");
  });
  auto client = world.connect_through(authority_of(server_first));
  EXPECT_EQ(client.read_exactly(11), "220 ready\r\n");
  client.write("QUIT\r\n");
  client.half_close();
  EXPECT_EQ(client.read_to_end(), "221 bye\r\n");
  EXPECT_EQ(world.events.all<DecisionMade>().front().rule, "not TLS");
  EXPECT_TRUE(world.events.all<Bytes>().empty());
}

TEST(ProxyPort, LimitsCloseWhatIsTooMuchOrTooSlow) {
  World world;
  Config config;
  config.limits.connections = 1;
  config.limits.head_timeout = std::chrono::milliseconds(200);
  world.start(config);
  auto first = world.connect();
  first.write("GET http://unfinished");
  ASSERT_TRUE(
      world.events.wait_until([](const auto& all) { return Events::count<ConnectionOpened>(all) == 1; }));
  auto second = world.connect();
  EXPECT_EQ(second.read_to_end(), "");
  EXPECT_EQ(world.proxy->counters().over_limit_closed, 1u);
  EXPECT_EQ(first.read_to_end(), "");
}

TEST(ProxyPort, StopEndsIdleConnectionsAtOnceAndLetsExchangesEnd) {
  World world;
  world.start();
  std::atomic<bool> go = false;
  Origin origin(nullptr, [&](Wire& wire) {
    wire.read_until("\r\n\r\n");
    go.wait(false);
    wire.write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    wire.read_to_end();
  });
  auto idle = world.connect();
  auto busy = world.connect();
  busy.write("GET http://" + authority_of(origin) + "/ HTTP/1.1\r\nHost: x\r\n\r\n");
  ASSERT_TRUE(world.events.wait_until([](const auto& all) {
    return Events::count<ConnectionOpened>(all) == 2 && Events::count<Bytes>(all) == 1;
  }));
  std::thread stopper([&] { world.proxy->stop(std::chrono::seconds(20)); });
  EXPECT_EQ(idle.read_to_end(), "");
  go = true;
  go.notify_all();
  EXPECT_TRUE(busy.read_to_end().ends_with("ok"));
  stopper.join();
  EXPECT_EQ(world.proxy->counters().active, 0u);
}

TEST(ProxyPort, TakenPortIsAnErrorWithARemedy) {
  World world;
  world.start();
  Config config;
  config.listen = world.proxy->address();
  const auto second = Proxy::create(config, world.weir_ca, world.resolver, world.decider,
                                    [&]() -> EventPublisher& { return world.events; });
  ASSERT_FALSE(second);
  EXPECT_NE(second.error().what.find(world.proxy->address().to_string()), string::npos);
  EXPECT_FALSE(second.error().remedy.empty());
}

TEST(ProxyPort, ManyClientsOnTwoThreads) {
  World world;
  Config config;
  config.threads = 2;
  world.start(config);
  Origin origin(world.origin_ca.server_context({"origin.test"}), [](Wire& wire) {
    while (!wire.read_until("\r\n\r\n").empty()) wire.write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
  });
  std::vector<std::thread> clients;
  for (int i = 0; i < 16; ++i) {
    clients.emplace_back([&, i] {
      auto client = world.open(origin, i % 2 == 0 ? "origin.test" : "");
      if (i % 2 != 0) return;
      for (int request = 0; request < 20; ++request) {
        client.write("GET /" + std::to_string(request) + " HTTP/1.1\r\nHost: o\r\n\r\n");
        EXPECT_TRUE(client.read_until("ok").starts_with("HTTP/1.1 200 OK"));
      }
    });
  }
  for (auto& client : clients) client.join();
  EXPECT_EQ(world.proxy->counters().requests, 160u);
}

}  // namespace
}  // namespace weir::proxy::test
