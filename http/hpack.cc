// The peers' SETTINGS_HEADER_TABLE_SIZE isn't followed: an encoder announces each change of its table's size
// in a header block (RFC 7541, section 4.2; RFC 9113, section 4.3.1), so it is enough to allow what it says.
#include "http/hpack.h"

#include <nghttp2/nghttp2.h>

#include <algorithm>
#include <charconv>
#include <utility>

namespace weir::http {
namespace {

// The largest table that an encoder may ask for; browsers' are 64 KiB, most others' 4 KiB.
constexpr std::uint32_t kMaxTable = std::uint32_t{256} * 1024;
// Of the entries that were there before a decoder joined. The smallest takes 32 bytes of a table (RFC 7541,
// section 4.1), so these are all of a table of 16 KiB, and in practice those of one of 64 KiB.
constexpr std::size_t kUnknownEntries = 512;

constexpr std::pair<std::string_view, std::string HeaderBlock::*> kPseudoFields[] = {
    {":method", &HeaderBlock::method},       {":scheme", &HeaderBlock::scheme},
    {":authority", &HeaderBlock::authority}, {":path", &HeaderBlock::path},
    {":protocol", &HeaderBlock::protocol},   {":status", &HeaderBlock::status}};

// A dynamic table size update (RFC 7541, section 6.3).
void append_table_size(std::string& block, std::uint32_t size) {
  constexpr std::uint32_t kPrefix = 31;
  block += static_cast<char>(0x20 | kPrefix);
  for (size -= kPrefix; size >= 0x80; size >>= 7) block += static_cast<char>(0x80 | (size & 0x7f));
  block += static_cast<char>(size);
}

// Fills a table with empty names and values, and leaves room for what comes.
std::string unknown_entries() {
  std::string block;
  append_table_size(block, kMaxTable);
  // Literals with incremental indexing (section 6.2.1): of a new name, then of the newest entry's name.
  constexpr char kNewName = 0x40;
  constexpr char kNewestName = 0x40 | 62;
  block += {kNewName, 0, 0};
  for (std::size_t i = 1; i < kUnknownEntries; ++i) block += {kNewestName, 0};
  return block;
}

void note(HeaderBlock& block, std::string_view error) {
  if (block.error.empty()) block.error = error;
}

void add_pseudo_field(HeaderBlock& block, std::string_view name, std::string_view value) {
  const auto* known = std::ranges::find(kPseudoFields, name, [](const auto& one) { return one.first; });
  if (known == std::end(kPseudoFields) || !block.fields.empty())
    return note(block, "bad pseudo-header field");
  block.pseudo = true;
  auto& slot = block.*known->second;
  if (!slot.empty()) return note(block, "repeated pseudo-header field");
  slot = value;
}

void add_field(HeaderBlock& block, std::string_view name, std::string_view value, const H1Limits& limits) {
  block.size += name.size() + value.size();
  if (name.empty()) {
    ++block.unknown;
  } else if (block.size > limits.head || block.fields.size() >= limits.fields) {
    block.too_large = block.too_large || block.error.empty();
    note(block, "header section too large");
  } else if (name.starts_with(':')) {
    add_pseudo_field(block, name, value);
  } else {
    block.fields.push_back({std::string(name), std::string(value)});
  }
}

bool is_status(std::string_view text) {
  return text.size() == 3 && text[0] >= '1' && text[0] <= '9' &&
         std::ranges::all_of(text, [](char c) { return c >= '0' && c <= '9'; });
}

bool is_plain_connect(const HeaderBlock& block) {
  return block.method == "CONNECT" && block.protocol.empty();
}

std::string_view view(const std::uint8_t* data, std::size_t size) {
  return {reinterpret_cast<const char*>(data), size};
}

}  // namespace

RequestHead request_head(HeaderBlock block) {
  RequestHead head;
  head.version = {2, 0};
  head.target = is_plain_connect(block) ? block.authority : std::move(block.path);
  head.method = std::move(block.method);
  head.scheme = std::move(block.scheme);
  head.protocol = std::move(block.protocol);
  head.fields = std::move(block.fields);
  if (!block.authority.empty() && !find_field(head.fields, "host"))
    head.fields.insert(head.fields.begin(), {"host", std::move(block.authority)});
  return head;
}

ResponseHead response_head(HeaderBlock block) {
  ResponseHead head;
  head.version = {2, 0};
  if (is_status(block.status))
    std::from_chars(block.status.data(), block.status.data() + block.status.size(), head.status);
  head.fields = std::move(block.fields);
  return head;
}

std::string request_error(const HeaderBlock& block) {
  if (!block.error.empty() || block.unknown > 0) return block.error;
  if (block.method.empty()) return "request without :method";
  const bool whole = is_plain_connect(block) ? !block.authority.empty() : !block.path.empty();
  return whole ? "" : "request without a target";
}

std::string response_error(const HeaderBlock& block) {
  if (!block.error.empty()) return block.error;
  if (block.status.empty()) return block.unknown > 0 ? "" : "response without :status";
  return is_status(block.status) ? "" : "bad :status";
}

void HpackDecoder::Free::operator()(nghttp2_hd_inflater* inflater) const {
  nghttp2_hd_inflate_del(inflater);
}

HpackDecoder::HpackDecoder() = default;
HpackDecoder::~HpackDecoder() = default;
HpackDecoder::HpackDecoder(HpackDecoder&&) noexcept = default;
HpackDecoder& HpackDecoder::operator=(HpackDecoder&&) noexcept = default;

HpackDecoder HpackDecoder::joined() {
  HpackDecoder decoder;
  decoder.joined_ = true;
  return decoder;
}

bool HpackDecoder::start() {
  nghttp2_hd_inflater* made = nullptr;
  if (nghttp2_hd_inflate_new(&made) != 0) return false;
  inflater_.reset(made);
  if (nghttp2_hd_inflate_change_table_size(made, kMaxTable) != 0) return false;
  if (!joined_) return true;
  HeaderBlock ignored;
  return decode(bytes_of(unknown_entries()), true, ignored, {});
}

bool HpackDecoder::decode(Bytes fragment, bool last, HeaderBlock& block, const H1Limits& limits) {
  if (!inflater_ && !start()) return false;
  while (true) {
    nghttp2_nv field{};
    int flags = 0;
    const auto used = nghttp2_hd_inflate_hd2(inflater_.get(), &field, &flags,
                                             reinterpret_cast<const std::uint8_t*>(fragment.data()),
                                             fragment.size(), last ? 1 : 0);
    if (used < 0) return false;
    fragment = fragment.subspan(static_cast<std::size_t>(used));
    const bool emitted = (flags & NGHTTP2_HD_INFLATE_EMIT) != 0;
    if (emitted) add_field(block, view(field.name, field.namelen), view(field.value, field.valuelen), limits);
    if ((flags & NGHTTP2_HD_INFLATE_FINAL) != 0) {
      nghttp2_hd_inflate_end_headers(inflater_.get());
      return true;
    }
    if (!emitted && fragment.empty()) return true;
  }
}

}  // namespace weir::http
