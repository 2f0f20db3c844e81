// What could not be read, and why; how much of a process could.
#include "tests/unit/attribution/native.h"

namespace weir::test {
namespace {

using testing::IsEmpty;

struct Opaque {
  std::string name;
  std::function<void(Engine&)> happens;
  std::string reason;
};

TEST_F(Native, EveryUnreadableConnectionSaysWhy) {
  const auto close = [](Engine& engine, std::uint64_t bytes, int error = 0) {
    ConnectionClosed event{.time = at(5), .cookie = {1}};
    event.bytes_sent = event.bytes_received = bytes;
    event.error = error;
    engine.consume(event);
  };
  const std::vector<Opaque> cases = {
      {"plain", [&](Engine& e) { close(e, 10); }, "no probe saw its bytes"},
      {"tls", [&](Engine& e) { View(e, 1, Tap::native).handshake(1, "x.test"), close(e, 10); },
       "no probe for this TLS library"},
      {"empty", [&](Engine& e) { close(e, 0); }, "no payload"},
      {"refused", [&](Engine& e) { close(e, 0, ECONNREFUSED); }, "connect failed"},
      {"lost", [&](Engine& e) { View(e, 1, Tap::native).gap(Direction::sent, 10, 1), close(e, 10); },
       "events lost"},
      {"alert",
       [&](Engine& e) {
         Handshake event{.time = at(1), .cookie = {1}, .object = {}, .tap = Tap::proxy};
         event.alert = 48;
         e.consume(event);
         close(e, 10);
       },
       "certificate rejected by client"},
      {"older", [&](Engine& e) { close(e, 10); }, "opened before start"},
      {"other protocol",
       [&](Engine& e) {
         ConnectionClosed event{.time = at(4), .cookie = {1}, .other_protocol = true};
         e.consume(event);
         close(e, 10);
       },
       "not HTTP"},
      {"the server alone spoke",
       [&](Engine& e) {
         e.consume(ConnectionClosed{.time = at(5), .cookie = {1}, .bytes_sent = 0u, .bytes_received = 7u});
       },
       "not HTTP"},
      {"a session without content",
       [&](Engine& e) {
         e.consume(Handshake{.time = at(1), .cookie = {1}, .library = TlsLibrary::openssl, .unused = true});
         close(e, 10);
       },
       "no content"},
      {"a library that is read said nothing",
       [&](Engine& e) {
         e.consume(TlsLibraryNoted{.process = {.pid = kCurl.pid}, .library = TlsLibrary::openssl});
         View(e, 1, Tap::native).handshake(1, "x.test"), close(e, 10);
       },
       "no content seen"},
      {"while the agent started",
       [&](Engine& e) {
         e.consume(TlsLibraryNoted{.time = at(0.5)});
         View(e, 1, Tap::native).handshake(1, "x.test"), close(e, 10);
       },
       "opened before attach"},
  };
  for (const Opaque& one : cases) {
    SCOPED_TRACE(one.name);
    records_.clear();
    use(default_config());
    process(kCurl, "/usr/bin/curl");
    ConnectionOpened open{.time = at(0), .cookie = {1}};
    open.tuple.peer = kOrigin;
    open.owner = kCurl;
    open.before_start = one.name == "older";
    engine().consume(open);
    one.happens(engine());
    engine().advance(at(7));
    ASSERT_EQ(connections().size(), 1u);
    EXPECT_EQ(text(*connections()[0], "weir.opaque.reason"), one.reason);
    EXPECT_EQ(text(*connections()[0], "weir.source"), "(absent)");
    EXPECT_EQ(text(*connections()[0], "error.type"), one.name == "refused" ? "ECONNREFUSED" : "(absent)");
  }
}

TEST_F(Native, WhatIsFoundOutAboutALibraryAfterTheConnectionsEndStillSaysWhy) {
  process(kCurl, "/usr/bin/curl");
  opened(1, kOrigin);
  View(engine(), 1, Tap::native).handshake(1, "x.test");
  closed(1, 2);
  EXPECT_THAT(connections(), IsEmpty());
  engine().consume(
      TlsLibraryNoted{.time = at(2.5), .process = {.pid = kCurl.pid}, .library = TlsLibrary::openssl});
  engine().advance(at(4));
  ASSERT_EQ(connections().size(), 1u);
  EXPECT_EQ(text(*connections()[0], "weir.opaque.reason"), "opened before attach");
}

// The first thing that its probes saw was the session's end.
TEST_F(Native, ASessionWhoseProbesCameAtItsEndIsNotWithoutContent) {
  process(kCurl, "/usr/bin/curl");
  opened(1, kOrigin);
  engine().consume(Handshake{.time = at(1.6), .cookie = {1}, .library = TlsLibrary::openssl, .unused = true});
  closed(1, 2);
  EXPECT_THAT(connections(), IsEmpty()) << "when it was probed isn't known yet";
  engine().consume(
      TlsLibraryNoted{.time = at(1.5), .process = {.pid = kCurl.pid}, .library = TlsLibrary::openssl});
  engine().advance(at(4));
  ASSERT_EQ(connections().size(), 1u);
  EXPECT_EQ(text(*connections()[0], "weir.opaque.reason"), "opened before attach");
  EXPECT_EQ(engine().coverage().at(0).readable_connections, 0u);
}

TEST_F(Native, AConnectionWhoseProbesCameInItsMiddleIsNotWhole) {
  process(kCurl, "/usr/bin/curl");
  for (const auto& [cookie, probed] : {std::pair(1, 0.5), std::pair(2, 1.5)}) {
    opened(static_cast<std::uint64_t>(cookie), kOrigin);
    engine().consume(
        TlsLibraryNoted{.time = at(probed), .process = {.pid = kCurl.pid}, .library = TlsLibrary::openssl});
    View tls(engine(), static_cast<std::uint64_t>(cookie), Tap::native);
    tls.handshake(1, "x.test").exchange("/", "x", 2);
    closed(static_cast<std::uint64_t>(cookie), 3);
  }
  engine().advance(at(9));
  ASSERT_EQ(connections().size(), 2u);
  EXPECT_EQ(exchanges().size(), 2u);
  for (const RecordPtr& one : connections()) {
    EXPECT_EQ(text(*one, "weir.opaque.reason"), "(absent)");
    EXPECT_EQ(text(*one, "weir.incomplete"), "joined_midstream") << one->json;
  }
}

TEST_F(Native, OnlyTheAnswerWasReadBecauseTheProbesCameInBetween) {
  process(kCurl, "/usr/bin/curl");
  opened(1, kOrigin);
  View(engine(), 1, Tap::native).handshake(1, "x.test");
  engine().consume(
      TlsLibraryNoted{.time = at(1.5), .process = {.pid = kCurl.pid}, .library = TlsLibrary::openssl});
  View(engine(), 1, Tap::native).received("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx", 2);
  closed(1, 3);
  engine().advance(at(9));
  ASSERT_EQ(connections().size(), 1u);
  EXPECT_EQ(text(*connections()[0], "weir.opaque.reason"), "opened before attach");
}

TEST_F(Native, WhatIsFoundOutLateExplainsAnAnswerWithoutItsRequest) {
  process(kCurl, "/usr/bin/curl");
  opened(1, kOrigin);
  View(engine(), 1, Tap::native).handshake(1, "x.test");
  View(engine(), 1, Tap::native).received("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx", 2);
  closed(1, 2.2);
  EXPECT_THAT(connections(), IsEmpty());
  engine().consume(
      TlsLibraryNoted{.time = at(1.5), .process = {.pid = kCurl.pid}, .library = TlsLibrary::openssl});
  engine().advance(at(4));
  ASSERT_EQ(connections().size(), 1u);
  EXPECT_EQ(text(*connections()[0], "weir.opaque.reason"), "opened before attach");
}

TEST_F(Native, BytesThatAreNotHttpAreCountedAndNotCalledReadable) {
  opened(1, kOrigin);
  View(engine(), 1, Tap::native).sent(std::string("\x00\x01\x02garbage", 10), 1);
  closed(1, 2);
  EXPECT_THAT(exchanges(), IsEmpty());
  ASSERT_EQ(connections().size(), 1u);
  EXPECT_EQ(text(*connections()[0], "weir.opaque.reason"), "not HTTP");
  EXPECT_EQ(text(*connections()[0], "weir.unparsed.bytes"), "10");
  EXPECT_EQ(engine().counters().unparsed_bytes, 10u);
  EXPECT_EQ(engine().coverage().at(0).readable_connections, 0u);
}

// A connection that another proxy makes a tunnel of is not read by that alone.
TEST_F(Native, WhatPassesThroughAnotherProxysTunnel) {
  const Endpoint proxy = endpoint("192.0.2.9", 3128);
  const std::string connect = "CONNECT api.test:443 HTTP/1.1\r\nHost: api.test:443\r\n\r\n";
  const std::string granted = "HTTP/1.1 200 Connection established\r\n\r\n";
  opened(1, proxy);
  View(engine(), 1, Tap::native)
      .in_the_clear()
      .sent(connect, 1)
      .received(granted, 1.1)
      .sent("\x01other", 1.2);
  closed(1, 2);
  ASSERT_EQ(connections().size(), 1u);
  EXPECT_EQ(text(*connections()[0], "weir.opaque.reason"), "in a tunnel");
  EXPECT_EQ(engine().coverage().at(0).readable_connections, 0u);

  opened(2, proxy);
  View(engine(), 2, Tap::native).in_the_clear().sent(connect, 3).received(granted, 3.1);
  View(engine(), 2, Tap::native)
      .handshake(3.2, "api.test")
      .sent("GET /a HTTP/1.1\r\nHost: api.test\r\n\r\n", 3.3)
      .received(ok("x"), 3.4);
  closed(2, 4);
  ASSERT_EQ(connections().size(), 2u);
  EXPECT_EQ(text(*connections()[1], "weir.opaque.reason"), "(absent)");
  const Record& inner = *exchanges().back();
  EXPECT_EQ(text(inner, "url.full"), "https://api.test/a");
  EXPECT_EQ(text(inner, "server.port"), "443");
  EXPECT_EQ(text(inner, "network.peer.port"), "3128");
}

TEST_F(Native, CoverageCountsReadableConnections) {
  opened(1, kOrigin);
  opened(2, kOrigin);
  View(engine(), 1, Tap::native).exchange("/", "x", 1);
  closed(1, 2);
  closed(2, 2);
  ASSERT_EQ(engine().coverage().size(), 1u);
  EXPECT_EQ(engine().coverage()[0].executable_name, "curl");
  EXPECT_EQ(engine().coverage()[0].connections, 2u);
  EXPECT_EQ(engine().coverage()[0].readable_connections, 1u);
  opened(3, kOrigin, 3);
  closed(3, 4, 0, 0);
  EXPECT_EQ(engine().coverage()[0].readable_connections, 2u) << "there was nothing to read";
}

}  // namespace
}  // namespace weir::test
