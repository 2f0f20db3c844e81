// Connections that go through the proxy, seen by one tap or by both, in every order their queues allow: one
// record for each exchange, from the right tap, with the true destination.
#include <gmock/gmock.h>

#include <algorithm>

#include "tests/unit/attribution/scenario.h"
#include "tests/unit/http/h2_wire.h"

namespace weir::test {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

constexpr std::uint64_t kCookie = 42;

class Proxied : public Scenario {
 protected:
  // The kernel's events, one step each, and the proxy's; each source keeps its own order.
  using Step = std::function<void()>;

  std::vector<Step> kernel_steps(View& tls) {
    return {
        [&] { process(kCurl, "/usr/bin/curl"); },    [&] { opened(kCookie, kProxy, 0); },
        [&] { tls.handshake(0.5, "example.test"); }, [&] { tls.sent(get("/a"), 1); },
        [&] { tls.received(ok("x"), 1.1); },         [&] { tls.exchange("/b", "y", 2); },
        [&] { closed(kCookie, 3, 1111, 2222); },
    };
  }
  std::vector<Step> proxy_steps(View& seen, Decision decision, const std::string& error = {}) {
    std::vector<Step> steps = {
        [&] { opened(kCookie, kProxy, 0.2); },
        [this, decision, error] { decided(kCookie, decision, 0.3, error); },
    };
    if (decision == Decision::tunnelled) return steps;
    steps.insert(steps.end(), {
                                  [&] { seen.handshake(0.5, "example.test"); },
                                  [&] { seen.sent(get("/a"), 1); },
                                  [&] { seen.received(ok("x"), 1.1); },
                                  [&] { seen.exchange("/b", "y", 2); },
                                  [&] { seen.ended(2.9); },
                              });
    return steps;
  }

  // Runs every interleaving of the two sources and checks each.
  void for_each_interleaving(Decision decision, const std::function<void()>& check,
                             const std::string& error = {}) {
    std::vector<int> order(7, 0);
    order.insert(order.end(), decision == Decision::tunnelled ? 2 : 7, 1);
    do {
      records_.clear();
      use(default_config());
      View native(engine(), kCookie, Tap::native);
      View proxy(engine(), kCookie, Tap::proxy);
      const auto kernel = kernel_steps(native);
      const auto proxied = proxy_steps(proxy, decision, error);
      std::size_t next[2] = {0, 0};
      for (const int source : order) {
        (source == 0 ? kernel : proxied)[next[source]++]();
        engine().advance(at(3));  // time passes, but not long enough to give anything up
      }
      engine().advance(at(4));
      check();
      engine().advance(at(30));
      engine().finish(at(31));
      EXPECT_EQ(exchanges().size(), 2u);
      EXPECT_EQ(connections().size(), 1u);
      if (HasFailure()) {
        std::string shown;
        for (const int source : order) shown += source == 0 ? 'k' : 'p';
        FAIL() << "in the order " << shown;
      }
    } while (std::next_permutation(order.begin(), order.end()));
  }
};

TEST_F(Proxied, BumpedIsTheProxysInEveryOrder) {
  for_each_interleaving(Decision::bumped, [&] {
    ASSERT_THAT(summary(), ElementsAre("proxy https://example.test/a", "proxy https://example.test/b"));
    for (const RecordPtr& record : exchanges()) {
      EXPECT_EQ(text(*record, "weir.decision"), "bumped");
      EXPECT_EQ(text(*record, "weir.tls.library"), "(absent)");
      EXPECT_EQ(text(*record, "process.executable.name"), "curl");
      EXPECT_EQ(text(*record, "network.peer.address"), "192.0.2.7");
      EXPECT_EQ(text(*record, "network.local.port"), "40000");
      EXPECT_EQ(text(*record, "weir.upstream.local.port"), "50000");
    }
    ASSERT_EQ(connections().size(), 1u);
    EXPECT_EQ(text(*connections()[0], "weir.source"), "proxy");
    EXPECT_EQ(text(*connections()[0], "weir.bytes.sent"), "1111");
    EXPECT_EQ(text(*connections()[0], "weir.tls.library"), "openssl");
    const auto native_bytes = get("/a").size() + get("/b").size() + ok("x").size() + ok("y").size();
    EXPECT_LE(engine().counters().duplicate_bytes_dropped, native_bytes);
    EXPECT_EQ(engine().counters().gap_bytes, 0u);
  });
}

TEST_F(Proxied, TunnelledIsTheNativeTapsInEveryOrder) {
  for_each_interleaving(Decision::tunnelled, [&] {
    ASSERT_THAT(summary(), ElementsAre("native https://example.test/a", "native https://example.test/b"));
    for (const RecordPtr& record : exchanges()) {
      EXPECT_EQ(text(*record, "weir.decision"), "tunnelled");
      EXPECT_EQ(text(*record, "network.peer.address"), "192.0.2.7");
      EXPECT_EQ(text(*record, "network.peer.port"), "443");
    }
    ASSERT_EQ(connections().size(), 1u);
    EXPECT_EQ(text(*connections()[0], "weir.decision"), "tunnelled");
    EXPECT_EQ(text(*connections()[0], "weir.source"), "native");
    EXPECT_EQ(engine().counters().duplicate_bytes_dropped, 0u);
  });
}

TEST_F(Proxied, AnUpstreamFailureIsTheProxysAnswer) {
  for_each_interleaving(
      Decision::upstream_failed,
      [&] {
        ASSERT_EQ(exchanges().size(), 2u);
        EXPECT_EQ(text(*exchanges()[0], "weir.source"), "proxy");
        EXPECT_EQ(text(*exchanges()[0], "weir.decision"), "bumped");
        EXPECT_EQ(text(*exchanges()[0], "error.type"), "tls_certificate_expired");
      },
      "tls_certificate_expired");
}

TEST_F(Proxied, WhatWasInTheClearIsNotSaidToBeTls) {
  for (const Decision decision : {Decision::refused, Decision::upstream_failed, Decision::redirected}) {
    records_.clear();
    use(default_config());
    opened(kCookie, kProxy);
    decided(kCookie, decision, 0.5);
    View(engine(), kCookie, Tap::proxy)
        .sent("GET /hello HTTP/1.1\r\nHost: 127.0.0.1:7443\r\n\r\n", 1)
        .received("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n", 1.1)
        .ended(2);
    engine().advance(at(30));
    ASSERT_EQ(exchanges().size(), 1u);
    EXPECT_EQ(text(*exchanges()[0], "url.full"), "http://127.0.0.1:7443/hello");
    EXPECT_EQ(text(*exchanges()[0], "weir.tls.library"), "none");
  }
}

TEST_F(Proxied, WhatBrokeOffLastsUntilTheProxySawItsEnd) {
  opened(kCookie, kProxy);
  decided(kCookie, Decision::bumped, 0.5);
  View(engine(), kCookie, Tap::proxy).handshake(0.6, "example.test").sent(get("/a"), 1).ended(3, true);
  engine().advance(at(30));  // nobody else says that it is over
  ASSERT_EQ(exchanges().size(), 1u);
  EXPECT_EQ(text(*exchanges()[0], "weir.incomplete"), "closed_early");
  EXPECT_EQ(text(*exchanges()[0], "weir.duration_ns"), "2000000000");
}

TEST_F(Proxied, DroppedCopiesAreCountedToTheByte) {
  process(kCurl, "/usr/bin/curl");
  opened(kCookie, kProxy);
  View native(engine(), kCookie, Tap::native);
  native.exchange("/a", "x", 1);
  decided(kCookie, Decision::bumped, 1.5);
  EXPECT_EQ(engine().counters().duplicate_bytes_dropped, get("/a").size() + ok("x").size());
  native.exchange("/b", "x", 2);
  EXPECT_EQ(engine().counters().duplicate_bytes_dropped, 2 * (get("/a").size() + ok("x").size()));
  EXPECT_THAT(exchanges(), IsEmpty());
}

TEST_F(Proxied, WithoutADecisionTheNativeCopyIsKeptAfterAWhile) {
  process(kCurl, "/usr/bin/curl");
  opened(kCookie, kProxy);
  View(engine(), kCookie, Tap::native).exchange("/a", "x", 1);
  engine().advance(at(60));
  EXPECT_THAT(exchanges(), IsEmpty());
  closed(kCookie, 60);
  engine().advance(at(69));
  EXPECT_THAT(records_, IsEmpty());
  engine().advance(at(71));
  EXPECT_THAT(summary(), ElementsAre("native https://example.test/a"));
  EXPECT_EQ(text(*exchanges()[0], "network.peer.address"), "(absent)");  // the proxy is not the destination
  EXPECT_EQ(connections().size(), 1u);
}

TEST_F(Proxied, HeldExchangesAreBounded) {
  EngineConfig config = default_config();
  config.limits.pending_exchanges = 3;
  use(config);
  process(kCurl, "/usr/bin/curl");
  opened(kCookie, kProxy);
  View native(engine(), kCookie, Tap::native);
  for (int i = 0; i < 5; ++i) native.exchange("/" + std::to_string(i), "x", i);
  EXPECT_EQ(exchanges().size(), 2u);
}

TEST_F(Proxied, TheProxyMayComeFirst) {
  View proxy(engine(), kCookie, Tap::proxy);
  decided(kCookie, Decision::bumped, 0.1);
  proxy.handshake(0.2, "example.test").exchange("/a", "x", 1);
  engine().advance(at(1.5));
  EXPECT_THAT(exchanges(), IsEmpty());
  opened(kCookie, kProxy, 0);
  EXPECT_THAT(exchanges(), IsEmpty());
  process(kCurl, "/usr/bin/java");
  ASSERT_EQ(exchanges().size(), 1u);
  EXPECT_EQ(text(*exchanges()[0], "process.executable.name"), "java");
}

// The ring's reader may be later than the proxy: what it has told of the process is then the program before.
TEST_F(Proxied, TheProgramIsTheOneThatConnected) {
  const auto told = [&](ProcessEvent::What what, std::uint64_t exec_id, const std::string& path,
                        double when) {
    ProcessEvent event{.what = what, .time = at(when), .process = kCurl, .exec_id = exec_id};
    event.executable_path = path;
    engine().consume(std::move(event));
  };
  told(ProcessEvent::What::started, 7, "/bin/sh", 0);
  ConnectionOpened connected{.time = at(0.3), .cookie = {kCookie}, .tuple = {{}, kProxy}, .owner = kCurl};
  connected.owner_exec_id = 9;
  engine().consume(connected);
  decided(kCookie, Decision::bumped, 0.4);
  View(engine(), kCookie, Tap::proxy).exchange("/a", "x", 1);
  told(ProcessEvent::What::execed, 8, "/usr/bin/env", 0.1);
  engine().advance(at(1.5));
  EXPECT_THAT(exchanges(), IsEmpty());
  told(ProcessEvent::What::execed, 9, "/usr/bin/curl", 0.2);
  ASSERT_EQ(exchanges().size(), 1u);
  EXPECT_EQ(text(*exchanges()[0], "process.executable.name"), "curl");
}

TEST_F(Proxied, FactsThatNeverComeAreNotWaitedForLong) {
  View proxy(engine(), kCookie, Tap::proxy);
  decided(kCookie, Decision::bumped, 0.1);
  proxy.exchange("/a", "x", 1);
  engine().advance(at(2.9));
  EXPECT_THAT(exchanges(), IsEmpty());
  engine().advance(at(3.1));
  ASSERT_EQ(exchanges().size(), 1u);
  EXPECT_EQ(text(*exchanges()[0], "process.pid"), "1000");
  EXPECT_EQ(text(*exchanges()[0], "process.executable.name"), "(absent)");
}

TEST_F(Proxied, AFirstOwnerStaysAndMissingFactsAreFilledIn) {
  process(kCurl, "/usr/bin/curl");
  ConnectionOpened bare{.time = at(0), .cookie = {kCookie}};
  bare.owner = kCurl;
  engine().consume(bare);
  opened(kCookie, kProxy, 0.1, kShell);
  decided(kCookie, Decision::bumped, 0.2);
  View(engine(), kCookie, Tap::proxy).exchange("/a", "x", 1);
  ASSERT_EQ(exchanges().size(), 1u);
  EXPECT_EQ(text(*exchanges()[0], "process.pid"), "1000");
  EXPECT_EQ(text(*exchanges()[0], "network.local.port"), "40000");
}

TEST_F(Proxied, ALaterDecisionIsAboutTheNextPlainRequest) {
  process(kCurl, "/usr/bin/curl");
  opened(kCookie, kProxy);
  View proxy(engine(), kCookie, Tap::proxy);
  const auto plain = [](const std::string& host) {
    return "GET http://" + host + "/p HTTP/1.1\r\nHost: " + host + "\r\n\r\n";
  };
  const auto decide = [&](const std::string& name, const std::string& peer, double when) {
    DecisionMade event{.time = at(when), .cookie = {kCookie}};
    event.server_name = name;
    event.server_port = 80;
    event.upstream_peer = endpoint(peer, 80);
    engine().consume(event);
  };
  decide("one.test", "192.0.2.1", 1);
  proxy.sent(plain("one.test"), 1.1).received(ok("x"), 1.2);
  decide("two.test", "192.0.2.2", 2);
  proxy.sent(plain("two.test"), 2.1).received(ok("x"), 2.2);
  ASSERT_THAT(summary(), ElementsAre("proxy http://one.test/p", "proxy http://two.test/p"));
  EXPECT_EQ(text(*exchanges()[0], "network.peer.address"), "192.0.2.1");
  EXPECT_EQ(text(*exchanges()[1], "network.peer.address"), "192.0.2.2");
  EXPECT_EQ(text(*exchanges()[1], "server.address"), "two.test");
  EXPECT_EQ(text(*exchanges()[1], "server.port"), "80");
  EXPECT_EQ(text(*exchanges()[1], "weir.tls.library"), "none");
  closed(kCookie, 3);
  engine().advance(at(30));
  EXPECT_EQ(text(*connections().at(0), "weir.tls.library"), "none");
}

TEST_F(Proxied, WithoutTheKernelTheProxysEndEndsTheConnection) {
  process(kCurl, "/usr/bin/curl");
  opened(kCookie, kProxy);
  decided(kCookie, Decision::bumped, 0.2);
  View(engine(), kCookie, Tap::proxy).exchange("/a", "x", 1).ended(2);
  engine().advance(at(3));
  EXPECT_THAT(connections(), IsEmpty());
  engine().advance(at(4.1));
  ASSERT_EQ(connections().size(), 1u);
  EXPECT_EQ(text(*connections()[0], "weir.bytes.sent"), "(absent)");
  EXPECT_EQ(text(*connections()[0], "weir.incomplete"), "(absent)");
}

TEST_F(Proxied, TheProxysCloseDoesNotCutOffNativeBytes) {
  process(kCurl, "/usr/bin/curl");
  opened(kCookie, kProxy);
  decided(kCookie, Decision::tunnelled, 0.2);
  engine().consume(ConnectionClosed{.time = at(2), .cookie = {kCookie}});  // without the kernel's totals
  View(engine(), kCookie, Tap::native).exchange("/late", "x", 1);
  closed(kCookie, 2, 7, 8);
  EXPECT_THAT(summary(), ElementsAre("native https://example.test/late"));
  ASSERT_EQ(connections().size(), 1u);
  EXPECT_EQ(text(*connections()[0], "weir.bytes.sent"), "7");
}

TEST_F(Proxied, AClientThatLeavesAfterTheHandshakeHasRejectedTheCertificate) {
  process(kCurl, "/usr/bin/java");
  opened(kCookie, kProxy);
  decided(kCookie, Decision::bumped, 0.2, "client_rejected_certificate");
  closed(kCookie, 2);
  engine().advance(at(5));
  EXPECT_EQ(text(*connections().at(0), "weir.opaque.reason"), "certificate rejected by client");
  EXPECT_EQ(text(*connections().at(0), "error.type"), "client_rejected_certificate");
}

TEST_F(Proxied, ARefusalNamesItsRule) {
  process(kCurl, "/usr/bin/curl");
  opened(kCookie, kProxy);
  DecisionMade event{.time = at(1), .cookie = {kCookie}, .decision = Decision::refused};
  event.rule = "no-example";
  engine().consume(event);
  closed(kCookie, 2);
  engine().advance(at(10));
  ASSERT_EQ(connections().size(), 1u);
  EXPECT_EQ(text(*connections()[0], "weir.decision"), "refused");
  EXPECT_EQ(text(*connections()[0], "weir.policy.rule"), "no-example");
}

// The client's CONNECT, or its ClientHello, is all that there was.
TEST_F(Proxied, ARefusedConnectionSaysSoAndHasNoNativeCopy) {
  for (const bool refused_first : {true, false}) {
    records_.clear();
    use(default_config());
    process(kCurl, "/usr/bin/curl");
    opened(kCookie, kProxy);
    View native(engine(), kCookie, Tap::native);
    const auto refuse = [&] {
      DecisionMade event{.time = at(1), .cookie = {kCookie}, .decision = Decision::refused};
      event.rule = "no-example";
      engine().consume(event);
    };
    if (refused_first) refuse();
    native.handshake(0.9, "example.test").exchange("/copy", "x", 1);
    if (!refused_first) refuse();
    closed(kCookie, 2);
    engine().advance(at(30));
    EXPECT_THAT(exchanges(), IsEmpty());
    ASSERT_EQ(connections().size(), 1u);
    EXPECT_EQ(text(*connections()[0], "weir.decision"), "refused");
    EXPECT_EQ(text(*connections()[0], "weir.policy.rule"), "no-example");
    EXPECT_EQ(text(*connections()[0], "weir.opaque.reason"), "refused");
  }
}

// The client was told that it is connected, and then that it isn't.
TEST_F(Proxied, AnUpstreamThatFailsLeavesNothingOpened) {
  process(kCurl, "/usr/bin/curl");
  opened(kCookie, kProxy);
  View(engine(), kCookie, Tap::native).handshake(0.9, "example.test");
  decided(kCookie, Decision::upstream_failed, 1, "connect_refused");
  closed(kCookie, 2);
  engine().advance(at(30));
  ASSERT_EQ(connections().size(), 1u);
  EXPECT_EQ(text(*connections()[0], "weir.decision"), "(absent)");
  EXPECT_EQ(text(*connections()[0], "error.type"), "connect_refused");
  EXPECT_EQ(text(*connections()[0], "weir.opaque.reason"), "connect failed");
}

TEST_F(Proxied, ARefusedRequestIsNotTheConnections) {
  process(kCurl, "/usr/bin/curl");
  opened(kCookie, kProxy);
  decided(kCookie, Decision::bumped, 0.2);
  View proxy(engine(), kCookie, Tap::proxy);
  proxy.exchange("/a", "x", 1).sent(get("/refused"), 2);
  DecisionMade refused{.time = at(2.1), .cookie = {kCookie}, .decision = Decision::refused};
  refused.rule = "no-refused";
  engine().consume(refused);
  proxy.received("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n", 2.2).exchange("/b", "x", 3);
  proxy.ended(4);
  closed(kCookie, 4);
  engine().advance(at(30));
  ASSERT_EQ(exchanges().size(), 3u);
  for (const auto& record : exchanges()) {
    const bool second = text(*record, "http.response.status_code") == "403";
    EXPECT_EQ(text(*record, "weir.decision"), second ? "refused" : "bumped");
    EXPECT_EQ(text(*record, "weir.policy.rule"), second ? "no-refused" : "(absent)");
  }
  ASSERT_EQ(connections().size(), 1u);
  EXPECT_EQ(text(*connections()[0], "weir.decision"), "bumped");
  EXPECT_EQ(text(*connections()[0], "weir.opaque.reason"), "(absent)");
}

TEST_F(Proxied, EachDecisionOfPolicyIsARecordOnce) {
  PolicyDecided event{.time = at(1), .cookie = {kCookie}, .process = kCurl, .uid = 0};
  event.rule = "no-admin";
  event.server_name = "api.example";
  event.peer = {{}, 443};
  event.method = "DELETE";
  event.target = "/admin?token=secret";
  engine().consume(event);
  event.time = at(1.1);
  event.tap = Tap::native;
  event.allowed = event.udp = true;
  event.peer = endpoint("192.0.2.7", 53);
  event.server_name = event.method = event.target = "";
  engine().consume(event);
  EXPECT_TRUE(of(RecordKind::policy).empty()) << "who it was comes later";
  process(kCurl, "/usr/bin/curl");
  engine().advance(at(1.2));
  EXPECT_TRUE(of(RecordKind::policy).empty());
  engine().advance(at(2));
  const auto records = of(RecordKind::policy);
  ASSERT_EQ(records.size(), 2u);
  EXPECT_NE(records[0]->id, records[1]->id);
  EXPECT_EQ(text(*records[0], "weir.policy.rule"), "no-admin");
  EXPECT_EQ(text(*records[0], "weir.decision"), "refused");
  EXPECT_EQ(text(*records[0], "weir.source"), "proxy");
  EXPECT_EQ(text(*records[0], "process.executable.name"), "curl");
  EXPECT_EQ(text(*records[0], "server.address"), "api.example");
  EXPECT_EQ(text(*records[0], "network.peer.address"), "(absent)");
  EXPECT_EQ(text(*records[0], "http.request.method"), "DELETE");
  EXPECT_EQ(text(*records[0], "url.path"), "/admin");
  EXPECT_EQ(text(*records[0], "url.query").find("secret"), std::string::npos);
  EXPECT_EQ(text(*records[1], "weir.decision"), "logged");
  EXPECT_EQ(text(*records[1], "network.transport"), "udp");
  EXPECT_EQ(text(*records[1], "network.peer.address"), "192.0.2.7");
}

TEST_F(Proxied, AStreamsRefusalIsNotTheConnections) {
  process(kCurl, "/usr/bin/curl");
  opened(kCookie, kProxy);
  decided(kCookie, Decision::bumped, 0.2);
  http::test::Client client;
  http::test::Server server;
  View proxy(engine(), kCookie, Tap::proxy);
  proxy.sent(client.open(), 1).sent(client.get(1, "/a"), 1);
  proxy.sent(client.get(3, "/refused"), 1).sent(client.get(5, "/b"), 1);
  DecisionMade refused{.time = at(1.1), .cookie = {kCookie}, .decision = Decision::refused, .stream = 3};
  refused.rule = "no-refused";
  engine().consume(refused);
  proxy.received(server.open(), 1.2).received(server.ok(5, "b"), 1.2);
  proxy.received(server.ok(3, "no"), 1.2).received(server.ok(1, "a"), 1.2);
  ASSERT_EQ(exchanges().size(), 3u);
  for (const auto& record : exchanges()) {
    const bool third = text(*record, "weir.stream.id") == "3";
    EXPECT_EQ(text(*record, "weir.decision"), third ? "refused" : "bumped");
    EXPECT_EQ(text(*record, "weir.policy.rule"), third ? "no-refused" : "(absent)");
  }
}

TEST_F(Proxied, LateEventsOfAnEndedConnectionAreDropped) {
  process(kCurl, "/usr/bin/curl");
  opened(kCookie, kProxy);
  decided(kCookie, Decision::tunnelled, 0.5);
  closed(kCookie, 1);
  ASSERT_EQ(connections().size(), 1u);
  opened(kCookie, kProxy, 1.5);
  decided(kCookie, Decision::bumped, 1.6);
  View(engine(), kCookie, Tap::proxy).exchange("/late", "x", 2);
  engine().advance(at(60));
  engine().finish(at(61));
  EXPECT_EQ(records_.size(), 1u);
}

// Redirected by the kernel side: the true peer is known from the start, whoever tells of it first.
TEST_F(Proxied, ARedirectedConnectionHasItsTruePeerAndOneRecord) {
  for (const bool kernel_first : {true, false}) {
    records_.clear();
    use(default_config());
    process(kCurl, "/usr/bin/curl");
    View native(engine(), kCookie, Tap::native);
    View proxy(engine(), kCookie, Tap::proxy);
    ConnectionOpened event{.time = at(0), .cookie = {kCookie}};
    event.tuple = {endpoint("10.0.0.1", 40000), kOrigin};
    event.owner = kCurl;
    event.redirected = true;
    const auto native_copy = [&] {
      engine().consume(event);
      native.exchange("/a", "x", 1);
    };
    if (kernel_first) native_copy();
    EXPECT_THAT(exchanges(), IsEmpty()) << "before the decision";
    engine().consume(event);
    decided(kCookie, Decision::redirected, 0.3);
    proxy.exchange("/a", "x", 1);
    if (!kernel_first) native_copy();
    proxy.ended(2);
    closed(kCookie, 3);
    engine().advance(at(20));
    EXPECT_THAT(summary(), ElementsAre("proxy http://example.test/a"));
    for (const RecordPtr& record : exchanges()) {
      EXPECT_EQ(text(*record, "weir.decision"), "redirected");
      EXPECT_EQ(text(*record, "weir.tls.library"), "none");
      EXPECT_EQ(text(*record, "network.peer.address"), kOrigin.address.to_string());
    }
    ASSERT_EQ(connections().size(), 1u);
  }
}

TEST_F(Proxied, ARedirectedConnectionThatNobodyDecidedOnHasItsTruePeer) {
  use(default_config());
  process(kCurl, "/usr/bin/curl");
  ConnectionOpened event{.time = at(0), .cookie = {kCookie}};
  event.tuple = {endpoint("10.0.0.1", 40000), kOrigin};
  event.owner = kCurl;
  event.redirected = true;
  engine().consume(event);
  closed(kCookie, 1);
  engine().advance(at(60));
  ASSERT_EQ(connections().size(), 1u);
  EXPECT_EQ(text(*connections().front(), "network.peer.address"), kOrigin.address.to_string());
}

}  // namespace
}  // namespace weir::test
