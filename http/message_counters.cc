// Small state machines; sizes come from the wire, so they are only ever subtracted from.
#include "http/message_counters.h"

#include <algorithm>
#include <string_view>

namespace weir::http {
namespace {

std::uint64_t number(Bytes bytes) {
  std::uint64_t value = 0;
  for (const auto byte : bytes) value = value << 8 | std::to_integer<std::uint64_t>(byte);
  return value;
}

// Moves bytes from the front of `data` to the buffer; true once `wanted` are there.
bool gather(Bytes& data, std::span<std::byte> buffer, std::size_t& gathered, std::size_t wanted) {
  const auto taken = std::min(wanted - gathered, data.size());
  std::ranges::copy(data.first(taken), buffer.subspan(gathered).begin());
  data = data.subspan(taken);
  gathered += taken;
  return gathered == wanted;
}

constexpr unsigned kContinuation = 0;
constexpr unsigned kBinary = 2;
constexpr unsigned kClose = 8;
constexpr unsigned kPong = 10;
constexpr std::uint64_t kLongestControl = 125;

constexpr unsigned kGrpcCompressed = 0x01;
constexpr unsigned kGrpcTrailers = 0x80;

}  // namespace

void SseCounter::feed(Bytes content) {
  for (const char c : text_of(content)) {
    const bool second_half = c == '\n' && after_cr_;
    after_cr_ = c == '\r';
    if (second_half) continue;
    if (c == '\r' || c == '\n') {
      end_line();
    } else {
      if (line_size_ < line_.size()) line_[line_size_] = c;
      ++line_size_;
    }
  }
}

void SseCounter::end_line() {
  constexpr std::string_view kData = "data:";
  if (line_size_ == 0) {
    events_ += has_data_ ? 1 : 0;
    has_data_ = false;
  } else if (line_size_ >= kData.size() - 1) {
    const auto line = std::string_view(line_.data(), std::min(line_size_, line_.size()));
    has_data_ = has_data_ || kData.starts_with(line);
  }
  line_size_ = 0;
}

// The line that goes on behind the loss says nothing.
void SseCounter::lost() {
  line_ = {};
  line_size_ = line_.size();
  after_cr_ = false;
}

std::size_t WebSocketCounter::feed(Bytes data) {
  while (!data.empty() && counts()) {
    if (!in_payload_) {
      if (gather(data, header_, gathered_, wanted_)) read_header();
    } else {
      const auto length = std::min<std::uint64_t>(left_, data.size());
      data = data.subspan(length);
      take_payload(length);
    }
  }
  return data.size();
}

// Of the header, what is there: its first two bytes say how long it is.
void WebSocketCounter::read_header() {
  const auto byte = [&](std::size_t i) { return std::to_integer<unsigned>(header_[i]); };
  const auto short_length = byte(1) & 0x7f;
  const std::size_t length_size = short_length == 127 ? 8 : short_length == 126 ? 2 : 0;
  const std::size_t mask_size = (byte(1) & 0x80) != 0 ? 4 : 0;
  wanted_ = 2 + length_size + mask_size;
  if (gathered_ < wanted_) return;
  left_ = length_size == 0 ? short_length : number(Bytes(header_).subspan(2, length_size));

  const bool final = (byte(0) & 0x80) != 0;
  const unsigned opcode = byte(0) & 0x0f;
  const bool control = opcode >= kClose;
  const bool known = opcode <= kBinary || (control && opcode <= kPong);
  const bool in_order =
      control ? final && left_ <= kLongestControl : (opcode == kContinuation) == in_message_;
  malformed_ = !known || !in_order || (byte(0) & 0x30) != 0 || left_ >> 63 != 0;
  in_payload_ = true;
  take_payload(0);
}

void WebSocketCounter::take_payload(std::uint64_t length) {
  const auto first = std::to_integer<unsigned>(header_[0]);
  const bool control = (first & 0x0f) >= kClose;
  left_ -= length;
  if (!control) bytes_ += length;
  if (left_ > 0 || malformed_) return;
  const bool final = (first & 0x80) != 0;
  if (!control) {
    messages_ += final ? 1 : 0;
    in_message_ = !final;
  }
  closed_ = closed_ || (first & 0x0f) == kClose;
  in_payload_ = false;
  gathered_ = 0;
  wanted_ = 2;
}

void WebSocketCounter::lost(std::uint64_t length) {
  if (in_payload_ && length <= left_) {
    take_payload(length);
  } else {
    lost_ = true;
  }
}

void GrpcCounter::feed(Bytes content) {
  while (!content.empty() && !lost_) {
    if (gathered_ < prefix_.size()) {
      if (!gather(content, prefix_, gathered_, prefix_.size())) return;
      left_ = number(Bytes(prefix_).subspan(1));
      const auto flags = std::to_integer<unsigned>(prefix_[0]);
      lost_ = (flags & ~(kGrpcCompressed | kGrpcTrailers)) != 0;
      take_payload(0);
    } else {
      const auto length = std::min<std::uint64_t>(left_, content.size());
      content = content.subspan(length);
      take_payload(length);
    }
  }
}

void GrpcCounter::take_payload(std::uint64_t length) {
  left_ -= length;
  if (left_ > 0 || lost_) return;
  const auto flags = std::to_integer<unsigned>(prefix_[0]);
  messages_ += (flags & kGrpcTrailers) == 0 ? 1 : 0;
  gathered_ = 0;
}

void GrpcCounter::lost(std::uint64_t length) {
  if (gathered_ == prefix_.size() && length <= left_) {
    take_payload(length);
  } else {
    lost_ = true;
  }
}

}  // namespace weir::http
