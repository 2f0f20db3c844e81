// A record as a line for people: what it says, and that nothing from the wire can drive the terminal.
#include "agent/record_text.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace weir::agent {
namespace {

using testing::HasSubstr;

TEST(RecordText, AnExchangeOnOneLine) {
  const auto* json = R"({"weir.record":"exchange","weir.record.id":"1","weir.final":true,
    "timestamp":"2030-01-31T12:34:56.789123456Z","weir.source":["native"],"process.executable.name":"curl",
    "process.pid":4711,"container.name":"web","http.request.method":"POST","url.full":"https://example.com/a?b",
    "http.response.status_code":200,"http.request.body.size":12,"http.response.body.size":15321,
    "weir.duration_ns":12345678,"weir.decision":"bumped"})";
  EXPECT_EQ(record_text(json, TimeStyle::time_of_day),
            "12:34:56.789 curl[4711] in web POST https://example.com/a?b 200  12 B up, 15.3 kB down, 12.3 "
            "ms, native");
  EXPECT_THAT(record_text(json, TimeStyle::full), testing::StartsWith("2030-01-31T12:34:56.789Z curl"));
}

TEST(RecordText, WhatIsNotKnownIsNotMadeUp) {
  EXPECT_EQ(record_text(
                R"({"weir.record":"exchange","timestamp":"2030-01-31T12:34:56.789123456Z","weir.final":false,
                         "error.type":"tls","weir.incomplete":"gap"})",
                TimeStyle::time_of_day),
            "12:34:56.789 ?[?] ? ? -  ? up, ? down, ?, error: tls, incomplete: gap, still open");
}

TEST(RecordText, AConnectionSaysWhyItIsOpaque) {
  EXPECT_EQ(record_text(R"({"weir.record":"connection","timestamp":"2030-01-31T12:34:56.789123456Z",
                         "process.executable.name":"java","process.pid":1,"network.peer.address":"2001:db8::1",
                         "network.peer.port":443,"server.address":"example.com","weir.bytes.sent":1000,
                         "weir.bytes.received":999,"weir.opaque.reason":"quic","weir.decision":"passed_through"})",
                        TimeStyle::time_of_day),
            "12:34:56.789 java[1] connection to [2001:db8::1]:443 (example.com)  1.0 kB up, 999 B down, "
            "opaque: quic, "
            "passed_through");
}

TEST(RecordText, DroppedRecordsAndBrokenLinesAreShown) {
  EXPECT_EQ(record_text(R"({"weir.tail.dropped":12})", TimeStyle::full),
            "-- 12 records not shown: this reader was too slow");
  EXPECT_EQ(record_text("{\"half\x1b[", TimeStyle::full), "{\"half\\x1b[");
}

// Each of these, in any field, would move the cursor, change colours, set the title or turn the line around.
TEST(RecordText, NothingFromTheWireReachesTheTerminalAsItWas) {
  const auto text = record_text(
      R"({"weir.record":"exchange\u001b[1m","timestamp":"\u001b[2J","process.executable.name":"a\u001b]0;t\u0007",
       "container.name":"c\r","http.request.method":"G\u009b31m","url.full":"http://x/\u202egnp.exe\n",
       "weir.source":["\u001bc"],"error.type":"\u007f","weir.decision":"\u2028","weir.opaque.reason":"\b"})",
      TimeStyle::time_of_day);
  for (const char c : text) EXPECT_TRUE(c >= 0x20 && c < 0x7f) << text;
}

TEST(EscapeForTerminal, KeepsPlainTextAndShowsTheRestAsNumbers) {
  const struct {
    std::string_view raw, escaped;
  } cases[] = {
      {"plain ~ text", "plain ~ text"},
      {"gr\u00fc\u00dfe \u4f60\u597d \U0001f600", "gr\u00fc\u00dfe \u4f60\u597d \U0001f600"},
      {"\x1b[31m", "\\x1b[31m"},
      {"\u009b", "\\x9b"},
      {"\u202e\u2066\ufeff", "\\u202e\\u2066\\ufeff"},
      {"a\xff\xc3", "a\\xff\\xc3"},
      {"\xc0\x9b", "\\xc0\\x9b"},           // overlong
      {"\xe0\x80\x9b", "\\xe0\\x80\\x9b"},  // overlong
      {"\xed\xa0\x80", "\\xed\\xa0\\x80"},  // a surrogate
  };
  for (const auto& [raw, escaped] : cases) EXPECT_EQ(escape_for_terminal(raw), escaped);
}

TEST(RecordText, LongFieldsAreCutBetweenCharacters) {
  std::string url;
  for (int i = 0; i < 1'000; ++i) url += "\u00fc";
  const auto text = record_text(R"({"weir.record":"exchange","url.full":"x)" + url + "\"}", TimeStyle::full);
  EXPECT_LT(text.size(), 600u);
  EXPECT_THAT(text, HasSubstr("\u00fc..."));
  EXPECT_THAT(text, testing::Not(HasSubstr("\\x")));
}

}  // namespace
}  // namespace weir::agent
