// Records as text: JSON whatever the bytes, times, filters; and the keys' own text forms.
#include "attribution/record_json.h"

#include <gtest/gtest.h>

#include <boost/json.hpp>
#include <cstdio>

#include "attribution/text.h"
#include "tests/unit/attribution/scenario.h"

namespace weir::test {
namespace {

Record sample() {
  Record record;
  record.id = "i";
  record.timestamp = Time(std::chrono::nanoseconds(1));
  return record;
}

std::string with(std::string_view key, std::string_view value) {
  RecordWriter out(sample());
  out.field(key, value);
  return out.finish();
}

TEST(RecordJson, KeysStandInTheirOrder) {
  RecordWriter out(sample());
  out.field("a", "x");
  out.field("b", std::uint64_t{18446744073709551615u});
  out.field("c", std::int64_t{-1});
  out.field("d", true);
  out.field("e", std::vector<std::string>{"1", "2"});
  out.field("f", std::vector<std::string>{});
  out.begin_list("g.", "h");
  out.item("3");
  out.end_list();
  EXPECT_EQ(
      out.finish(),
      R"({"timestamp":"1970-01-01T00:00:00.000000001Z","weir.record":"exchange","weir.record.id":"i",)"
      R"("weir.final":true,"a":"x","b":18446744073709551615,"c":-1,"d":true,"e":["1","2"],"f":[],"g.h":["3"]})");
}

TEST(RecordJson, EveryByteSurvivesInValidJson) {
  const std::pair<std::string, std::string> cases[] = {
      {"plain", R"("plain")"},
      {"q\"b\\", R"("q\"b\\")"},
      {std::string("\n\t\0\x1f\x7f", 5), R"("\u000a\u0009\u0000\u001f\u007f")"},
      {"gr\xc3\xbc\xc3\x9f \xe2\x82\xac \xf0\x9f\x8c\x8a",
       "\"gr\xc3\xbc\xc3\x9f \xe2\x82\xac \xf0\x9f\x8c\x8a\""},
      {"\xff", R"("\u00ff")"},
      {"a\xc3", R"("a\u00c3")"},
      {"\xc3(", R"("\u00c3(")"},
      {"\xc0\xaf", R"("\u00c0\u00af")"},                      // overlong
      {"\xed\xa0\x80", R"("\u00ed\u00a0\u0080")"},            // a surrogate
      {"\xf4\x90\x80\x80", R"("\u00f4\u0090\u0080\u0080")"},  // beyond the last code point
  };
  for (const auto& [in, out] : cases) {
    const std::string json = with("k", in);
    EXPECT_TRUE(json.ends_with(",\"k\":" + out + "}")) << json;
    boost::json::error_code error;
    boost::json::parse(json, error);
    EXPECT_FALSE(error) << json;
    EXPECT_TRUE(is_utf8(json));
  }
}

TEST(RecordJson, ACharacterIsEscapedWhereverItStands) {
  for (int byte = 0; byte < 0x80; ++byte) {
    const char c = static_cast<char>(byte);
    char escape[8] = {c};
    if (c == '"' || c == '\\') {
      std::snprintf(escape, sizeof escape, "\\%c", c);
    } else if (byte < 0x20 || byte == 0x7f) {
      std::snprintf(escape, sizeof escape, "\\u%04x", static_cast<unsigned>(byte));
    }
    for (std::size_t length = 0; length < 40; ++length) {
      for (std::size_t at = 0; at <= length; ++at) {
        const std::string before(at, '!'), after(length - at, '~');
        ASSERT_TRUE(with("k", before + c + after).ends_with(",\"k\":\"" + before + escape + after + "\"}"))
            << byte;
      }
    }
  }
}

TEST(RecordJson, ALongRecordIsAsAnyOther) {
  for (const std::size_t length : {2'000u, 2'040u, 2'048u, 100'000u}) {
    const std::string plain(length, 'x'), escaped(length, '"');
    RecordWriter out(sample());
    out.field("a", plain);
    out.field("b", std::vector<std::string>(length / 100, "\n"));
    out.field("c", escaped);
    out.field("d", std::int64_t{-9223372036854775807 - 1});
    const auto parsed = boost::json::parse(out.finish()).as_object();
    EXPECT_EQ(parsed.at("a").as_string(), plain);
    EXPECT_EQ(parsed.at("b").as_array().size(), length / 100);
    EXPECT_EQ(parsed.at("c").as_string(), escaped);
    EXPECT_EQ(parsed.at("d").as_int64(), -9223372036854775807 - 1);
  }
}

TEST(RecordJson, ARecordMayBeBegunWhileAnotherIsWritten) {
  RecordWriter outer(sample());
  outer.field("a", "1");
  const std::string inner = with("b", "2");
  EXPECT_TRUE(inner.ends_with(R"("b":"2"})"));
  EXPECT_TRUE(outer.finish().ends_with(R"("a":"1"})"));
}

TEST(Text, ValidJsonEscapesWhatIsNoUtf8) {
  EXPECT_EQ(valid_json("{\"a\":\"b\xff\x9b"
                       "c\xc3\xa9\"}"),
            "{\"a\":\"b\\u00ff\\u009bc\xc3\xa9\"}");
  EXPECT_EQ(valid_json("[]"), "[]");
}

TEST(Rfc3339, RoundTrips) {
  for (const std::string text : {"1970-01-01T00:00:00.000000000Z", "2024-02-29T23:59:59.123456789Z",
                                 "1969-12-31T23:59:59.999999999Z"}) {
    const auto time = parse_rfc3339(text);
    ASSERT_TRUE(time) << text;
    EXPECT_EQ(to_rfc3339(*time), text);
  }
  EXPECT_EQ(to_rfc3339(*parse_rfc3339("2026-01-01T01:30:00+01:30")), "2026-01-01T00:00:00.000000000Z");
  EXPECT_EQ(to_rfc3339(*parse_rfc3339("2026-01-01T00:00:00.5Z")), "2026-01-01T00:00:00.500000000Z");
  EXPECT_EQ(to_rfc3339(*parse_rfc3339("2025-12-31T23:00:00-01:00")), "2026-01-01T00:00:00.000000000Z");
}

TEST(Rfc3339, RefusesWhatIsNone) {
  for (const std::string text :
       {"", "2026", "2026-01-01", "2026-01-01T00:00:00", "2026-13-01T00:00:00Z", "2025-02-29T00:00:00Z",
        "2026-01-01T24:00:00Z", "2026-01-01T00:00:00.Z", "2026-01-01T00:00:00.1234567890Z",
        "2026-01-01T00:00:00+1:00", "2026-01-01T00:00:00Zx", "2026-01-01T00:00:00+24:00",
        "2026-01-01T00:00:00+00:60", "1677-12-31T00:00:00Z", "2262-01-01T00:00:00Z"}) {
    EXPECT_FALSE(parse_rfc3339(text)) << text;
  }
}

TEST(RecordFilter, SelectsByEachMember) {
  Record record = sample();
  record.pid = 7;
  record.executable_name = "curl";
  record.server_address = "api.Example.test";
  record.status_code = 404;
  const std::pair<RecordFilter, bool> cases[] = {
      {{}, true},
      {{.kinds = {RecordKind::connection}}, false},
      {{.kinds = {RecordKind::connection, RecordKind::exchange}}, true},
      {{.process_name = "curl"}, true},
      {{.process_name = "cur"}, false},
      {{.pid = 7}, true},
      {{.pid = 8}, false},
      {{.host = "api.example.test"}, true},
      {{.host = "example.test"}, false},
      {{.host = ".example.test"}, true},
      {{.host = "*.example.test"}, true},
      {{.host = "*.other.test"}, false},
      {{.status = "404"}, true},
      {{.status = "4xx"}, true},
      {{.status = "5xx"}, false},
      {{.status = "40"}, false},
      {{.since = Time(std::chrono::nanoseconds(1))}, true},
      {{.since = Time(std::chrono::nanoseconds(2))}, false},
      {{.process_name = "curl", .status = "2xx"}, false},
  };
  for (const auto& [filter, selected] : cases) {
    EXPECT_EQ(filter.matches(record), selected) << &filter - &cases[0].first;
  }
}

TEST(IpAddress, MappedAddressesAreUnmapped) {
  EXPECT_EQ(parse_ip_address("::ffff:192.0.2.7"), parse_ip_address("192.0.2.7"));
  EXPECT_EQ(endpoint("192.0.2.7", 443).to_string(), "192.0.2.7:443");
  EXPECT_EQ(endpoint("2001:DB8::1", 443).to_string(), "[2001:db8::1]:443");
  EXPECT_EQ(IpAddress{}.to_string(), "");
  EXPECT_EQ(parse_ip_address("192.0.2").family, IpAddress::Family::unknown);
  EXPECT_TRUE(parse_ip_address("127.8.8.8").is_loopback());
  EXPECT_TRUE(parse_ip_address("::1").is_loopback());
  EXPECT_FALSE(parse_ip_address("::").is_loopback());
  EXPECT_FALSE(parse_ip_address("10.0.0.1").is_loopback());
}

TEST(StartTimes, MatchWithinTheTickOfTheCoarserOne) {
  EXPECT_TRUE(start_matches(123'456'789, 123'456'789));
  EXPECT_TRUE(start_matches(123'456'789, 120'000'000));
  EXPECT_FALSE(start_matches(123'456'789, 123'456'788));
  EXPECT_FALSE(start_matches(123'456'789, 130'000'000));
  EXPECT_TRUE(start_matches(123'456'789, 0));
}

TEST(Base64, RoundTripsEveryLength) {
  std::vector<std::byte> data;
  for (int i = 0; i < 300; ++i) {
    EXPECT_EQ(from_base64(to_base64(data)), data);
    data.push_back(static_cast<std::byte>(i * 7));
  }
  EXPECT_EQ(to_base64(bytes_of("any")), "YW55");
  EXPECT_EQ(to_base64(bytes_of("an")), "YW4=");
  EXPECT_FALSE(from_base64("YW4"));
  EXPECT_FALSE(from_base64("Y!4="));
  EXPECT_FALSE(from_base64("===="));
}

}  // namespace
}  // namespace weir::test
