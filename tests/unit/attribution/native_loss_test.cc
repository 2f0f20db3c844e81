// Bytes that passed and were not captured: counted to the byte, said of the exchange they hit, and of no
// other.
#include "tests/unit/attribution/native.h"

namespace weir::test {
namespace {

using testing::ElementsAre;

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

// With the gap and the recorded body these bytes make up what was said.
TEST_F(Native, WhatCannotBeToldBehindAGapIsCounted) {
  opened(1, kOrigin);
  View tls(engine(), 1, Tap::native);
  tls.sent(get("/"), 1).received("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", 2);
  tls.skip(Direction::received, 1000).received(std::string(35, 'x'), 3);
  tls.skip(Direction::received, 500).received(std::string(7, 'y'), 4);
  tls.exchange("/next", "z", 5);
  closed(1, 6);
  engine().advance(at(20));
  ASSERT_EQ(exchanges().size(), 2u);
  ASSERT_EQ(connections().size(), 1u);
  EXPECT_EQ(text(*connections()[0], "weir.gap.bytes"), "1500");
  EXPECT_EQ(text(*connections()[0], "weir.unparsed.bytes"), "42");
  EXPECT_EQ(engine().counters().unparsed_bytes, 42u);
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

}  // namespace
}  // namespace weir::test
