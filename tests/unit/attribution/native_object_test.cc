// Whose bytes they are: TLS objects without a socket yet, used again, older than the source, of a server.
#include "tests/unit/attribution/native.h"

namespace weir::test {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

TEST_F(Native, BytesThatComeTwiceCountOnce) {
  opened(1, kOrigin);
  View tls(engine(), 1, Tap::native);
  tls.sent(get("/a"), 1);
  tls.offset(Direction::sent) = 0;
  tls.sent(get("/a"), 1.1).received(ok("x"), 2);
  EXPECT_EQ(exchanges().size(), 1u);
  EXPECT_EQ(engine().counters().duplicate_bytes_dropped, get("/a").size());
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
  const ProcessKey kChild{1001, kCurl.start_boottime_ns + 1};
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
  event.tuple = {endpoint("10.0.0.1", 443), endpoint("10.0.0.9", 1234)};
  event.owner = kCurl;
  event.accepted = true;
  engine().consume(event);
  View(engine(), 5, Tap::native).received(get("/in"), 1).sent(ok("x"), 2);
  EXPECT_THAT(summary(), ElementsAre("native https://example.test/in"));
  closed(5, 3);
  ASSERT_EQ(connections().size(), 1u);
  const Record& connection = *connections()[0];
  EXPECT_EQ(text(connection, "server.address"), "10.0.0.1");
  EXPECT_EQ(text(connection, "server.port"), "443");
  EXPECT_EQ(text(connection, "network.peer.port"), "1234");
  EXPECT_EQ(text(connection, "weir.ingress"), "true");
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

}  // namespace
}  // namespace weir::test
