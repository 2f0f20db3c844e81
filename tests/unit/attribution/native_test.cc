// What the native tap sees of connections that go straight to their destination.
#include <gmock/gmock.h>

#include "tests/unit/attribution/scenario.h"

namespace weir::test {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

class Native : public Scenario {
 protected:
  void SetUp() override {
    Scenario::SetUp();
    process(kCurl, "/usr/bin/curl");
  }
};

TEST_F(Native, KeepAliveGivesOneRecordForEachExchange) {
  opened(1, kOrigin);
  View tls(engine(), 1, Tap::native);
  tls.handshake(0.1, "example.test").exchange("/a", "one", 1).exchange("/b", "three", 2);
  ASSERT_THAT(summary(), ElementsAre("native https://example.test/a", "native https://example.test/b"));

  const Record& record = *exchanges()[1];
  EXPECT_EQ(record.timestamp, at(2));
  EXPECT_EQ(record.pid, kCurl.pid);
  EXPECT_EQ(record.executable_name, "curl");
  EXPECT_EQ(record.server_address, "example.test");
  EXPECT_EQ(record.status_code, 200);
  EXPECT_EQ(text(record, "weir.socket.cookie"), "1");
  EXPECT_EQ(text(record, "weir.connection.id"), "boot-1");
  EXPECT_EQ(text(record, "weir.tls.library"), "openssl");
  EXPECT_EQ(text(record, "process.pid"), "1000");
  EXPECT_EQ(text(record, "process.executable.path"), "/usr/bin/curl");
  EXPECT_EQ(text(record, "network.peer.address"), "192.0.2.7");
  EXPECT_EQ(text(record, "network.peer.port"), "443");
  EXPECT_EQ(text(record, "network.local.address"), "10.0.0.1");
  EXPECT_EQ(text(record, "network.transport"), "tcp");
  EXPECT_EQ(text(record, "network.protocol.name"), "http");
  EXPECT_EQ(text(record, "network.protocol.version"), "1.1");
  EXPECT_EQ(text(record, "server.port"), "443");
  EXPECT_EQ(text(record, "weir.tls.sni"), "example.test");
  EXPECT_EQ(text(record, "tls.protocol.version"), "1.3");
  EXPECT_EQ(text(record, "http.request.method"), "GET");
  EXPECT_EQ(text(record, "http.response.status_code"), "200");
  EXPECT_EQ(text(record, "http.request.header.host"), "example.test");
  EXPECT_EQ(text(record, "http.request.body.size"), "0");
  EXPECT_EQ(text(record, "http.response.body.size"), "5");
  EXPECT_EQ(text(record, "weir.duration_ns"), "10000000");
  EXPECT_EQ(text(record, "weir.decision"), "(absent)");
  EXPECT_EQ(text(record, "weir.response.body"), "(absent)");
  EXPECT_EQ(text(record, "error.type"), "(absent)");
  EXPECT_NE(exchanges()[0]->id, exchanges()[1]->id);
}

TEST_F(Native, ClosingGivesTheConnectionsRecordWithTotals) {
  opened(1, kOrigin);
  View(engine(), 1, Tap::native).exchange("/", "x", 1);
  closed(1, 2, 321, 654);
  ASSERT_EQ(connections().size(), 1u);
  const Record& record = *connections()[0];
  EXPECT_EQ(text(record, "weir.bytes.sent"), "321");
  EXPECT_EQ(text(record, "weir.bytes.received"), "654");
  EXPECT_EQ(text(record, "weir.source"), "native");
  EXPECT_EQ(text(record, "weir.opaque.reason"), "(absent)");
  EXPECT_EQ(text(record, "weir.incomplete"), "(absent)");
  closed(1, 3);
  EXPECT_EQ(connections().size(), 1u);
}

TEST_F(Native, RepeatedHeadersSurviveAndSecretsDoNot) {
  opened(1, kOrigin);
  View(engine(), 1, Tap::native)
      .sent("GET /?token=abc HTTP/1.1\r\nHost: h\r\nAccept: a\r\nCookie: s=1\r\nAccept: b\r\n\r\n", 1)
      .received("HTTP/1.1 404 N\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\nContent-Length: 0\r\n\r\n", 2);
  const Record& record = *exchanges().at(0);
  EXPECT_EQ(text(record, "http.request.header.accept"), "a|b");
  EXPECT_EQ(text(record, "http.request.header.cookie"), "[redacted]");
  EXPECT_EQ(text(record, "http.response.header.set-cookie"), "[redacted]|[redacted]");
  EXPECT_EQ(text(record, "url.full"), "https://h/?token=[redacted]");
  EXPECT_EQ(text(record, "error.type"), "404");
  EXPECT_THAT(to_json(record), testing::Not(testing::HasSubstr("abc")));
}

TEST_F(Native, BodiesAreCapturedWhenConfigured) {
  EngineConfig config = default_config();
  config.capture_bodies = true;
  config.limits.body_bytes = 8;
  use(config);
  opened(1, kOrigin);
  View(engine(), 1, Tap::native)
      .exchange("/text", "gr\xc3\xbc\xc3\x9f", 1)
      .exchange("/binary", std::string("\xff\x00\x01", 3), 2)
      .exchange("/long", "0123456789", 3);
  engine().advance(at(10));
  ASSERT_EQ(exchanges().size(), 3u);
  EXPECT_EQ(text(*exchanges()[0], "weir.response.body"), "gr\xc3\xbc\xc3\x9f");
  EXPECT_EQ(text(*exchanges()[0], "weir.response.body.encoding"), "utf8");
  EXPECT_EQ(text(*exchanges()[1], "weir.response.body"), "/wAB");
  EXPECT_EQ(text(*exchanges()[1], "weir.response.body.encoding"), "base64");
  EXPECT_EQ(text(*exchanges()[1], "weir.body.truncated"), "(absent)");
  EXPECT_EQ(text(*exchanges()[2], "weir.response.body"), "01234567");
  EXPECT_EQ(text(*exchanges()[2], "weir.body.truncated"), "true");
  EXPECT_EQ(text(*exchanges()[2], "http.response.body.size"), "10");
}

TEST_F(Native, AGapInABodyIsCountedToTheByte) {
  opened(1, kOrigin);
  View tls(engine(), 1, Tap::native);
  tls.sent(get("/big"), 1).received("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n0123456789", 2);
  tls.gap(Direction::received, 30, 2.1);  // said by the source
  tls.skip(Direction::received, 25);      // shown by the next offset alone
  tls.received(std::string(35, 'x'), 3);
  ASSERT_EQ(exchanges().size(), 1u);
  EXPECT_EQ(text(*exchanges()[0], "weir.gap.bytes"), "55");
  EXPECT_EQ(text(*exchanges()[0], "weir.incomplete"), "gap");
  EXPECT_EQ(text(*exchanges()[0], "http.response.body.size"), "100");
  EXPECT_EQ(engine().counters().gap_bytes, 55u);
}

TEST_F(Native, ALossAtTheVeryEndShowsByTheKernelsTotal) {
  opened(1, kOrigin);
  View tls(engine(), 1, Tap::native);
  tls.sent(get("/"), 1).received("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n0123456789", 2);
  ConnectionClosed close{.time = at(3), .cookie = {1}};
  close.plaintext_sent = tls.offset(Direction::sent);
  close.plaintext_received = tls.offset(Direction::received) + 90;
  engine().consume(close);
  engine().advance(at(10));
  ASSERT_EQ(exchanges().size(), 1u);
  EXPECT_EQ(text(*exchanges()[0], "weir.incomplete"), "gap");
  EXPECT_EQ(text(*exchanges()[0], "weir.gap.bytes"), "90");
  EXPECT_EQ(engine().counters().gap_bytes, 90u);
  EXPECT_EQ(text(*connections().at(0), "weir.incomplete"), "gap");
}

TEST_F(Native, ALossBeforeTheStreamsEndIsAGapNotAnEarlyClose) {
  opened(1, kOrigin);
  View tls(engine(), 1, Tap::native);
  tls.sent(get("/"), 1).received("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n0123456789", 2);
  tls.skip(Direction::received, 90).ended(3);
  ASSERT_EQ(exchanges().size(), 1u);
  EXPECT_EQ(text(*exchanges()[0], "weir.incomplete"), "gap");
  EXPECT_EQ(text(*exchanges()[0], "weir.gap.bytes"), "90");
  EXPECT_EQ(text(*exchanges()[0], "http.response.body.size"), "100");
}

TEST_F(Native, BytesThatComeTwiceCountOnce) {
  opened(1, kOrigin);
  View tls(engine(), 1, Tap::native);
  tls.sent(get("/a"), 1);
  tls.offset(Direction::sent) = 0;
  tls.sent(get("/a"), 1.1).received(ok("x"), 2);
  EXPECT_EQ(exchanges().size(), 1u);
  EXPECT_EQ(engine().counters().duplicate_bytes_dropped, get("/a").size());
}

TEST_F(Native, AnUnansweredRequestIsClosedEarly) {
  opened(1, kOrigin);
  View(engine(), 1, Tap::native).sent(get("/never"), 1);
  closed(1, 2);
  ASSERT_EQ(exchanges().size(), 1u);
  EXPECT_EQ(text(*exchanges()[0], "weir.incomplete"), "closed_early");
  EXPECT_EQ(text(*exchanges()[0], "http.response.status_code"), "(absent)");
}

TEST_F(Native, UnlinkedBytesWaitForTheirSocket) {
  opened(1, kOrigin);
  View tls(engine(), 1, Tap::native);
  tls.unlinked().sent(get("/early"), 1);
  EXPECT_THAT(exchanges(), IsEmpty());
  tls.linked(1).received(ok("x"), 2);
  tls.unlinked().exchange("/late", "y", 3);  // linked once, linked for good
  EXPECT_THAT(summary(),
              ElementsAre("native https://example.test/early", "native https://example.test/late"));
}

TEST_F(Native, ObjectsThatWaitAtOnceGetEachItsOwnSocket) {
  opened(1, kOrigin);
  opened(2, kOrigin);
  View first(engine(), 1, Tap::native), second(engine(), 2, Tap::native);
  first.unlinked().sent(get("/first"), 1);
  second.unlinked().sent(get("/second"), 1.1);
  second.linked(2).received(ok("y"), 2);
  first.linked(1).received(ok("x"), 2.1);
  ASSERT_EQ(exchanges().size(), 2u);
  EXPECT_THAT(summary(),
              ElementsAre("native https://example.test/second", "native https://example.test/first"));
  EXPECT_EQ(text(*exchanges()[0], "weir.socket.cookie"), "2");
  EXPECT_EQ(text(*exchanges()[1], "weir.socket.cookie"), "1");
}

// Parent and child have the object at the same place: what the one waits for isn't the other's.
TEST_F(Native, AForkedChildsObjectIsItsOwn) {
  constexpr ProcessKey kChild{1001, kCurl.start_boottime_ns + 1};
  process(kChild, "/usr/bin/curl");
  opened(1, kOrigin);
  View parent(engine(), 1, Tap::native, kCurl), child(engine(), 1, Tap::native, kChild);
  parent.exchange("/parent", "x", 1);
  child.unlinked().sent(get("/child"), 2);
  EXPECT_EQ(exchanges().size(), 1u);
  child.linked(1).received(ok("y"), 3);
  ASSERT_EQ(exchanges().size(), 2u);
  EXPECT_EQ(exchanges()[0]->pid, kCurl.pid);
  EXPECT_EQ(exchanges()[1]->pid, kChild.pid);
}

TEST_F(Native, UnlinkedBytesAreBounded) {
  EngineConfig config = default_config();
  config.limits.unlinked_bytes = 100;
  use(config);
  View tls(engine(), 1, Tap::native);
  tls.unlinked().sent(std::string(60, 'a'), 1).sent(std::string(60, 'b'), 1.1);
  EXPECT_EQ(engine().counters().unlinked_bytes_dropped, 60u);
  engine().advance(at(60));
  EXPECT_EQ(engine().counters().unlinked_bytes_dropped, 120u);
  EXPECT_THAT(records_, IsEmpty());
}

TEST_F(Native, ANewGenerationOfTheObjectStartsFromZero) {
  opened(1, kOrigin);
  View tls(engine(), 1, Tap::native);
  tls.exchange("/a", "x", 1).next_generation().exchange("/b", "y", 2);
  EXPECT_THAT(summary(), ElementsAre("native https://example.test/a", "native https://example.test/b"));
  EXPECT_EQ(engine().counters().gap_bytes, 0u);
  EXPECT_EQ(engine().counters().duplicate_bytes_dropped, 0u);
}

TEST_F(Native, AServersSideGivesNoRecord) {
  ConnectionOpened event{.time = at(0), .cookie = {5}};
  event.tuple = {endpoint("10.0.0.1", 443), endpoint("10.0.0.9", 1234)};
  event.owner = kCurl;
  event.accepted = true;
  engine().consume(event);
  View(engine(), 5, Tap::native).received(get("/in"), 1).sent(ok("x"), 2);
  closed(5, 3);
  View(engine(), 6, Tap::native).received(get("/in"), 1).sent(ok("x"), 2);  // never opened, as far as we know
  closed(6, 3);
  engine().finish(at(9));
  EXPECT_THAT(records_, IsEmpty());
}

TEST_F(Native, AServersSideIsRecordedWithIngressOn) {
  EngineConfig config = default_config();
  config.ingress = true;
  use(config);
  process(kCurl, "/usr/sbin/nginx");
  ConnectionOpened event{.time = at(0), .cookie = {5}};
  event.owner = kCurl;
  event.accepted = true;
  engine().consume(event);
  View(engine(), 5, Tap::native).received(get("/in"), 1).sent(ok("x"), 2);
  EXPECT_THAT(summary(), ElementsAre("native https://example.test/in"));
}

// The ring was full from the first answer on; before the next bytes the source says where both losses end.
TEST_F(Native, AfterALossOnBothSidesTheNextRequestIsNoneOfTheLostOnes) {
  opened(1, kOrigin);
  View tls(engine(), 1, Tap::native);
  const auto lost_until_now = [&](Direction direction, std::uint64_t length) {
    tls.skip(direction, length);
    engine().consume(Gap{at(2),
                         {1},
                         {kCurl, 0x1001, 0},
                         Tap::native,
                         direction,
                         tls.offset(direction),
                         0,
                         Gap::Reason::ring_full});
  };
  tls.sent(get("/answer-lost"), 1);
  lost_until_now(Direction::sent, 1000);
  lost_until_now(Direction::received, 5000);
  tls.exchange("/next", "x", 3);
  tls.skip(Direction::sent, 7);
  tls.skip(Direction::received, 11);
  ConnectionClosed end{.time = at(4), .cookie = {1}};
  end.bytes_sent = end.bytes_received = 9999;
  end.plaintext_sent = tls.offset(Direction::sent);
  end.plaintext_received = tls.offset(Direction::received);
  engine().consume(end);

  ASSERT_THAT(summary(),
              ElementsAre("native https://example.test/answer-lost", "native https://example.test/next"));
  EXPECT_EQ(text(*exchanges()[0], "weir.incomplete"), "gap");
  EXPECT_EQ(text(*exchanges()[1], "weir.incomplete"), "(absent)");
  EXPECT_EQ(text(*exchanges()[1], "http.response.status_code"), "200");
  const Record& connection = *connections().at(0);
  EXPECT_EQ(text(connection, "weir.gap.sent"), "1007");
  EXPECT_EQ(text(connection, "weir.gap.received"), "5011");
  EXPECT_EQ(text(connection, "weir.gap.bytes"), "6018");
  EXPECT_EQ(text(connection, "weir.plaintext.sent"), std::to_string(*end.plaintext_sent - 1007));
  EXPECT_EQ(text(connection, "weir.plaintext.received"), std::to_string(*end.plaintext_received - 5011));
}

TEST_F(Native, AConnectionOlderThanTheSourceIsJoinedAtItsNextRequest) {
  View tls(engine(), 8, Tap::native);
  tls.skip(Direction::sent, 5000).skip(Direction::received, 9000);
  tls.received("the rest of some body", 1);
  tls.exchange("/next", "x", 2);
  engine().advance(at(2.5));
  EXPECT_THAT(exchanges(), IsEmpty());  // its opening may still be told
  engine().advance(at(5));
  EXPECT_THAT(summary(), ElementsAre("native https://example.test/next"));
  EXPECT_EQ(text(*exchanges()[0], "process.pid"), "1000");
  EXPECT_EQ(engine().counters().gap_bytes, 0u);
}

TEST_F(Native, WeirsOwnProcessesAreInNoRecord) {
  opened(1, kOrigin, 0, kWorker);
  View(engine(), 1, Tap::native, kWorker).exchange("/own", "x", 1);
  closed(1, 2);
  View(engine(), 2, Tap::native, kWorker).exchange("/own", "x", 3);
  engine().finish(at(9));
  EXPECT_THAT(records_, IsEmpty());
}

TEST_F(Native, ForkInheritsAndExecReplaces) {
  ProcessEvent shell{.what = ProcessEvent::What::seen, .time = at(0), .process = kShell};
  shell.executable_path = "/bin/sh";
  shell.arguments = {"sh", "-c", "x"};
  shell.uid = 1234;
  shell.cgroup_path = "0::/system.slice/cron.service";
  engine().consume(shell);
  const ProcessKey child{901, 6'000'000'001};
  process(child, "", 1, ProcessEvent::What::started, kShell);
  opened(1, kOrigin, 1.1, child);
  View before(engine(), 1, Tap::native, child);
  before.exchange("/before", "x", 1.2);
  before.sent(get("/across"), 1.3);
  process(child, "/usr/bin/wget", 2, ProcessEvent::What::execed);
  before.received(ok("x"), 2.1);
  before.exchange("/after", "x", 2.2);

  ASSERT_EQ(exchanges().size(), 3u);
  EXPECT_EQ(text(*exchanges()[0], "process.executable.path"), "/bin/sh");
  EXPECT_EQ(text(*exchanges()[0], "process.pid"), "901");
  EXPECT_EQ(text(*exchanges()[0], "process.parent_pid"), "900");
  EXPECT_EQ(text(*exchanges()[0], "process.owner"), "1234");
  EXPECT_EQ(text(*exchanges()[1], "process.executable.path"), "/bin/sh");  // who began it
  EXPECT_EQ(text(*exchanges()[2], "process.executable.path"), "/usr/bin/wget");
  EXPECT_EQ(text(*exchanges()[2], "process.owner"), "1234");
  EXPECT_EQ(text(*exchanges()[2], "container.id"), "");
  EXPECT_EQ(text(*exchanges()[2], "weir.systemd.unit"), "cron.service");
}

TEST_F(Native, AProcessThatMovedIntoAContainerDoesNotKeepItsParentsPlace) {
  ProcessEvent shim{.time = at(0), .process = kShell};
  shim.cgroup_path = "0::/system.slice/containerd.service";
  shim.cgroup_id = 1;
  engine().consume(shim);
  const ProcessKey child{901, 6'000'000'001};
  process(child, "", 1, ProcessEvent::What::started, kShell);
  ProcessEvent exec{.what = ProcessEvent::What::execed, .time = at(2), .process = child};
  exec.cgroup_id = 2;
  engine().consume(exec);
  opened(1, kOrigin, 3, child);
  View tls(engine(), 1, Tap::native, child);
  tls.exchange("/unknown", "x", 3);
  ProcessEvent seen{.time = at(4), .process = child};
  seen.cgroup_path = "0::/system.slice/docker-" + std::string(64, 'a') + ".scope";
  engine().consume(seen);
  tls.exchange("/known", "x", 4);
  EXPECT_EQ(text(*exchanges().at(0), "container.id"), "(absent)");
  EXPECT_EQ(text(*exchanges().at(1), "container.id"), std::string(64, 'a'));
}

TEST_F(Native, AReusedPidIsAnotherProcess) {
  const ProcessKey reused{kCurl.pid, 9'000'000'003};
  process(kCurl, "", 1, ProcessEvent::What::exited);
  process(reused, "/usr/bin/python3", 2);
  opened(1, kOrigin, 0.5, kCurl);
  opened(2, kOrigin, 2.5, reused);
  View(engine(), 1, Tap::native, kCurl).exchange("/old", "x", 0.6);  // read late
  View(engine(), 2, Tap::native, reused).exchange("/new", "x", 2.6);
  EXPECT_EQ(text(*exchanges().at(0), "process.executable.name"), "curl");
  EXPECT_EQ(text(*exchanges().at(1), "process.executable.name"), "python3");
}

TEST_F(Native, StartTimesInTicksMeetExactOnes) {
  const ProcessKey ticks{kCurl.pid, kCurl.start_boottime_ns / 10'000'000 * 10'000'000};
  opened(1, kOrigin, 0, ticks);
  View(engine(), 1, Tap::native, ticks).exchange("/", "x", 1);
  EXPECT_EQ(text(*exchanges().at(0), "process.executable.name"), "curl");
}

// A server's worker gives up root without an exec.
TEST_F(Native, TheOwnerIsWhoTheProcessWasWhenItConnected) {
  ProcessEvent event{.time = at(0), .process = kCurl};
  event.uid = 0;
  engine().consume(event);
  opened(1, kOrigin, 1, kCurl, 33);
  View(engine(), 1, Tap::native).exchange("/", "x", 2);
  closed(1, 3);
  EXPECT_EQ(text(*exchanges().at(0), "process.owner"), "33");
  EXPECT_EQ(text(*connections().at(0), "process.owner"), "33");
}

TEST_F(Native, CreationTimeAndOwnersNameComeFromTheConfiguration) {
  EngineConfig config = default_config();
  config.boot_time = at(-5);
  config.user_name = [](std::uint32_t uid) { return uid == 33 ? "www-data" : ""; };
  use(config);
  ProcessEvent event{.time = at(0), .process = kCurl};
  event.uid = 33;
  engine().consume(event);
  opened(1, kOrigin);
  View(engine(), 1, Tap::native).exchange("/", "x", 1);
  EXPECT_EQ(text(*exchanges().at(0), "process.owner"), "www-data");
  EXPECT_EQ(text(*exchanges().at(0), "process.creation.time"),
            to_rfc3339(at(0) + std::chrono::nanoseconds(1)));
}

TEST_F(Native, ADescriptorThatWasPassedOnHasItsNewOwner) {
  process(kShell, "/bin/sh");
  opened(1, kOrigin);
  engine().consume(OwnershipChanged{at(1), {1}, kShell});
  engine().consume(
      Bytes{at(2), {1}, {kShell, 0x77, 0}, {}, Tap::native, Direction::sent, 0, bytes_of(get("/"))});
  engine().consume(
      Bytes{at(3), {1}, {kShell, 0x77, 0}, {}, Tap::native, Direction::received, 0, bytes_of(ok("x"))});
  EXPECT_EQ(text(*exchanges().at(0), "process.pid"), "900");
}

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
      {"older",
       [&](Engine& e) {
         ConnectionClosed none;
         close(e, 10);
       },
       "opened before start"},
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

TEST_F(Native, BytesThatAreNotHttpAreCountedAndNotCalledReadable) {
  opened(1, kOrigin);
  View(engine(), 1, Tap::native).sent(std::string("\x00\x01\x02garbage", 10), 1);
  closed(1, 2);
  EXPECT_THAT(exchanges(), IsEmpty());
  ASSERT_EQ(connections().size(), 1u);
  EXPECT_EQ(text(*connections()[0], "weir.opaque.reason"), "not HTTP");
  EXPECT_EQ(engine().counters().unparsed_bytes, 10u);
  EXPECT_EQ(engine().coverage().at(0).readable_connections, 0u);
}

TEST_F(Native, ASocketThatConnectsAgainIsAnotherConnection) {
  const auto refused = [&](double when) {
    ConnectionClosed event{.time = at(when), .cookie = {1}};
    event.bytes_sent = event.bytes_received = 0;
    event.error = ECONNREFUSED;
    engine().consume(event);
  };
  opened(1, kOrigin, 0);
  refused(1);
  ASSERT_EQ(connections().size(), 1u);
  opened(1, kOrigin, 0.5);  // told late: still the first
  engine().advance(at(1.5));
  EXPECT_EQ(engine().counters().connections_tracked, 1u);
  opened(1, kProxy, 2);
  refused(3);             // waits for the proxy's word
  opened(1, kOrigin, 4);  // and is over all the same
  View(engine(), 1, Tap::native).exchange("/", "x", 5);
  closed(1, 6);
  closed(1, 7);
  ASSERT_THAT(summary(), ElementsAre("native https://example.test/"));
  ASSERT_EQ(connections().size(), 3u);
  EXPECT_EQ(text(*connections()[1], "weir.opaque.reason"), "connect failed");
  EXPECT_EQ(text(*connections()[2], "weir.opaque.reason"), "(absent)");
  EXPECT_EQ(text(*connections()[2], "weir.bytes.sent"), "100");
  std::set<std::string> ids;
  for (const RecordPtr& record : records_) ids.insert(record->id);
  EXPECT_EQ(ids.size(), records_.size());
}

TEST_F(Native, ABodyUntilCloseIsWholeOnlyIfThePeerEndedIt) {
  const std::string head = "HTTP/1.1 200 OK\r\n\r\nhalf";
  opened(1, kOrigin);
  View(engine(), 1, Tap::native).sent(get("/cut"), 1).received(head, 1.1);
  closed(1, 2);
  opened(2, kOrigin);
  View(engine(), 2, Tap::native).sent(get("/whole"), 3).received(head, 3.1).ended(4);
  closed(2, 5);
  opened(3, kOrigin);
  View(engine(), 3, Tap::native).sent(get("/broken-off"), 6).received(head, 6.1).ended(7, true);
  closed(3, 8);
  ASSERT_EQ(exchanges().size(), 3u);
  EXPECT_EQ(text(*exchanges()[0], "weir.incomplete"), "closed_early");
  EXPECT_EQ(text(*exchanges()[1], "weir.incomplete"), "(absent)");
  EXPECT_EQ(text(*exchanges()[2], "weir.incomplete"), "closed_early");
}

TEST_F(Native, AnObjectThatHasEndedIsForgotten) {
  opened(1, kOrigin);
  View tls(engine(), 1, Tap::native);
  tls.exchange("/a", "x", 1).ended(2);
  tls.unlinked().sent(get("/b"), 3);
  engine().advance(at(12.9));
  EXPECT_EQ(engine().counters().unlinked_bytes_dropped, 0u);
  engine().advance(at(13));
  EXPECT_EQ(engine().counters().unlinked_bytes_dropped, get("/b").size());
}

TEST_F(Native, OnlyASchemeAtTheStartMakesATargetAbsolute) {
  opened(1, kOrigin);
  View tls(engine(), 1, Tap::native);
  for (const std::string target : {"/?u=ftp://other.test/", "?u=ftp://other.test/", "FTP://third.test/x"})
    tls.exchange(target, "x", 1);
  ASSERT_EQ(exchanges().size(), 3u);
  EXPECT_EQ(text(*exchanges()[0], "server.address"), "example.test");
  EXPECT_EQ(text(*exchanges()[1], "server.address"), "example.test");
  EXPECT_EQ(text(*exchanges()[2], "server.address"), "third.test");
}

TEST_F(Native, ContainerIdIsAbsentWhereNothingTellsHostFromContainer) {
  const auto id_with = [&](std::uint32_t pid, const std::string& cgroup, std::uint32_t inner) {
    ProcessEvent event{.time = at(0), .process = {pid, pid}};
    event.cgroup_path = cgroup;
    event.inner_pid = inner;
    engine().consume(event);
    opened(pid, kOrigin, 0, event.process);
    View(engine(), pid, Tap::native, event.process).exchange("/", "x", 1);
    return text(*exchanges().back(), "container.id");
  };
  EXPECT_EQ(id_with(50, "0::/some/runtime", 2), "(absent)");
  EXPECT_EQ(id_with(51, "0::/some/runtime", 51), "");
  EXPECT_EQ(id_with(52, "0::/system.slice/x.service", 0), "");
}

TEST_F(Native, TablesStayWithinTheirLimits) {
  EngineConfig config = default_config();
  config.limits.connections = 3;
  config.limits.processes = 2;
  use(config);
  for (std::uint32_t i = 1; i <= 5; ++i) {
    const ProcessKey key{i + 100, i};
    process(key, "/bin/p" + std::to_string(i));
    opened(i, kOrigin, i, key);
    View(engine(), i, Tap::native, key).exchange("/" + std::to_string(i), "x", i);
  }
  EXPECT_EQ(exchanges().size(), 5u);
  EXPECT_EQ(engine().counters().connections_evicted, 2u);
  EXPECT_EQ(engine().counters().processes_evicted, 3u);
  ASSERT_EQ(connections().size(), 2u);
  EXPECT_EQ(text(*connections()[0], "weir.socket.cookie"), "1");
  EXPECT_EQ(text(*connections()[0], "weir.incomplete"), "closed_early");
  engine().finish(at(20));
  EXPECT_EQ(connections().size(), 5u);
}

TEST_F(Native, RecordIdsAreUnique) {
  EngineConfig config = default_config();
  config.limits.connections = 1;
  use(config);
  for (int round = 0; round < 3; ++round) {
    for (std::uint64_t cookie = 1; cookie <= 2; ++cookie) {  // each evicts the other
      opened(cookie, kOrigin, round);
      View(engine(), cookie, Tap::native).exchange("/", "x", round + 0.1);
    }
  }
  engine().finish(at(30));
  std::set<std::string> ids;
  for (const RecordPtr& record : records_) ids.insert(record->id);
  EXPECT_EQ(ids.size(), records_.size());
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
}

TEST_F(Native, DnsIsRecordedWithItsProcess) {
  engine().consume(Dns{at(1), kCurl, "example.test", {"192.0.2.7", "192.0.2.8"}});
  ASSERT_EQ(of(RecordKind::dns).size(), 1u);
  EXPECT_EQ(text(*of(RecordKind::dns)[0], "dns.answers"), "192.0.2.7|192.0.2.8");
  EXPECT_EQ(text(*of(RecordKind::dns)[0], "process.executable.name"), "curl");
}

}  // namespace
}  // namespace weir::test
