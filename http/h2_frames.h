// HTTP/2 frames (RFC 9113, sections 4 and 6) as an observer reads them: a reader that takes one direction's
// bytes however they are cut, and the recognition of frames in bytes whose framing is lost. Frames aren't
// gathered: a payload passes by reference, piece by piece.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <expected>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "http/bytes.h"
#include "http/exchange.h"

namespace weir::http {

inline constexpr std::string_view kH2Preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
inline constexpr std::uint32_t kDefaultMaxFrame = 16384;

enum class FrameType : std::uint8_t {
  data = 0,
  headers = 1,
  priority = 2,
  rst_stream = 3,
  settings = 4,
  push_promise = 5,
  ping = 6,
  goaway = 7,
  window_update = 8,
  continuation = 9,
  altsvc = 10,           // RFC 7838
  origin = 12,           // RFC 8336
  priority_update = 16,  // RFC 9218
};

enum class FrameFlag : std::uint8_t {
  end_stream = 0x1,  // and a SETTINGS' or PING's ACK
  end_headers = 0x4,
  padded = 0x8,
  priority = 0x20,
};

struct FrameHeader {
  static constexpr std::size_t kSize = 9;

  std::uint32_t length = 0;  // of the payload
  std::uint8_t type = 0;     // any; FrameType names those that are known
  std::uint8_t flags = 0;
  std::uint32_t stream = 0;
  bool reserved = false;  // the bit that must be 0

  bool is(FrameType which) const { return type == static_cast<std::uint8_t>(which); }
  bool has(FrameFlag flag) const { return (flags & static_cast<std::uint8_t>(flag)) != 0; }
  // Its payload is (part of) a header block.
  bool carries_fields() const {
    return is(FrameType::headers) || is(FrameType::push_promise) || is(FrameType::continuation);
  }
  std::uint64_t wire_size() const { return kSize + std::uint64_t{length}; }
};

// `bytes` has at least FrameHeader::kSize.
FrameHeader parse_frame_header(Bytes bytes);
// Big-endian, of four bytes at the front, the reserved bit cleared.
std::uint32_t parse_stream_id(Bytes bytes);

class FrameReader {
 public:
  struct Piece {
    enum class Kind : std::uint8_t {
      none,     // all was taken
      begin,    // header() and fixed() are there
      content,  // the next part of the payload, without what fixed() has and without padding
      end,
    };
    Kind kind = Kind::none;
    Bytes content{};
  };

  // Takes from the front of `data`. Call it until it says none, also without data. After an error only
  // reset() helps.
  std::expected<Piece, std::string_view> take(Bytes& data);

  const FrameHeader& header() const { return header_; }
  // RST_STREAM's and GOAWAY's fields, PUSH_PROMISE's promised stream.
  Bytes fixed() const { return Bytes(buffer_).subspan(fixed_begin_, fixed_end_ - fixed_begin_); }
  bool between_frames() const { return phase_ == Phase::header && taken_ == 0; }
  // Of the current frame, so far; missing bytes don't count.
  std::uint64_t taken() const { return taken_; }
  // Of the frame that ended last.
  std::uint64_t frame_bytes() const { return frame_bytes_; }
  std::uint64_t content_left() const { return phase_ == Phase::content ? content_left_ : 0; }
  // `length` bytes are missing here. True if they lie inside the payload of a frame that can be read without
  // them.
  bool skip(std::uint64_t length);
  void reset() { *this = {}; }

 private:
  enum class Phase : std::uint8_t { header, fixed, content, padding };

  bool gather(Bytes& data, std::size_t upto);
  std::expected<void, std::string_view> enter_payload();
  std::expected<void, std::string_view> enter_content();

  Phase phase_ = Phase::header;
  FrameHeader header_;
  std::array<std::byte, 16> buffer_{};
  std::size_t gathered_ = 0;
  std::size_t fixed_begin_ = 0;
  std::size_t fixed_end_ = 0;
  std::uint64_t taken_ = 0;
  std::uint64_t frame_bytes_ = 0;
  std::uint64_t content_left_ = 0;
  std::uint64_t padding_left_ = 0;
};

// What frames of one direction may look like, as far as it is known.
struct FramesSought {
  Side side = Side::request;
  std::uint32_t max_length = kDefaultMaxFrame;
  std::uint32_t max_stream = 0x7fffffff;
};

bool is_plausible(const FrameHeader& header, const FramesSought& sought);

// Finds frames in a direction whose framing is lost: a frame header that another one follows, or whose frame
// ends where the chunk does (a chunk is mostly one call of a library, which ends with a frame).
class FrameSeeker {
 public:
  // True when frames were found: `found` is the text from there on, and the seeker is empty.
  bool feed(Bytes chunk, const FramesSought& sought, std::string& found);
  // Drops what it keeps.
  void clear();
  // What was passed over or dropped.
  std::uint64_t discarded() const { return discarded_; }
  bool empty() const { return text_.empty(); }

 private:
  enum class Verdict : std::uint8_t { no, not_yet, yes };

  Verdict judge(std::size_t at, const FramesSought& sought) const;
  std::optional<std::size_t> search(const FramesSought& sought);
  void forget_useless();

  std::string text_;
  std::size_t searched_ = 0;             // offsets before this one were judged
  std::vector<std::size_t> candidates_;  // of these, those that more bytes decide
  std::uint64_t discarded_ = 0;
};

}  // namespace weir::http
