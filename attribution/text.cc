// Small text helpers. ASCII rules only: the locale must never change what a record says.
#include "attribution/text.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>

#include "http/message.h"

namespace weir {
namespace {

constexpr std::string_view kBase64 = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
constexpr std::uint8_t kNotBase64 = 64;

constexpr std::array<std::uint8_t, 256> kBase64Values = [] {
  std::array<std::uint8_t, 256> values{};
  values.fill(kNotBase64);
  for (std::size_t i = 0; i < kBase64.size(); ++i) {
    values[static_cast<unsigned char>(kBase64[i])] = static_cast<std::uint8_t>(i);
  }
  return values;
}();

// RFC 3629, section 4: what may follow a leading byte.
struct Lead {
  unsigned char first, last;
  std::size_t length;
  unsigned char second_min, second_max;
};
constexpr Lead kLeads[] = {
    {0x00, 0x7f, 1, 0, 0},       {0xc2, 0xdf, 2, 0x80, 0xbf}, {0xe0, 0xe0, 3, 0xa0, 0xbf},
    {0xe1, 0xec, 3, 0x80, 0xbf}, {0xed, 0xed, 3, 0x80, 0x9f}, {0xee, 0xef, 3, 0x80, 0xbf},
    {0xf0, 0xf0, 4, 0x90, 0xbf}, {0xf1, 0xf3, 4, 0x80, 0xbf}, {0xf4, 0xf4, 4, 0x80, 0x8f},
};

}  // namespace

std::size_t utf8_length(std::string_view text) {
  if (text.empty()) return 0;
  const auto at = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const auto* lead = std::ranges::find_if(
      kLeads, [&](const Lead& candidate) { return at(0) >= candidate.first && at(0) <= candidate.last; });
  if (lead == std::end(kLeads) || text.size() < lead->length) return 0;
  if (lead->length > 1 && (at(1) < lead->second_min || at(1) > lead->second_max)) return 0;
  for (std::size_t i = 2; i < lead->length; ++i) {
    if ((at(i) & 0xc0) != 0x80) return 0;
  }
  return lead->length;
}

bool is_utf8(std::string_view text) {
  while (!text.empty()) {
    const std::size_t length = utf8_length(text);
    if (length == 0) return false;
    text.remove_prefix(length);
  }
  return true;
}

std::string valid_json(std::string json) {
  if (is_utf8(json)) return json;
  std::string valid;
  for (std::string_view left = json; !left.empty();) {
    const std::size_t length = utf8_length(left);
    if (length == 0) {
      constexpr std::string_view kDigits = "0123456789abcdef";
      const auto byte = static_cast<unsigned char>(left.front());
      valid.append("\\u00").append(1, kDigits[byte >> 4]).append(1, kDigits[byte & 15]);
    } else {
      valid += left.substr(0, length);
    }
    left.remove_prefix(length == 0 ? 1 : length);
  }
  return valid;
}

std::string to_base64(std::span<const std::byte> data) {
  std::string text;
  text.reserve((data.size() + 2) / 3 * 4);
  for (std::size_t i = 0; i < data.size(); i += 3) {
    const std::size_t count = std::min<std::size_t>(3, data.size() - i);
    std::uint32_t group = 0;
    for (std::size_t j = 0; j < 3; ++j) {
      group = group << 8 | (j < count ? std::to_integer<std::uint32_t>(data[i + j]) : 0);
    }
    for (std::size_t j = 0; j < 4; ++j) text += j <= count ? kBase64[group >> (18 - 6 * j) & 63] : '=';
  }
  return text;
}

std::optional<std::vector<std::byte>> from_base64(std::string_view text) {
  if (text.size() % 4 != 0) return std::nullopt;
  std::size_t padding = 0;
  while (padding < 2 && !text.empty() && text.back() == '=') {
    text.remove_suffix(1);
    ++padding;
  }
  std::vector<std::byte> data;
  data.reserve(text.size() * 3 / 4);
  std::uint32_t bits = 0;
  unsigned held = 0;
  for (const char c : text) {
    const std::uint8_t value = kBase64Values[static_cast<unsigned char>(c)];
    if (value == kNotBase64) return std::nullopt;
    bits = bits << 6 | value;
    held += 6;
    if (held < 8) continue;
    held -= 8;
    data.push_back(static_cast<std::byte>(bits >> held & 0xff));
  }
  return data;
}

std::string to_lower(std::string_view text) {
  std::string lower(text);
  make_lower(lower);
  return lower;
}

// Eight characters at once; the last ones with some of those before them once more.
void make_lower(std::span<char> text) {
  using Block = unsigned char __attribute__((vector_size(8)));
  const auto lower_block = [&](std::size_t at) {
    Block block;
    std::memcpy(&block, &text[at], sizeof block);
    block |= (block - 'A' < 26) & 0x20;
    std::memcpy(&text[at], &block, sizeof block);
  };
  if (text.size() >= sizeof(Block)) {
    for (std::size_t at = 0; at + sizeof(Block) < text.size(); at += sizeof(Block)) lower_block(at);
    return lower_block(text.size() - sizeof(Block));
  }
  for (char& c : text) c = http::lower_letter(c);
}

bool is_host_name(std::string_view name) {
  constexpr std::size_t kMaxName = 253;
  const auto name_char = [](char c) {
    return is_letter(c) || is_digit(c) || c == '-' || c == '_' || c == '.';
  };
  return !name.empty() && name.size() <= kMaxName && name.front() != '.' && name.front() != '-' &&
         name.back() != '.' && name.find("..") == std::string_view::npos &&
         std::ranges::all_of(name, name_char);
}

}  // namespace weir
