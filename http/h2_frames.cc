// Frames by a table of what each type allows. Errors are those that RFC 9113 calls connection errors; what it
// wants ignored is ignored.
#include "http/h2_frames.h"

#include <algorithm>
#include <utility>

namespace weir::http {
namespace {

enum class OnStream : std::uint8_t { zero, some, either };

struct Shape {
  FrameType type;
  std::uint8_t flags;  // those that are defined
  OnStream stream;
  std::uint32_t min_length;
  std::uint32_t max_length;
  std::uint32_t unit = 1;  // the length is a multiple of it
  std::size_t fixed = 0;   // bytes at the front that are looked at, flags' fields aside
  bool paddable = false;
};

constexpr std::uint32_t kAny = 0xffffff;

constexpr std::array<Shape, 13> kShapes = {{
    {FrameType::data, 0x9, OnStream::some, 0, kAny, 1, 0, true},
    {FrameType::headers, 0x2d, OnStream::some, 0, kAny, 1, 0, true},
    {FrameType::priority, 0, OnStream::some, 5, 5},
    {FrameType::rst_stream, 0, OnStream::some, 4, 4, 1, 4},
    {FrameType::settings, 0x1, OnStream::zero, 0, kAny, 6},
    {FrameType::push_promise, 0xc, OnStream::some, 4, kAny, 1, 4, true},
    {FrameType::ping, 0x1, OnStream::zero, 8, 8},
    {FrameType::goaway, 0, OnStream::zero, 8, kAny, 1, 8},
    {FrameType::window_update, 0, OnStream::either, 4, 4},
    {FrameType::continuation, 0x4, OnStream::some, 0, kAny},
    {FrameType::altsvc, 0, OnStream::either, 2, kAny},
    {FrameType::origin, 0, OnStream::zero, 0, kAny},
    {FrameType::priority_update, 0, OnStream::zero, 4, kAny},
}};

constexpr std::size_t kPadLengthSize = 1;
constexpr std::size_t kPrioritySize = 5;

// An undecided frame header is kept no longer than this much text.
constexpr std::size_t kSeekWindow = std::size_t{64} * 1024;
constexpr std::size_t kMaxCandidates = 64;

const Shape* shape_of(const FrameHeader& header) {
  const auto* shape = std::ranges::find_if(kShapes, [&](const Shape& one) { return header.is(one.type); });
  return shape == kShapes.end() ? nullptr : shape;
}

std::optional<std::string_view> error_of(const FrameHeader& header, const Shape& shape) {
  if (shape.stream == OnStream::some && header.stream == 0) return "frame of a stream on stream 0";
  if (shape.stream == OnStream::zero && header.stream != 0) return "frame of the connection on a stream";
  const bool fits = header.length >= shape.min_length && header.length <= shape.max_length &&
                    header.length % shape.unit == 0;
  const bool ack_with_payload =
      header.is(FrameType::settings) && header.has(FrameFlag::end_stream) && header.length > 0;
  if (!fits || ack_with_payload) return "bad frame size";
  return std::nullopt;
}

bool leaves_block_open(const FrameHeader& header) {
  return header.carries_fields() && !header.has(FrameFlag::end_headers);
}

// Whether `second` may come right after `first` (RFC 9113, section 6.10).
bool may_follow(const FrameHeader& first, const FrameHeader& second) {
  if (!leaves_block_open(first)) return !second.is(FrameType::continuation);
  return second.is(FrameType::continuation) && second.stream == first.stream;
}

}  // namespace

std::uint32_t parse_stream_id(Bytes bytes) {
  std::uint32_t id = 0;
  for (const auto byte : bytes.first(4)) id = id << 8 | std::to_integer<std::uint32_t>(byte);
  return id & 0x7fffffff;
}

FrameHeader parse_frame_header(Bytes bytes) {
  const auto at = [&](std::size_t i) { return std::to_integer<std::uint8_t>(bytes[i]); };
  FrameHeader header;
  header.length = std::uint32_t{at(0)} << 16 | std::uint32_t{at(1)} << 8 | at(2);
  header.type = at(3);
  header.flags = at(4);
  header.stream = parse_stream_id(bytes.subspan(5));
  header.reserved = (at(5) & 0x80) != 0;
  return header;
}

// True once `upto` bytes of the frame's front are in the buffer.
bool FrameReader::gather(Bytes& data, std::size_t upto) {
  const auto take = std::min(upto - gathered_, data.size());
  std::ranges::copy(data.first(take), buffer_.begin() + static_cast<std::ptrdiff_t>(gathered_));
  data = data.subspan(take);
  gathered_ += take;
  taken_ += take;
  return gathered_ == upto;
}

std::expected<void, std::string_view> FrameReader::enter_payload() {
  header_ = parse_frame_header(buffer_);
  gathered_ = fixed_begin_ = fixed_end_ = 0;
  phase_ = Phase::fixed;
  const auto* shape = shape_of(header_);
  if (!shape) return {};
  if (const auto error = error_of(header_, *shape)) return std::unexpected(*error);
  if (shape->paddable && header_.has(FrameFlag::padded)) fixed_begin_ += kPadLengthSize;
  if (header_.is(FrameType::headers) && header_.has(FrameFlag::priority)) fixed_begin_ += kPrioritySize;
  fixed_end_ = fixed_begin_ + shape->fixed;
  if (fixed_end_ > header_.length) return std::unexpected("bad frame size");
  return {};
}

std::expected<void, std::string_view> FrameReader::enter_content() {
  const auto* shape = shape_of(header_);
  const bool padded = shape && shape->paddable && header_.has(FrameFlag::padded);
  padding_left_ = padded ? std::to_integer<std::uint64_t>(buffer_[0]) : 0;
  const std::uint64_t left = header_.length - fixed_end_;
  if (padding_left_ > left) return std::unexpected("more padding than payload");
  content_left_ = left - padding_left_;
  gathered_ = 0;
  phase_ = Phase::content;
  return {};
}

std::expected<FrameReader::Piece, std::string_view> FrameReader::take(Bytes& data) {
  using Kind = Piece::Kind;
  if (phase_ == Phase::header) {
    if (!gather(data, FrameHeader::kSize)) return Piece{};
    if (const auto entered = enter_payload(); !entered) return std::unexpected(entered.error());
  }
  if (phase_ == Phase::fixed) {
    if (!gather(data, fixed_end_)) return Piece{};
    if (const auto entered = enter_content(); !entered) return std::unexpected(entered.error());
    return Piece{Kind::begin};
  }
  auto& left = phase_ == Phase::content && content_left_ > 0 ? content_left_ : padding_left_;
  const auto piece = data.first(std::min<std::uint64_t>(left, data.size()));
  data = data.subspan(piece.size());
  taken_ += piece.size();
  left -= piece.size();
  if (&left == &content_left_) return piece.empty() ? Piece{} : Piece{Kind::content, piece};
  phase_ = Phase::padding;
  if (padding_left_ > 0) return Piece{};
  phase_ = Phase::header;
  frame_bytes_ = std::exchange(taken_, 0);
  return Piece{Kind::end};
}

bool FrameReader::skip(std::uint64_t length) {
  const bool inside = phase_ == Phase::content || phase_ == Phase::padding;
  const auto content = content_left();
  if (!inside || header_.carries_fields() || length > content + padding_left_) return false;
  content_left_ -= std::min(length, content);
  padding_left_ -= length - std::min(length, content);
  return true;
}

bool is_plausible(const FrameHeader& header, const FramesSought& sought) {
  const auto* shape = shape_of(header);
  if (!shape || error_of(header, *shape) || (header.flags & ~shape->flags) != 0) return false;
  if (header.reserved || header.length > sought.max_length || header.stream > sought.max_stream) return false;
  if (sought.side == Side::response) return !header.is(FrameType::push_promise) || header.stream % 2 == 1;
  const bool of_client = header.is(FrameType::data) || header.carries_fields();
  return !header.is(FrameType::push_promise) && (!of_client || header.stream % 2 == 1);
}

FrameSeeker::Verdict FrameSeeker::judge(std::size_t at, const FramesSought& sought) const {
  const auto text = bytes_of(text_);
  const auto first = parse_frame_header(text.subspan(at));
  if (first.is(FrameType::continuation) || !is_plausible(first, sought)) return Verdict::no;
  const auto end = at + first.wire_size();
  if (end == text.size()) return Verdict::yes;
  if (end + FrameHeader::kSize > text.size()) return Verdict::not_yet;
  const auto second = parse_frame_header(text.subspan(end));
  return is_plausible(second, sought) && may_follow(first, second) ? Verdict::yes : Verdict::no;
}

std::optional<std::size_t> FrameSeeker::search(const FramesSought& sought) {
  std::vector<std::size_t> undecided;
  const auto found = [&](std::size_t at) {
    const auto verdict = judge(at, sought);
    if (verdict == Verdict::not_yet && undecided.size() < kMaxCandidates) undecided.push_back(at);
    return verdict == Verdict::yes;
  };
  for (const auto at : candidates_) {
    if (found(at)) return at;
  }
  for (; searched_ + FrameHeader::kSize <= text_.size(); ++searched_) {
    if (found(searched_)) return searched_;
  }
  candidates_ = std::move(undecided);
  return std::nullopt;
}

bool FrameSeeker::feed(Bytes chunk, const FramesSought& sought, std::string& found) {
  text_ += text_of(chunk);
  const auto at = search(sought);
  if (!at) {
    forget_useless();
    return false;
  }
  discarded_ += *at;
  found = text_.substr(*at);
  text_.clear();
  clear();
  return true;
}

void FrameSeeker::forget_useless() {
  while (!candidates_.empty() && text_.size() - candidates_.front() > kSeekWindow)
    candidates_.erase(candidates_.begin());
  const auto useless = candidates_.empty() ? searched_ : candidates_.front();
  text_.erase(0, useless);
  for (auto& one : candidates_) one -= useless;
  searched_ -= useless;
  discarded_ += useless;
}

void FrameSeeker::clear() {
  discarded_ += text_.size();
  text_.clear();
  candidates_.clear();
  searched_ = 0;
}

}  // namespace weir::http
