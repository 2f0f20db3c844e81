// The exchanges that are open on an HTTP/2 connection, by stream: what the frames' contents mean for them,
// and when each is given out. Knows no frames' bytes; h2_connection.h reads those. Where something was lost
// it leaves out what it doesn't know.
//
// A response may be told before its request: its stream is early then, and waits for the request. What is
// told of any other unknown stream belongs to no exchange.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <map>
#include <string_view>
#include <utility>
#include <vector>

#include "http/bytes.h"
#include "http/exchange.h"
#include "http/hpack.h"
#include "http/stream_watch.h"

namespace weir::http {

class H2Streams {
 public:
  // A block with what isn't in it.
  struct Head {
    HeaderBlock block;
    std::string_view loss;  // why fields of it may be unknown
    bool last = false;      // ends the stream's side
    Time began{};
  };

  H2Streams(const ExchangeLimits& limits, OnExchange on_exchange)
      : limits_(limits), on_exchange_(std::move(on_exchange)) {}

  // The request that asked for HTTP/2 by an HTTP/1 upgrade: it is stream 1 (RFC 7540, section 3.2).
  void adopt(Exchange upgraded);

  // Each tells whether it was of an exchange. `wire`: the bytes of the frames that it came in.
  bool head(Side side, std::uint32_t id, Head head, std::uint64_t wire, Time now);
  bool promise(std::uint32_t id, Head head, Time now);
  // Whether the content of a DATA frame of that stream is an exchange's.
  bool takes_data(Side side, std::uint32_t id) const;
  void data(Side side, std::uint32_t id, Bytes content, Time now);
  void missing_data(Side side, std::uint32_t id, std::uint64_t length);
  bool data_ended(Side side, std::uint32_t id, std::uint64_t wire, bool last, Time now);

  void reset(Side side, std::uint32_t id, bool no_error, Time now);
  // That side takes up none of the other one's streams above `last`.
  void goaway(Side side, std::uint32_t last, Time now);
  // Frames of that side are missing.
  void lost(Side side);
  // That side sends no more.
  void ended(Side side, Time now);
  // Gives out all, as closed_early.
  void finish(Time now);
  // Gives out all, with that error.
  void fail(std::string_view error, Time now);

  std::optional<Time> give_held_back(Time now);

  bool empty() const { return streams_.empty(); }
  std::uint32_t highest() const { return std::max(highest_request_, highest_promise_); }
  // Bytes of early streams whose request never came.
  std::uint64_t dropped_bytes() const { return dropped_bytes_; }

 private:
  struct Stream {
    Exchange exchange;
    StreamWatch watch;
    bool early = false;
    bool request_done = false;
    bool response_begun = false;  // the final one's head was told
    bool response_done = false;
    bool request_doubt = false;  // its end may be lost
    bool response_doubt = false;
    bool reset = false;            // an early one
    std::uint64_t early_wire = 0;  // bytes of an early one's frames
    std::size_t early_cost = 0;    // bytes that are kept of it
  };

  static std::size_t index(Side side) { return static_cast<std::size_t>(side); }
  static void note_heads(Stream& stream);
  void give_interim(Stream& stream);
  std::vector<std::uint32_t> ids() const;
  Stream* find(std::uint32_t id);
  bool may_be_early(std::uint32_t id) const;
  Stream& open_early(std::uint32_t id);
  Stream& open(std::uint32_t id, Head& head);
  bool request_head(std::uint32_t id, Head& head, Time now);
  bool response_head(std::uint32_t id, Head& head, std::uint64_t wire, Time now);
  void take_response(Stream& stream, Head& head);
  void end_side(Side side, std::uint32_t id);
  static bool request_whole(const Stream& stream);
  static bool response_whole(const Stream& stream);
  void settle(std::uint32_t id);
  void give_up(std::uint32_t id, Time now);
  void give_out(std::uint32_t id);
  void drop_early_below(std::uint32_t id);
  void add_early_cost(std::uint32_t id, Stream& stream, std::size_t bytes);
  void hold_limit(Time now);

  ExchangeLimits limits_;
  OnExchange on_exchange_;
  std::map<std::uint32_t, Stream> streams_;
  std::uint64_t next_number_ = 0;
  std::uint32_t highest_request_ = 0;
  std::uint32_t highest_promise_ = 0;
  std::array<std::uint32_t, 2> last_taken_up_ = {0x7fffffff, 0x7fffffff};  // by side, as its GOAWAY said
  std::size_t captured_ = 0;  // bytes of bodies in open exchanges
  std::size_t early_ = 0;     // streams
  EarlyShare early_cost_{limits_.early_bytes};
  std::uint64_t dropped_bytes_ = 0;
  std::optional<Time> next_held_back_;  // the earliest of them, or before that
};

}  // namespace weir::http
