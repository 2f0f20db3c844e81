// What the native tap sees of connections that go straight to their destination: their exchanges and their
// end.
#include "tests/unit/attribution/native.h"
#include "tests/unit/http/h2_wire.h"

namespace weir::test {
namespace {

using testing::ElementsAre;

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

TEST_F(Native, AnEventThatCameTooSoonIsToldWhenItsTimeComes) {
  opened(1, kOrigin);
  View tls(engine(), 1, Tap::native);
  tls.handshake(0.1, "example.test");
  tls.sent("GET /e HTTP/1.1\r\nHost: x\r\n\r\n", 1)
      .received("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: a\n\n", 1.001)
      .received("data: b\n\n", 1.002);
  engine().advance(at(1.04));
  const auto events = [&] { return text(*exchanges().back(), "weir.sse.events"); };
  EXPECT_EQ(events(), "1");
  engine().advance(at(1.06));
  EXPECT_EQ(events(), "2");
  EXPECT_EQ(text(*exchanges().back(), "weir.final"), "false");
  const std::size_t told = exchanges().size();
  engine().advance(at(2));
  EXPECT_EQ(exchanges().size(), told);
}

TEST_F(Native, ACallOfGrpcIsNamedByItsPathAlone) {
  opened(1, kOrigin);
  View tls(engine(), 1, Tap::native);
  tls.handshake(0.1, "example.test");
  double when = 1;
  for (const std::string target : {"/pkg.Svc/Call?access_token=SEKRET",
                                   "http://me:SEKRET@example.test/pkg.Svc/Call?access_token=SEKRET"}) {
    tls.sent("POST " + target +
                 " HTTP/1.1\r\nHost: example.test\r\nContent-Type: application/grpc\r\n"
                 "Content-Length: 0\r\n\r\n",
             when)
        .received(ok("x"), when + 0.1);
    EXPECT_EQ(text(*exchanges().back(), "rpc.method"), "pkg.Svc/Call");
    EXPECT_EQ(exchanges().back()->json.find("SEKRET"), std::string::npos) << exchanges().back()->json;
    when += 1;
  }
}

// From the second exchange on a connection's records have in common what is said of it, as long as it stays.
TEST_F(Native, WhatChangesOnAConnectionIsInItsNextRecord) {
  const auto last = [&](std::string_view key) { return text(*exchanges().back(), key); };
  View native(engine(), 1, Tap::native);
  native.handshake(0.1, "example.test").exchange("/", "x", 1).exchange("/", "x", 1.1).exchange("/", "x", 1.2);
  engine().advance(at(5));
  ASSERT_EQ(exchanges().size(), 3u);
  EXPECT_EQ(last("weir.tls.library"), "openssl");
  EXPECT_EQ(last("network.local.address"), "(absent)");
  EXPECT_EQ(last("network.peer.address"), "(absent)");

  opened(1, kOrigin);
  native.exchange("/", "x", 6);
  EXPECT_EQ(last("network.local.port"), "40000");
  EXPECT_EQ(last("network.peer.address"), "192.0.2.7");
  EXPECT_EQ(last("network.protocol.version"), "1.1");

  engine().consume(Handshake{.time = at(7), .cookie = {1}, .library = TlsLibrary::go});
  native.sent("GET / HTTP/1.0\r\n\r\n", 7.1).received(ok("x"), 7.2);
  EXPECT_EQ(last("weir.tls.library"), "go");
  EXPECT_EQ(last("network.protocol.version"), "1.0");

  DecisionMade decided{.time = at(8), .cookie = {1}, .decision = Decision::tunnelled};
  decided.upstream_peer = endpoint("192.0.2.9", 444);
  engine().consume(decided);
  native.exchange("/", "x", 8.1);
  EXPECT_EQ(last("network.peer.address"), "192.0.2.9");
  EXPECT_EQ(last("network.peer.port"), "444");
  EXPECT_EQ(last("weir.upstream.local.port"), "(absent)");

  decided.upstream_local = endpoint("10.0.0.1", 50000);
  engine().consume(decided);
  native.exchange("/", "x", 8.2);
  EXPECT_EQ(last("weir.upstream.local.port"), "50000");
  EXPECT_EQ(last("weir.source"), "native");

  decided.decision = Decision::bumped;
  engine().consume(decided);
  View(engine(), 1, Tap::proxy).exchange("/", "x", 9);
  EXPECT_EQ(last("weir.source"), "proxy");
  EXPECT_EQ(last("weir.tls.library"), "(absent)");
  EXPECT_EQ(exchanges().size(), 8u);
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
  EXPECT_THAT(record.json, testing::Not(testing::HasSubstr("abc")));
}

// Names are taken for one another by their letters alone: not by what is looked at before them.
TEST_F(Native, NamesThatAreNearlyTheSameStayApart) {
  opened(1, kOrigin);
  View(engine(), 1, Tap::native)
      .sent(
          "GET / HTTP/1.1\r\nHost: h\r\nX-Ab-Z: 1\r\nX-Cd-Z: 2\r\nx-aB-z: 3\r\nX-ABCDEFG-HIJKLMN: 4\r\n"
          "X-ABCDEFG-hijklmn: 5\r\nX-ABCDEFG-HIJKLMO: 6\r\n\r\n",
          1)
      .received(ok("x"), 2);
  const Record& record = *exchanges().at(0);
  EXPECT_EQ(text(record, "http.request.header.x-ab-z"), "1|3");
  EXPECT_EQ(text(record, "http.request.header.x-cd-z"), "2");
  EXPECT_EQ(text(record, "http.request.header.x-abcdefg-hijklmn"), "4|5");
  EXPECT_EQ(text(record, "http.request.header.x-abcdefg-hijklmo"), "6");
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

TEST_F(Native, AnUnansweredRequestIsClosedEarly) {
  opened(1, kOrigin);
  View(engine(), 1, Tap::native).sent(get("/never"), 1);
  closed(1, 2);
  ASSERT_EQ(exchanges().size(), 1u);
  EXPECT_EQ(text(*exchanges()[0], "weir.incomplete"), "closed_early");
  EXPECT_EQ(text(*exchanges()[0], "http.response.status_code"), "(absent)");
  EXPECT_EQ(text(*exchanges()[0], "weir.duration_ns"), "1000000000");
}

TEST_F(Native, ARefusedMessageLeavesItsStartLineAndTheNameOfTheError) {
  opened(1, kOrigin);
  View(engine(), 1, Tap::native)
      .sent(get("/twice"), 1)
      .received("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\na", 1.5);
  closed(1, 2);
  ASSERT_EQ(exchanges().size(), 1u);
  const Record& record = *exchanges()[0];
  EXPECT_EQ(record.status_code, 200);
  EXPECT_EQ(text(record, "http.response.status_code"), "200");
  EXPECT_EQ(text(record, "http.response.header.content-length"), "1");
  EXPECT_EQ(text(record, "error.type"), "malformed_response");
  EXPECT_EQ(text(record, "weir.error.detail"), "Duplicate Content-Length");
}

TEST_F(Native, WhatIsClosedEarlyLastsUntilItsStreamOrConnectionEnded) {
  opened(1, kOrigin);
  View(engine(), 1, Tap::native).sent(get("/stream"), 1).ended(3.5);
  closed(1, 5);
  opened(2, kOrigin);
  View(engine(), 2, Tap::native).sent(get("/broken-off"), 1).ended(3, true);
  closed(2, 5);
  opened(3, kOrigin);
  http::test::Client client;
  View(engine(), 3, Tap::native).sent(client.open(), 1).sent(client.get(1, "/h2"), 1.5);
  closed(3, 4);
  ASSERT_EQ(exchanges().size(), 3u);
  for (const RecordPtr& record : exchanges()) EXPECT_EQ(text(*record, "weir.incomplete"), "closed_early");
  EXPECT_EQ(text(*exchanges()[0], "weir.duration_ns"), "2500000000");
  EXPECT_EQ(text(*exchanges()[1], "weir.duration_ns"), "2000000000");
  EXPECT_EQ(text(*exchanges()[2], "weir.duration_ns"), "2500000000");
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

TEST_F(Native, InTheClearTheSocketsEndIsTheMessages) {
  const std::string answer = "HTTP/1.1 200 OK\r\n\r\nall of it";
  const auto close = [&](std::uint64_t cookie, bool received_end, std::uint64_t taken) {
    ConnectionClosed event{.time = at(5), .cookie = {cookie}, .received_end = received_end};
    event.bytes_received = answer.size();
    event.plaintext_sent = event.bytes_sent = get("/x").size();
    event.plaintext_received = taken;
    engine().consume(event);
  };
  for (const std::uint64_t cookie : {1, 2, 3}) {
    opened(cookie, kOrigin);
    View(engine(), cookie, Tap::native).in_the_clear().sent(get("/x"), 1).received(answer, 2);
  }
  close(1, true, answer.size());
  close(2, false, answer.size());
  close(3, true, answer.size() - 1);
  ASSERT_EQ(exchanges().size(), 3u);
  EXPECT_EQ(text(*exchanges()[0], "weir.incomplete"), "(absent)");
  EXPECT_EQ(text(*exchanges()[1], "weir.incomplete"), "closed_early") << "a reset, say";
  EXPECT_EQ(text(*exchanges()[2], "weir.incomplete"), "closed_early") << "not all was taken";
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

TEST_F(Native, DnsIsRecordedWithItsProcess) {
  engine().consume(Dns{at(1), kCurl, "example.test", {"192.0.2.7", "192.0.2.8"}});
  ASSERT_EQ(of(RecordKind::dns).size(), 1u);
  EXPECT_EQ(text(*of(RecordKind::dns)[0], "dns.answers"), "192.0.2.7|192.0.2.8");
  EXPECT_EQ(text(*of(RecordKind::dns)[0], "process.executable.name"), "curl");
}

}  // namespace
}  // namespace weir::test
