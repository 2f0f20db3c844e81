// Connections that are older than the tap: what is told of them begins somewhere in the middle.
#include <gmock/gmock.h>

#include "tests/unit/attribution/scenario.h"
#include "tests/unit/http/h2_wire.h"

namespace weir::test {
namespace {

using http::test::Client;
using http::test::Server;
using testing::ElementsAre;
using testing::IsEmpty;

class Older : public Scenario {
 protected:
  void SetUp() override {
    Scenario::SetUp();
    process(kCurl, "/usr/bin/curl");
    ConnectionOpened event{.time = at(0), .cookie = {1}};
    event.tuple = {endpoint("10.0.0.1", 40000), kOrigin};
    event.owner = kCurl;
    event.before_start = true;
    engine().consume(event);
  }
  // What every record of the connection must say.
  void expect_facts(const Record& record) {
    EXPECT_EQ(record.pid, kCurl.pid);
    EXPECT_EQ(text(record, "network.local.port"), "40000");
    EXPECT_EQ(text(record, "network.peer.address"), "192.0.2.7");
  }
};

TEST_F(Older, Http1BeginsWithTheNextMessage) {
  const std::string in_flight = ok("answer to what was asked before");
  const std::string beginnings[] = {
      in_flight,             // all of an answer
      in_flight.substr(30),  // the rest of one
      "",
  };
  for (const std::string& beginning : beginnings) {
    SCOPED_TRACE(beginning);
    records_.clear();
    SetUp();
    View tls(engine(), 1, Tap::native);
    if (!beginning.empty()) tls.received(beginning, 0.5);
    EXPECT_THAT(exchanges(), IsEmpty());
    tls.exchange("/new", "body", 1).exchange("/next", "", 2);
    ASSERT_THAT(summary(),
                ElementsAre("native https://example.test/new", "native https://example.test/next"));
    for (const RecordPtr& record : exchanges()) {
      expect_facts(*record);
      EXPECT_EQ(text(*record, "http.response.status_code"), "200");
      EXPECT_EQ(text(*record, "weir.incomplete"), "(absent)");
    }
    EXPECT_EQ(text(*exchanges()[0], "http.response.body.size"), "4");
    closed(1, 3);
    ASSERT_EQ(connections().size(), 1u);
    expect_facts(*connections()[0]);
    EXPECT_EQ(text(*connections()[0], "weir.incomplete"), "joined_midstream");
    EXPECT_EQ(text(*connections()[0], "weir.opaque.reason"), "(absent)");
  }
}

TEST_F(Older, TheRestOfAnUploadIsNobodysRequest) {
  View tls(engine(), 1, Tap::native);
  tls.sent(std::string(1000, 'b'), 0.5).received(ok("taken"), 0.6).exchange("/new", "body", 1);
  EXPECT_THAT(summary(), ElementsAre("native https://example.test/new"));
  EXPECT_EQ(text(*exchanges()[0], "http.response.body.size"), "4");
}

TEST_F(Older, FirstBytesTellAServer) {
  View tls(engine(), 1, Tap::native);
  tls.received(get("/asked"), 0.5).sent(ok("served"), 0.6);
  closed(1, 1);
  EXPECT_THAT(records_, IsEmpty());
}

// What a joined client refers to by an index of before is unknown; what it says anew, and what is in every
// client's table, is known.
TEST_F(Older, Http2SaysWhatItKnows) {
  Client client;
  Server server;
  client.open();
  client.get(1, "/before");
  const std::string in_flight = client.get(3, "/in-flight");
  server.ok(1, "old");
  View tls(engine(), 1, Tap::native);
  tls.received(server.ok(3, "in flight"), 0.5);
  tls.sent(client.get(5, "/new?token=secret&a=b"), 1).received(server.ok(5, "body"), 1.1);
  ASSERT_EQ(exchanges().size(), 1u);
  const Record& joined = *exchanges()[0];
  expect_facts(joined);
  EXPECT_EQ(text(joined, "weir.stream.id"), "5");
  EXPECT_EQ(text(joined, "http.request.method"), "GET");
  EXPECT_EQ(text(joined, "url.full"), "(absent)");
  EXPECT_EQ(text(joined, "url.path"), "/new");
  EXPECT_EQ(text(joined, "url.query"), "token=[redacted]&a=b");
  EXPECT_EQ(text(joined, "http.response.status_code"), "200");
  EXPECT_EQ(text(joined, "http.response.body.size"), "4");
  EXPECT_EQ(text(joined, "weir.incomplete"), "joined_midstream");

  client.resize(0);  // all is said anew
  client.resize(4096);
  tls.sent(client.get(7, "/whole"), 2).received(server.ok(7, ""), 2.1);
  ASSERT_EQ(exchanges().size(), 2u);
  const Record& whole = *exchanges()[1];
  EXPECT_EQ(text(whole, "url.full"), "https://a.test/whole");
  EXPECT_EQ(text(whole, "url.path"), "(absent)");

  tls.received(http::test::goaway(7), 3);
  closed(1, 4);
  EXPECT_EQ(exchanges().size(), 2u);
  ASSERT_EQ(connections().size(), 1u);
  EXPECT_EQ(text(*connections()[0], "weir.incomplete"), "joined_midstream");
}

// Another worker's connection: its streams' offsets have gone on.
TEST_F(Older, OffsetsThatWentOnAreNoGap) {
  View tls(engine(), 1, Tap::native);
  tls.skip(Direction::sent, 1000).skip(Direction::received, 5000).exchange("/new", "body", 1);
  ASSERT_THAT(summary(), ElementsAre("native https://example.test/new"));
  EXPECT_EQ(engine().counters().gap_bytes, 0u);
}

}  // namespace
}  // namespace weir::test
