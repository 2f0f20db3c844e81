// Inside of H2ExchangeBuilder: the two byte streams of a connection, their frames and header compression.
// What is in the frames goes to H2Streams. Only h2_connection.cc and h2_exchange.cc include this.
#pragma once

#include <array>
#include <optional>
#include <string>
#include <string_view>

#include "http/exchange.h"
#include "http/h2_frames.h"
#include "http/h2_streams.h"
#include "http/hpack.h"

namespace weir::http {

// A header block that isn't complete.
struct H2OpenBlock {
  H2Streams::Head head;
  std::uint32_t stream = 0;
  std::uint32_t promised = 0;  // the stream that it promises; 0: none
  std::uint64_t wire = 0;      // of the frames that are complete
};

class H2Connection {
 public:
  H2Connection(const ExchangeLimits& limits, OnExchange on_exchange)
      : limits_(limits), streams_(limits, std::move(on_exchange)) {}

  void adopt(Exchange upgraded);
  void feed(Side side, Bytes data, Time when);
  void gap(Side side, std::uint64_t length, Time when);
  void end(Side side, Time when);
  void finish(Time when);
  std::optional<Time> give_held_back(Time now) { return streams_.give_held_back(now); }

  Protocol protocol() const { return protocol_; }
  std::uint64_t unparsed_bytes(Side side) const;
  bool idle() const;

 private:
  enum class Mode : std::uint8_t {
    start,  // before the preface is complete
    parsing,
    seeking,  // framing is lost
    opaque,   // for good
  };
  // One direction.
  struct Lane {
    explicit Lane(Side of) : side(of) {}

    Side side;
    Mode mode = Mode::start;
    std::string opening;  // of the preface, so far
    FrameReader reader;
    Time frame_began{};
    HpackDecoder hpack;
    std::optional<H2OpenBlock> block;
    std::array<std::byte, 6> setting{};
    std::size_t setting_size = 0;
    FrameSeeker seeker;
    std::string_view loss;  // why we don't know all of it; "": we do
    int failures = 0;       // since bytes came from outside
    std::uint64_t unparsed = 0;
  };
  using Result = std::expected<void, std::string_view>;

  Lane& lane(Side side) { return lanes_[static_cast<std::size_t>(side)]; }
  const Lane& lane(Side side) const { return lanes_[static_cast<std::size_t>(side)]; }
  FramesSought sought(const Lane& lane) const;

  void process(Lane& lane, Bytes data);
  Bytes read_opening(Lane& lane, Bytes data, std::string& text);
  Bytes parse(Lane& lane, Bytes data);
  void lose_framing(Lane& lane);
  void refuse(Lane& lane, std::string_view error);
  void close(Lane& lane);
  void close_all();
  void decide();

  Result begin_frame(Lane& lane);
  Result take_content(Lane& lane, Bytes content);
  Result end_frame(Lane& lane);
  Result begin_block(Lane& lane);
  Result end_block_part(Lane& lane);
  void take_settings(Lane& lane, Bytes content);

  ExchangeLimits limits_;
  H2Streams streams_;
  std::array<Lane, 2> lanes_ = {Lane(Side::request), Lane(Side::response)};
  Protocol protocol_ = Protocol::undecided;
  bool from_start_ = false;                     // it is certain that nothing was missed
  std::uint32_t max_frame_ = kDefaultMaxFrame;  // the largest that either side allowed
  Time now_{};
};

}  // namespace weir::http
