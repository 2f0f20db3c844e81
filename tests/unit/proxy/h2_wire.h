// HTTP/2 frames by hand: what a well-behaved library would never send, and what it says to it.
#pragma once

#include <nghttp2/nghttp2.h>

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace weir::proxy::test {

inline const std::string kPreface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

using Pairs = std::vector<std::pair<std::string, std::string>>;

enum : std::uint8_t {
  kData,
  kHeaders,
  kPriority,
  kRst,
  kSettings,
  kPush,
  kPing,
  kGoaway,
  kWindow,
  kContinuation
};
enum : std::uint8_t { kEndStream = 1, kAck = 1, kEndHeaders = 4, kPadded = 8 };

inline std::string number(std::uint32_t value, int bytes) {
  std::string text;
  for (int i = bytes - 1; i >= 0; --i) text += static_cast<char>(value >> (8 * i));
  return text;
}

inline std::string frame(std::uint8_t type, std::uint8_t flags, std::uint32_t stream,
                         const std::string& payload = "") {
  return number(static_cast<std::uint32_t>(payload.size()), 3) + number(type, 1) + number(flags, 1) +
         number(stream, 4) + payload;
}

// Literals that are not indexed, without Huffman's code (RFC 7541, 6.2.2).
inline std::string literal_string(const std::string& text) {
  if (text.size() < 127) return number(static_cast<std::uint32_t>(text.size()), 1) + text;
  std::string length = number(127, 1);
  auto left = text.size() - 127;
  for (; left >= 128; left /= 128) length += static_cast<char>(left % 128 | 128);
  return length + static_cast<char>(left) + text;
}
inline std::string block(const Pairs& fields) {
  std::string text;
  for (const auto& [name, value] : fields) text += '\0' + literal_string(name) + literal_string(value);
  return text;
}

inline Pairs request_fields(const Pairs& more = {}, const std::string& method = "GET",
                            const std::string& path = "/") {
  Pairs all = {{":method", method}, {":scheme", "https"}, {":authority", "o.test"}, {":path", path}};
  all.insert(all.end(), more.begin(), more.end());
  return all;
}
inline std::string head(std::uint32_t stream, const Pairs& fields, bool ended = true) {
  return frame(kHeaders, static_cast<std::uint8_t>(kEndHeaders | (ended ? kEndStream : 0)), stream,
               block(fields));
}
inline std::string data(std::uint32_t stream, const std::string& content, bool ended = true) {
  return frame(kData, ended ? kEndStream : 0, stream, content);
}
inline std::string setting(std::uint32_t id, std::uint32_t value) {
  return number(id, 2) + number(value, 4);
}
inline const std::string kHello = kPreface + frame(kSettings, 0, 0);

struct Frame {
  std::uint8_t type = 0;
  std::uint8_t flags = 0;
  std::uint32_t stream = 0;
  std::string payload;
  Pairs fields;  // of the header section that it begins

  bool ends() const { return (flags & kEndStream) != 0; }
  std::uint32_t code() const {  // RST_STREAM's and GOAWAY's
    const std::size_t at = type == kGoaway ? 4 : 0;
    std::uint32_t value = 0;
    for (std::size_t i = at; i < at + 4 && i < payload.size(); ++i)
      value = value << 8 | static_cast<std::uint8_t>(payload[i]);
    return value;
  }
};

// Takes one direction's frames apart.
class FrameLog {
 public:
  FrameLog() {
    nghttp2_hd_inflater* made = nullptr;
    nghttp2_hd_inflate_new(&made);
    inflater_.reset(made);
  }

  void feed(std::span<const std::byte> bytes) {
    text_.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    for (;;) {
      if (!preface_done_ && kPreface.starts_with(text_.substr(0, kPreface.size()))) {
        if (text_.size() < kPreface.size()) return;
        text_.erase(0, kPreface.size());
      }
      preface_done_ = true;
      if (text_.size() < 9) return;
      const auto at = [this](std::size_t i) { return std::uint32_t{static_cast<std::uint8_t>(text_[i])}; };
      const std::size_t size = at(0) << 16 | at(1) << 8 | at(2);
      if (text_.size() < 9 + size) return;
      Frame one{static_cast<std::uint8_t>(at(3)),
                static_cast<std::uint8_t>(at(4)),
                at(5) << 24 | at(6) << 16 | at(7) << 8 | at(8),
                text_.substr(9, size),
                {}};
      text_.erase(0, 9 + size);
      if (one.type == kHeaders) head_ = all.size();
      if (one.type == kHeaders) block_.clear();
      if (one.type == kHeaders || one.type == kContinuation) block_ += one.payload;
      const bool whole =
          (one.type == kHeaders || one.type == kContinuation) && (one.flags & kEndHeaders) != 0;
      all.push_back(std::move(one));
      if (whole) all[head_].fields = inflate(block_);
    }
  }

  std::vector<Frame> of(std::uint32_t stream) const {
    std::vector<Frame> found;
    for (const auto& one : all)
      if (one.stream == stream) found.push_back(one);
    return found;
  }
  std::vector<Frame> of_type(std::uint8_t type) const {
    std::vector<Frame> found;
    for (const auto& one : all)
      if (one.type == type) found.push_back(one);
    return found;
  }
  std::string content(std::uint32_t stream) const {
    std::string text;
    for (const auto& one : of(stream))
      if (one.type == kData) text += one.payload;
    return text;
  }

  std::vector<Frame> all;

 private:
  Pairs inflate(const std::string& text) {
    Pairs fields;
    const auto* at = reinterpret_cast<const std::uint8_t*>(text.data());
    std::size_t left = text.size();
    for (;;) {
      nghttp2_nv nv{};
      int flags = 0;
      const auto taken = nghttp2_hd_inflate_hd2(inflater_.get(), &nv, &flags, at, left, 1);
      if (taken < 0) return {{"bad", "block"}};
      at += taken;
      left -= static_cast<std::size_t>(taken);
      if (flags & NGHTTP2_HD_INFLATE_EMIT)
        fields.emplace_back(std::string(reinterpret_cast<char*>(nv.name), nv.namelen),
                            std::string(reinterpret_cast<char*>(nv.value), nv.valuelen));
      if (flags & NGHTTP2_HD_INFLATE_FINAL) break;
    }
    nghttp2_hd_inflate_end_headers(inflater_.get());
    return fields;
  }

  struct Deleter {
    void operator()(nghttp2_hd_inflater* inflater) const { nghttp2_hd_inflate_del(inflater); }
  };
  std::unique_ptr<nghttp2_hd_inflater, Deleter> inflater_;
  std::string text_;
  std::size_t head_ = 0;  // the last HEADERS frame
  std::string block_;     // of its header section, so far
  bool preface_done_ = false;
};

}  // namespace weir::proxy::test
