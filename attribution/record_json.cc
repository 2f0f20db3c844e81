// A record as one line of JSON, and times as RFC 3339. What comes out is always valid JSON and valid UTF-8,
// whatever bytes a peer put into a header.
#include <array>
#include <cstdio>

#include "attribution/record.h"
#include "attribution/text.h"

namespace weir {
namespace {

constexpr std::size_t kUsualLength = 2048;

void append_escape(std::string& out, unsigned char byte) {
  char text[8];
  std::snprintf(text, sizeof text, "\\u%04x", byte);
  out += text;
}

// By character: what needs no escape and is ASCII.
constexpr auto kPlain = [] {
  std::array<bool, 256> plain{};
  for (std::size_t c = 0x20; c < 0x7f; ++c) plain[c] = c != '"' && c != '\\';
  return plain;
}();

std::size_t plain_length(std::string_view text) {
  std::size_t length = 0;
  while (length < text.size() && kPlain[static_cast<unsigned char>(text[length])]) ++length;
  return length;
}

// Returns how many bytes of `text` it wrote.
std::size_t append_character(std::string& out, std::string_view text) {
  const auto byte = static_cast<unsigned char>(text[0]);
  const std::size_t length = utf8_length(text);
  if (byte == '"' || byte == '\\') {
    out += '\\';
    out += text[0];
  } else if (length == 0 || byte < 0x20 || byte == 0x7f) {
    append_escape(out, byte);
  } else {
    out += text.substr(0, length);
  }
  return length == 0 ? 1 : length;
}

void append(std::string& out, std::string_view text) {
  out += '"';
  while (!text.empty()) {
    const std::size_t plain = plain_length(text);
    out += text.substr(0, plain);
    text.remove_prefix(plain);
    if (!text.empty()) text.remove_prefix(append_character(out, text));
  }
  out += '"';
}
void append(std::string& out, const std::string& text) {
  append(out, std::string_view(text));
}
void append(std::string& out, bool value) {
  out += value ? "true" : "false";
}
void append(std::string& out, std::int64_t value) {
  out += std::to_string(value);
}
void append(std::string& out, std::uint64_t value) {
  out += std::to_string(value);
}
void append(std::string& out, const std::vector<std::string>& values) {
  out += '[';
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (i != 0) out += ',';
    append(out, values[i]);
  }
  out += ']';
}

template <typename Value>
void append_pair(std::string& out, std::string_view key, const Value& value) {
  if (out.back() != '{') out += ',';
  append(out, key);
  out += ':';
  append(out, value);
}

std::optional<int> digits(std::string_view text, std::size_t at, std::size_t count) {
  int value = 0;
  for (std::size_t i = at; i < at + count; ++i) {
    if (i >= text.size() || !is_digit(text[i])) return std::nullopt;
    value = value * 10 + (text[i] - '0');
  }
  return value;
}

// "", or a dot and up to nine digits: nanoseconds.
std::optional<std::int64_t> fraction_ns(std::string_view text) {
  if (text.empty()) return 0;
  if (text[0] != '.' || text.size() < 2 || text.size() > 10) return std::nullopt;
  std::string padded(text.substr(1));
  padded.resize(9, '0');
  const auto value = digits(padded, 0, 9);
  return value ? std::optional<std::int64_t>(*value) : std::nullopt;
}

}  // namespace

std::string to_json(const Record& record) {
  std::string out;
  out.reserve(kUsualLength);
  out = '{';
  append_pair(out, "timestamp", to_rfc3339(record.timestamp));
  append_pair(out, "weir.record", to_string(record.kind));
  append_pair(out, "weir.record.id", record.id);
  append_pair(out, "weir.final", record.final);
  for (const auto& [key, value] : record.fields) {
    std::visit([&](const auto& one) { append_pair(out, key, one); }, value);
  }
  out += '}';
  return out;
}

std::string to_rfc3339(Time time) {
  const auto day = std::chrono::floor<std::chrono::days>(time);
  const std::chrono::year_month_day date(day);
  const std::chrono::hh_mm_ss clock(time - day);
  char text[64];
  std::snprintf(text, sizeof text, "%04d-%02u-%02uT%02d:%02d:%02d.%09lldZ", static_cast<int>(date.year()),
                static_cast<unsigned>(date.month()), static_cast<unsigned>(date.day()),
                static_cast<int>(clock.hours().count()), static_cast<int>(clock.minutes().count()),
                static_cast<int>(clock.seconds().count()),
                static_cast<long long>(clock.subseconds().count()));
  return text;
}

std::expected<Time, std::string> parse_rfc3339(std::string_view text) {
  const auto refuse = [&] {
    return std::unexpected("\"" + std::string(text) + "\" is no time like 2026-01-31T12:00:00Z");
  };
  const auto year = digits(text, 0, 4), month = digits(text, 5, 2), day = digits(text, 8, 2);
  const auto hour = digits(text, 11, 2), minute = digits(text, 14, 2), second = digits(text, 17, 2);
  if (!year || !month || !day || !hour || !minute || !second) return refuse();
  const bool shaped = text[4] == '-' && text[7] == '-' && (text[10] == 'T' || text[10] == ' ') &&
                      text[13] == ':' && text[16] == ':';
  const std::chrono::year_month_day date(std::chrono::year(*year),
                                         std::chrono::month(static_cast<unsigned>(*month)),
                                         std::chrono::day(static_cast<unsigned>(*day)));
  if (!shaped || !date.ok() || *hour > 23 || *minute > 59 || *second > 60) return refuse();

  const std::size_t zone_at = text.find_first_of("Zz+-", 19);
  if (zone_at == std::string_view::npos) return refuse();
  const auto fraction = fraction_ns(text.substr(19, zone_at - 19));
  if (!fraction) return refuse();
  std::chrono::minutes offset{0};
  const std::string_view zone = text.substr(zone_at);
  if (zone != "Z" && zone != "z") {
    const auto zone_hours = digits(zone, 1, 2), zone_minutes = digits(zone, 4, 2);
    if (zone.size() != 6 || zone[3] != ':' || !zone_hours || !zone_minutes) return refuse();
    offset = std::chrono::minutes(*zone_hours * 60 + *zone_minutes) * (zone[0] == '-' ? -1 : 1);
  }
  return Time(std::chrono::sys_days(date).time_since_epoch()) + std::chrono::hours(*hour) +
         std::chrono::minutes(*minute) + std::chrono::seconds(*second) + std::chrono::nanoseconds(*fraction) -
         offset;
}

}  // namespace weir
