// Lines and fields: our checks in front, llhttp behind them. Must never hand llhttp a line that ends in
// anything but CRLF, is folded, or has a name that isn't a token.
#include "http/h1_lines.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>
#include <cstring>

namespace weir::http {
namespace {

// llhttp knows a fixed list of methods and wants a start line first. Start lines are read by us (any token is
// a method), so fields are given to it under this one.
constexpr std::string_view kNeutralStartLine = "HTTP/1.1 200 OK\r\n";

constexpr std::size_t kUsualFields = 16;

constexpr std::array<bool, 256> token_characters() {
  std::array<bool, 256> table{};
  for (char c = '0'; c <= '9'; ++c) table[static_cast<unsigned char>(c)] = true;
  for (char c = 'a'; c <= 'z'; ++c) table[static_cast<unsigned char>(c)] = true;
  for (char c = 'A'; c <= 'Z'; ++c) table[static_cast<unsigned char>(c)] = true;
  for (const char c : std::string_view("!#$%&'*+-.^_`|~")) table[static_cast<unsigned char>(c)] = true;
  return table;
}
constexpr auto kToken = token_characters();

// What no rule is about, as long as it follows no CR.
constexpr auto kPlain = [] {
  std::array<bool, 256> table{};
  for (std::size_t c = 0x20; c < table.size(); ++c) table[c] = c != 0x7f;
  table['\t'] = true;
  return table;
}();

// Where the first byte of the block stands that isn't 0; 16 when there is none.
template <typename Block>
std::size_t first_set(Block block) {
  static_assert(std::endian::native == std::endian::little);  // the first byte is the lowest
  const auto halves = std::bit_cast<std::array<std::uint64_t, 2>>(block);
  return static_cast<std::size_t>(halves[0] != 0 ? std::countr_zero(halves[0])
                                                 : 64 + std::countr_zero(halves[1])) /
         8;
}

// Sixteen characters at once while all of them are plain; a tab, or what the last block leaves, goes one by
// one.
std::size_t plain_length(std::string_view text) {
  using Block = unsigned char __attribute__((vector_size(16)));
  std::size_t length = 0;
  for (; length + sizeof(Block) <= text.size(); length += sizeof(Block)) {
    Block block;
    std::memcpy(&block, text.data() + length, sizeof block);
    const auto other = ((block & 0xe0) == 0) | (block == 0x7f);
    const std::size_t at = first_set(other);
    if (at == sizeof(Block)) continue;
    length += at;
    if (text[length] != '\t') return length;
    break;
  }
  const auto plain = [](char c) { return kPlain[static_cast<unsigned char>(c)]; };
  return static_cast<std::size_t>(std::find_if_not(text.begin() + length, text.end(), plain) - text.begin());
}

ParseError malformed(std::string what) {
  return {ParseError::Kind::malformed, std::move(what), 0};
}

std::size_t token_length(std::string_view text) {
  const auto in_token = [](char c) { return kToken[static_cast<unsigned char>(c)]; };
  return static_cast<std::size_t>(std::ranges::find_if_not(text, in_token) - text.begin());
}

std::optional<ParseError> check_field_line(std::string_view line) {
  const auto name = token_length(line);
  if (name > 0 && name < line.size() && line[name] == ':') return std::nullopt;
  if (line.front() == ' ' || line.front() == '\t') return malformed("obs-fold in field section");
  const auto colon = line.find(':');
  if (colon == std::string_view::npos) return malformed("field line without a colon");
  return malformed("field name is not a token");
}

bool is_blank(char c) {
  return c == ' ' || c == '\t';
}

std::string_view trimmed(std::string_view value) {
  while (!value.empty() && is_blank(value.back())) value.remove_suffix(1);
  while (!value.empty() && is_blank(value.front())) value.remove_prefix(1);
  return value;
}

// Becomes a field's string where that stands.
struct Text {
  std::string_view text;
  // NOLINTNEXTLINE(google-explicit-constructor)
  operator std::string() const { return std::string(text); }
};

}  // namespace

bool is_token(std::string_view text) {
  return !text.empty() && token_length(text) == text.size();
}

std::expected<std::size_t, ParseError> LineReader::feed(std::span<const std::byte> data, std::size_t limit,
                                                        std::string_view what) {
  const auto text = std::string_view(reinterpret_cast<const char*>(data.data()), data.size());
  if (!text_.empty()) return gather(text, limit, what);
  const auto within = text.substr(0, limit);
  const std::size_t plain = plain_length(within);
  if (!within.substr(plain).starts_with("\r\n")) return gather(text, limit, what);
  complete_ = true;
  raw_ = within.substr(0, plain + 2);
  return raw_.size();
}

// Of a line that comes in pieces, or is refused.
std::expected<std::size_t, ParseError> LineReader::gather(std::string_view text, std::size_t limit,
                                                          std::string_view what) {
  std::size_t used = 0;
  if (!cr_) used = plain_length(text.substr(0, limit - std::min(limit, text_.size())));
  while (used < text.size() && !complete_) {
    const auto c = static_cast<unsigned char>(text[used]);
    const auto refuse = [&](std::string_view why, ParseError::Kind kind = ParseError::Kind::malformed) {
      return std::unexpected(ParseError{kind, std::string(why).append(what), used});
    };
    if (text_.size() + used == limit) return refuse("limit exceeded by ", ParseError::Kind::too_large);
    if (cr_ && c != '\n') return refuse("bare CR in ");
    if (!cr_ && c == '\n') return refuse("bare LF in ");
    if ((c < 0x20 && c != '\t' && c != '\r' && c != '\n') || c == 0x7f)
      return refuse("control character in ");
    ++used;
    cr_ = c == '\r';
    complete_ = c == '\n';
  }
  text_.append(text.substr(0, used));
  raw_ = text_;
  return used;
}

void LineReader::clear() {
  text_.clear();
  raw_ = {};
  cr_ = false;
  complete_ = false;
}

FieldSection::FieldSection() {
  llhttp_init(&fresh_, HTTP_RESPONSE, &callbacks());
  fresh_.data = this;
  llhttp_execute(&fresh_, kNeutralStartLine.data(), kNeutralStartLine.size());
  begin();
}

const llhttp_settings_t& FieldSection::callbacks() {
  static const llhttp_settings_t settings = [] {
    llhttp_settings_t s;
    llhttp_settings_init(&s);
    s.on_header_field = [](llhttp_t* parser, const char* at, std::size_t length) {
      static_cast<FieldSection*>(parser->data)->name_ = {at, length};
      return 0;
    };
    s.on_header_value = [](llhttp_t* parser, const char* at, std::size_t length) {
      static_cast<FieldSection*>(parser->data)->value_ = {at, length};
      return 0;
    };
    s.on_headers_complete = [](llhttp_t*) -> int { return HPE_PAUSED; };
    return s;
  }();
  return settings;
}

void FieldSection::begin() {
  parser_ = fresh_;
  fields_.clear();
}

std::optional<ParseError> FieldSection::add(const LineReader& line, std::size_t max_fields) {
  const bool last = line.line().empty();
  if (!last) {
    if (fields_.size() >= max_fields) return ParseError{ParseError::Kind::too_large, "too many fields", 0};
    if (auto error = check_field_line(line.line())) return error;
  }
  name_ = value_ = {};
  const auto result = llhttp_execute(&parser_, line.raw().data(), line.raw().size());
  if (result != (last ? HPE_PAUSED : HPE_OK)) return malformed(llhttp_get_error_reason(&parser_));
  // A line comes whole, so a name and a value do too. An empty value is told with the next line.
  if (last != name_.empty() || (last && !value_.empty())) return malformed("field section read in two ways");
  if (last) return std::nullopt;
  if (fields_.empty()) fields_.reserve(kUsualFields);
  fields_.emplace_back(Text{name_}, Text{trimmed(value_)});
  return std::nullopt;
}

}  // namespace weir::http
