// A record as one line of JSON, and times as RFC 3339. What comes out is always valid JSON and valid UTF-8,
// whatever bytes a peer put into a header.
#include "attribution/record_json.h"

#include <algorithm>
#include <array>
#include <bit>
#include <charconv>
#include <cstring>

#include "attribution/text.h"

namespace weir {
namespace {

constexpr std::size_t kUsualLength = 2048;
constexpr std::size_t kLongestNumber = 20;  // characters of a 64-bit one, its sign included
constexpr std::string_view kHexDigits = "0123456789abcdef";

// By character: what needs no escape and is ASCII.
constexpr auto kPlain = [] {
  std::array<bool, 256> plain{};
  for (std::size_t c = 0x20; c < 0x7f; ++c) plain[c] = c != '"' && c != '\\';
  return plain;
}();

// Sixteen characters at once.
constexpr std::size_t kBlock = 16;
using Block = signed char __attribute__((vector_size(kBlock)));

// What isn't ASCII is negative.
bool all_plain(Block block) {
  const auto wrong = (block < 0x20) | (block == 0x7f) | (block == '"') | (block == '\\');
  const auto halves = std::bit_cast<std::array<std::uint64_t, 2>>(wrong);
  return (halves[0] | halves[1]) == 0;
}

bool all_plain(std::uint64_t a, std::uint64_t b) {
  return all_plain(std::bit_cast<Block>(std::array{a, b}));
}

template <typename Word>
Word word_at(const char* from) {
  Word word;
  std::memcpy(&word, from, sizeof word);
  return word;
}

// What a line is written in before it gets a place of its own size: to grow that one would be to copy it.
thread_local std::string scratch;
constexpr std::size_t kKeptBytes = std::size_t{64} << 10;

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

constexpr std::string_view kTimeShape = "0000-00-00T00:00:00.000000000Z";
using TimeText = std::array<char, kTimeShape.size()>;

void set_digits(TimeText& text, std::size_t at, std::size_t count, unsigned value) {
  for (std::size_t i = at + count; i > at; --i, value /= 10)
    text[i - 1] = static_cast<char>('0' + value % 10);
}

// A Time's year has four digits: 1677 to 2262.
TimeText second_text(std::chrono::sys_seconds time) {
  const auto day = std::chrono::floor<std::chrono::days>(time);
  const std::chrono::year_month_day date(day);
  const std::chrono::hh_mm_ss clock(time - day);
  TimeText text;
  std::ranges::copy(kTimeShape, text.begin());
  set_digits(text, 0, 4, static_cast<unsigned>(static_cast<int>(date.year())));
  set_digits(text, 5, 2, static_cast<unsigned>(date.month()));
  set_digits(text, 8, 2, static_cast<unsigned>(date.day()));
  set_digits(text, 11, 2, static_cast<unsigned>(clock.hours().count()));
  set_digits(text, 14, 2, static_cast<unsigned>(clock.minutes().count()));
  set_digits(text, 17, 2, static_cast<unsigned>(clock.seconds().count()));
  return text;
}

// One record's time is mostly in the same second as that of the one before.
TimeText time_text(Time time) {
  struct Second {
    std::chrono::sys_seconds time;
    TimeText text;
  };
  thread_local Second last{{}, second_text({})};
  const auto second = std::chrono::floor<std::chrono::seconds>(time);
  if (last.time != second) last = {second, second_text(second)};
  TimeText text = last.text;
  set_digits(text, 20, 9, static_cast<unsigned>((time - second).count()));
  return text;
}

}  // namespace

RecordWriter::RecordWriter(const Record& record)
    : out_(std::move(scratch)), at_(out_.data()), end_(out_.data() + out_.size()) {
  room(kUsualLength);
  put('{');
  const TimeText time = time_text(record.timestamp);
  field("timestamp", std::string_view(time.data(), time.size()));
  field("weir.record", to_string(record.kind));
  field("weir.record.id", record.id);
  field("weir.final", record.final);
}

RecordWriter::~RecordWriter() {
  if (out_.size() <= kKeptBytes) scratch = std::move(out_);
}

void RecordWriter::field(std::string_view name, std::span<const std::string> values) {
  begin_list(name, {});
  for (const std::string& value : values) item(value);
  end_list();
}

void RecordWriter::joined(std::string_view name, std::initializer_list<std::string_view> parts) {
  key(name);
  put('"');
  for (const std::string_view part : parts) characters(part);
  put('"');
  put(',');
}

void RecordWriter::begin_list(std::string_view prefix, std::string_view name) {
  put('"');
  raw(prefix);
  characters(name);
  put('"');
  put(':');
  put('[');
}

void RecordWriter::end_list() {
  if (at_[-1] == ',') --at_;
  put(']');
  put(',');
}

std::string RecordWriter::finish() {
  at_[-1] = '}';
  return {out_.data(), static_cast<std::size_t>(at_ - out_.data())};
}

void RecordWriter::grow(std::size_t count) {
  const auto used = static_cast<std::size_t>(at_ - out_.data());
  out_.resize(std::max(2 * out_.size(), used + count + kPunctuation));
  at_ = out_.data() + used;
  end_ = out_.data() + out_.size();
}

void RecordWriter::text(std::string_view value) {
  put('"');
  characters(value);
  put('"');
  put(',');
}

void RecordWriter::escaped(std::string_view value) {
  while (!value.empty()) {
    value.remove_prefix(character(value));
    room(value.size());
    value.remove_prefix(plain(value));
  }
}

// Copies up to what isn't plain, and returns how many bytes that were. A text that is no multiple of a block
// long ends with a block that overlaps the one before, a short one is two words that overlap. There is room.
std::size_t RecordWriter::plain(std::string_view value) {
  char* const to = at_;
  const char* const from = value.data();
  const std::size_t size = value.size();
  std::size_t done = 0;
  const auto copy_block = [&](std::size_t at) {
    Block block;
    std::memcpy(&block, from + at, kBlock);
    const bool good = all_plain(block);
    if (good) std::memcpy(to + at, &block, kBlock);
    return good;
  };
  const auto copy_words = [&]<typename Word>(Word) {
    const std::size_t last = size - sizeof(Word);
    const auto first_word = word_at<Word>(from), last_word = word_at<Word>(from + last);
    constexpr std::uint64_t kFiller = sizeof(Word) == 8 ? 0 : std::uint64_t{0x20202020} << 32;
    if (!all_plain(first_word | kFiller, last_word | kFiller)) return;
    std::memcpy(to, &first_word, sizeof(Word));
    std::memcpy(to + last, &last_word, sizeof(Word));
    done = size;
  };
  if (size >= kBlock) {
    while (size - done >= kBlock && copy_block(done)) done += kBlock;
    if (size - done < kBlock && copy_block(size - kBlock)) done = size;
  } else if (size >= 8) {
    copy_words(std::uint64_t{});
  } else if (size >= 4) {
    copy_words(std::uint32_t{});
  }
  for (; done < size && kPlain[static_cast<unsigned char>(from[done])]; ++done) to[done] = from[done];
  at_ = to + done;
  return done;
}

// Returns how many bytes of `value` it wrote.
std::size_t RecordWriter::character(std::string_view value) {
  const auto byte = static_cast<unsigned char>(value[0]);
  const std::size_t length = utf8_length(value);
  if (byte == '"' || byte == '\\') {
    const char escape[] = {'\\', value[0]};
    raw({escape, sizeof escape});
  } else if (length == 0 || byte < 0x20 || byte == 0x7f) {
    const char escape[] = {'\\', 'u', '0', '0', kHexDigits[byte >> 4], kHexDigits[byte & 15]};
    raw({escape, sizeof escape});
  } else {
    raw(value.substr(0, length));
  }
  return length == 0 ? 1 : length;
}

void RecordWriter::number(std::int64_t value) {
  char* const to = room(kLongestNumber);
  at_ = std::to_chars(to, to + kLongestNumber, value).ptr;
  put(',');
}

void RecordWriter::number(std::uint64_t value) {
  char* const to = room(kLongestNumber);
  at_ = std::to_chars(to, to + kLongestNumber, value).ptr;
  put(',');
}

std::string to_rfc3339(Time time) {
  const TimeText text = time_text(time);
  return {text.data(), text.size()};
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
  // Within what nanoseconds since 1970 can say.
  if (*year < 1678 || *year > 2261) return refuse();

  const std::size_t zone_at = text.find_first_of("Zz+-", 19);
  if (zone_at == std::string_view::npos) return refuse();
  const auto fraction = fraction_ns(text.substr(19, zone_at - 19));
  if (!fraction) return refuse();
  std::chrono::minutes offset{0};
  const std::string_view zone = text.substr(zone_at);
  if (zone != "Z" && zone != "z") {
    const auto zone_hours = digits(zone, 1, 2), zone_minutes = digits(zone, 4, 2);
    if (zone.size() != 6 || zone[3] != ':' || !zone_hours || !zone_minutes || *zone_hours > 23 ||
        *zone_minutes > 59)
      return refuse();
    offset = std::chrono::minutes(*zone_hours * 60 + *zone_minutes) * (zone[0] == '-' ? -1 : 1);
  }
  return Time(std::chrono::sys_days(date).time_since_epoch()) + std::chrono::hours(*hour) +
         std::chrono::minutes(*minute) + std::chrono::seconds(*second) + std::chrono::nanoseconds(*fraction) -
         offset;
}

}  // namespace weir
