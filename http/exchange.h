// An exchange: one request with its final response, as records are made of it, and the builder that makes
// exchanges of the two byte streams of an HTTP/1 connection (h2_exchange.h has HTTP/2's, exchange_builder.h
// the one that finds out which it is). Sans-IO; knows no process, socket or clock: times come with the bytes.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "http/h1_parser.h"
#include "http/message.h"

namespace weir::http {

using Time = std::chrono::sys_time<std::chrono::nanoseconds>;

struct Body {
  std::uint64_t size = 0;       // content bytes on the wire, transfer coding removed, content coding kept
  std::vector<std::byte> data;  // captured, if configured, up to the limit; without what a gap swallowed
  bool truncated = false;       // `data` is not all of it: over the limit, or a gap
};

// Messages of an exchange that is a conversation; `sent` by the client. Payload bytes are the wire's.
struct WebSocketCounts {
  std::uint64_t messages_sent = 0;
  std::uint64_t messages_received = 0;
  std::uint64_t bytes_sent = 0;
  std::uint64_t bytes_received = 0;
  bool operator==(const WebSocketCounts&) const = default;
};
struct GrpcCounts {
  std::uint64_t messages_sent = 0;
  std::uint64_t messages_received = 0;
  bool operator==(const GrpcCounts&) const = default;
};

struct Exchange {
  std::uint64_t number = 0;                // counts the exchanges of a connection from 0, as they began
  std::optional<std::uint64_t> stream_id;  // HTTP/2's
  RequestHead request;
  Body request_body;
  Fields request_trailers;
  std::optional<ResponseHead> response;  // the final one; empty when none came
  Body response_body;
  Fields response_trailers;
  std::vector<ResponseHead> interim_responses;  // 1xx, but a 101 only if HTTP went on after it
  Time began{};                                 // the request's first byte
  Time ended{};  // the last byte of whichever side ended last; if closed early, the stream's or connection's
                 // end
  std::uint64_t gap_bytes = 0;               // bytes of it known to be missing
  bool upgraded = false;                     // 101, or CONNECT answered 2xx
  std::uint64_t sse_events = 0;              // server-sent events of an uncoded response
  std::optional<WebSocketCounts> websocket;  // asked for and not refused
  std::optional<GrpcCounts> grpc;
  std::string protocol_error;         // "": none; otherwise one of the names below
  std::string protocol_error_detail;  // for people
  // Why it is not whole: "" whole, "gap", "joined_midstream", "closed_early".
  std::string incomplete;
  // False: a copy of what is known so far of an exchange that goes on; more copies may come, and the final
  // one does. What they are given for is in stream_watch.h.
  bool final = true;
  bool copied = false;  // such copies were given
};

enum class Side : std::uint8_t { request, response };

// The names of what is wrong with an exchange. The first: a message of it was refused, or one before it,
// behind which it can't be told.
std::string_view error_of_refused(Side side, ParseError::Kind kind);
inline constexpr std::string_view kMalformedHttp2 = "malformed_http2";  // its connection's frames
inline constexpr std::string_view kMalformedWebSocket = "malformed_websocket";
inline constexpr std::string_view kTooManyPending = "too_many_pending";  // given up, with others open
// The first error stays.
void note_error(Exchange& exchange, std::string_view error, std::string_view detail);

// What all connections of one engine keep of responses that came before their requests. Single-threaded.
struct EarlyBytes {
  std::size_t most = std::size_t{64} * 1024 * 1024;
  std::size_t now = 0;
};

// One connection's part of it.
class EarlyShare {
 public:
  explicit EarlyShare(EarlyBytes* all) : all_(all) {}
  EarlyShare(const EarlyShare&) = delete;
  EarlyShare& operator=(const EarlyShare&) = delete;
  ~EarlyShare() { clear(); }

  // False: it has more than `most`, or all have more than they may. It counts nevertheless.
  bool add(std::size_t bytes, std::size_t most) {
    bytes_ += bytes;
    if (all_ != nullptr) all_->now += bytes;
    return bytes_ <= most && (all_ == nullptr || all_->now <= all_->most);
  }
  void remove(std::size_t bytes) {
    bytes_ -= bytes;
    if (all_ != nullptr) all_->now -= bytes;
  }
  void clear() { remove(bytes_); }

 private:
  EarlyBytes* all_;
  std::size_t bytes_ = 0;
};

struct ExchangeLimits {
  H1Limits h1;  // of requests
  H1Limits h1_response = kResponseLimits;
  const H1Limits& of(Side side) const { return side == Side::request ? h1 : h1_response; }
  bool capture_bodies = false;
  std::size_t body_bytes = std::size_t{8} * 1024 * 1024;
  // Requests without an answer. Beyond it an HTTP/1 connection is given up, and of an HTTP/2 connection's
  // streams the oldest.
  std::size_t pending = 1000;
  // Response bytes that arrived before their request, held back: a thread that is told of only when its write
  // returns may have waited for a processor while another read the answer.
  std::size_t early_response = std::size_t{4} * 1024 * 1024;
  EarlyBytes* early_bytes = nullptr;  // of all connections; lives longer than what has these limits
};

// Counts `content`, and captures as much of it as the limits and `room` allow. Returns how much that was.
std::size_t add_content(Body& body, std::span<const std::byte> content, const ExchangeLimits& limits,
                        std::size_t room = SIZE_MAX);

// What the bytes turned out to be.
enum class Protocol : std::uint8_t { undecided, http1, http2, other };

// An exchange is large: who takes it moves it out of the giver's hands.
using OnExchange = std::function<void(Exchange&&)>;

// Reads both byte streams of one connection and gives out its exchanges. Each protocol's reader says what it
// does about gaps; all may be fed the two sides in any interleaving, also a response's bytes before its
// request's.
class ExchangeReader {
 public:
  virtual ~ExchangeReader() = default;

  virtual void feed(Side side, std::span<const std::byte> data, Time when) = 0;
  // `length` bytes of that side are missing here. A connection joined in its middle is told by a gap on both
  // sides, of length 0 if need be, before any bytes.
  virtual void gap(Side side, std::uint64_t length, Time when) = 0;
  // That side sends no more: completes a body that runs until close. Needed before finish() for such a body
  // to count as whole.
  virtual void end(Side side, Time when) = 0;
  // Gives out what is open, as closed_early, and drops the rest.
  virtual void finish(Time when) = 0;
  // Gives out the interim copies that waited for `now`. When the next is due; none: none waits.
  virtual std::optional<Time> give_held_back(Time now) = 0;

  virtual Protocol protocol() const = 0;
  // Bytes that belong to no exchange.
  virtual std::uint64_t unparsed_bytes(Side side) const = 0;
  // Nothing open, nothing pending, no message or frame begun.
  virtual bool idle() const = 0;
};

// HTTP/1, through the strict parser: pairs requests with responses; keep-alive, pipelining, chunked, HEAD,
// 1xx/204/304, upgrade, bodies until close.
//
// A gap inside content of known length is skipped and counted; otherwise the exchange is given out as
// incomplete ("gap") and that side looks for the start of its next message. From then on a response is paired
// only with a request that was waiting when it began; on a connection that pipelines, where this proves
// nothing, pairing ends.
//
// Unparsed is what isn't HTTP, follows an upgrade that nobody here reads, or an error.
class H1ExchangeBuilder final : public ExchangeReader {
 public:
  H1ExchangeBuilder(ExchangeLimits limits, OnExchange on_exchange);
  ~H1ExchangeBuilder() override;

  void feed(Side side, std::span<const std::byte> data, Time when) override;
  void gap(Side side, std::uint64_t length, Time when) override;
  void end(Side side, Time when) override;
  void finish(Time when) override;
  std::optional<Time> give_held_back(Time now) override;
  Protocol protocol() const override;
  std::uint64_t unparsed_bytes(Side side) const override;
  bool idle() const override;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace weir::http
