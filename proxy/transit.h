// What passes between the two halves of a connection whose sides need not speak the same HTTP: one exchange,
// its heads in HTTP/2's shape, its content both ways. The front half speaks with the client, the back half
// with the upstream; neither knows which protocol the other one speaks. Sans-IO, one thread.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "http/message.h"
#include "proxy/body_pace.h"
#include "proxy/own_answer.h"

namespace weir::proxy {

// RFC 9113, section 7: those that we send of ourselves.
namespace h2_error {
inline constexpr std::uint32_t kNone = 0;
inline constexpr std::uint32_t kProtocol = 1;
inline constexpr std::uint32_t kInternal = 2;
inline constexpr std::uint32_t kRefusedStream = 7;
inline constexpr std::uint32_t kCancel = 8;
inline constexpr std::uint32_t kEnhanceYourCalm = 11;
}  // namespace h2_error

// A header section as HTTP/2 has it: pseudo-header fields, then fields with names in lower case.
struct HeadBlock {
  http::Fields pseudo;
  http::Fields fields;
  std::vector<std::uint32_t> never_indexed;  // positions in `fields`, rising (RFC 7541, section 7.1.3)

  // "" when there is none.
  std::string_view pseudo_value(std::string_view name) const {
    for (const auto& field : pseudo)
      if (field.name == name) return field.value;
    return {};
  }
  bool has_pseudo(std::string_view name) const {
    for (const auto& field : pseudo)
      if (field.name == name) return true;
    return false;
  }
};

// One direction's content: what has come and was not taken yet, and how it ends. Its size is bounded by the
// flow control of whoever puts into it.
class Content {
 public:
  void append(std::span<const std::byte> data) {
    if (begin_ > 0 && bytes_.size() + data.size() > bytes_.capacity()) compact();
    bytes_.insert(bytes_.end(), data.begin(), data.end());
  }
  std::span<const std::byte> front() const { return std::span(bytes_).subspan(begin_); }
  void take(std::size_t size) {
    begin_ += size;
    if (begin_ < bytes_.size()) return;
    begin_ = 0;
    // What an idle stream keeps is not worth an allocation for each piece, nor a window's worth of memory.
    if (bytes_.capacity() > kKept) std::vector<std::byte>().swap(bytes_);
    bytes_.clear();
  }
  std::size_t size() const { return bytes_.size() - begin_; }
  bool empty() const { return size() == 0; }

  void end(HeadBlock trailers = {}) {
    ended_ = true;
    trailers_ = std::move(trailers);
  }
  // No more comes, and what came is not whole: the taker's stream is to be reset with that code once it has
  // what came. Also after end(): then it needs no more of the other direction.
  void break_off(std::uint32_t code) { broken_off_ = code; }
  bool ended() const { return ended_; }
  std::optional<std::uint32_t> broken_off() const { return broken_off_; }
  const HeadBlock& trailers() const { return trailers_; }

 private:
  static constexpr std::size_t kKept = 32 * 1024;

  void compact() {
    bytes_.erase(bytes_.begin(), bytes_.begin() + static_cast<std::ptrdiff_t>(begin_));
    begin_ = 0;
  }

  std::vector<std::byte> bytes_;
  std::size_t begin_ = 0;
  bool ended_ = false;
  std::optional<std::uint32_t> broken_off_;
  HeadBlock trailers_;
};

// Heads of 1xx have no window that would hold them back: an upstream that sends more is given up.
inline constexpr unsigned kMostInterims = 64;

// One exchange on its way. The front owns it, from a request's head until the client's stream is closed.
struct Transit {
  std::int32_t client_stream = 0;
  std::int32_t upstream_stream = 0;  // the back's name for it
  bool at_back = false;              // the back knows it: cancel() it before it goes
  unsigned interims = 0;             // heads of 1xx that came
  bool answered = false;             // the client was given a final head
  bool known_length = false;         // the request's content has one
  BodyPace pace;                     // of that
  std::string method;
  Content request;   // from the client, taken by the back
  Content response;  // from the back, taken by the front
};

class Back {
 public:
  virtual ~Back() = default;
  // A request that may pass. With `ended` it has no content.
  virtual void start(Transit& transit, HeadBlock head, bool ended) = 0;
  // Something was put into `transit.request`, or it ended or broke off.
  virtual void request_arrived(Transit& transit) = 0;
  // So many bytes of `transit.response` are out of our hands.
  virtual void response_taken(Transit& transit, std::size_t size) = 0;
  // The client's stream is closed; the transit is about to go.
  virtual void cancel(Transit& transit, std::uint32_t code) = 0;
};

class Front {
 public:
  virtual ~Front() = default;
  virtual void interim(Transit& transit, const HeadBlock& head) = 0;
  virtual void response(Transit& transit, const HeadBlock& head, bool ended) = 0;
  virtual void response_arrived(Transit& transit) = 0;
  virtual void request_taken(Transit& transit, std::size_t size) = 0;
  // No response, or no more of it, will come: `answer` is for a client that has no head yet, else the content
  // breaks off with `code`. The back has forgotten the transit.
  virtual void failed(Transit& transit, std::uint32_t code, const OwnAnswer& answer) = 0;
  // The back has forgotten the transit, whose response has come whole, and takes no more of its request.
  virtual void done(Transit& transit) = 0;
  // The upstream takes no more requests on this connection, for that reason.
  virtual void upstream_leaves(std::uint32_t code, std::string_view why) = 0;
};

// May a request pass? Asked once for each well-formed one, before anything of it goes on.
class RequestJudge {
 public:
  virtual ~RequestJudge() = default;
  // An answer when it may not. `stream` is the client's.
  virtual std::optional<OwnAnswer> judge(std::int32_t stream, const HeadBlock& request) = 0;
  virtual void malformed() = 0;  // a request that comes no further
  // The same, and the stream's bytes don't show why it ended.
  virtual void malformed_stream(std::int32_t) { malformed(); }
  // The request passed, and its upstream failed: the client is about to be given that answer.
  virtual void upstream_failed(std::int32_t, const OwnAnswer&) {}
};

// The client's half as its owner moves it: bytes of the client in, bytes for it out.
class ClientSide : public Front {
 public:
  using Clock = std::chrono::steady_clock;

  // Before anything else: how many requests the upstream takes at once, and whether extended CONNECTs (RFC
  // 8441).
  virtual void open(std::uint32_t max_streams, bool connect_protocol) = 0;
  // The upstream takes another number of requests at once from now on.
  virtual void limit_streams(std::uint32_t max_streams) = 0;
  // False: no more of the client is read; what produce() still gives says why.
  virtual bool receive(std::span<const std::byte> data, Clock::time_point now) = 0;
  // Appends what is to be sent until `out` has about `most` bytes.
  virtual void produce(std::vector<std::byte>& out, std::size_t most) = 0;
  // No more requests; ends when those that are open have.
  virtual void leave() = 0;
  // Ends requests whose content comes too slowly, and gives how many; to be called now and then.
  virtual std::size_t end_slow_requests(Clock::time_point now) = 0;

  virtual bool wants_input() const = 0;
  virtual bool in_head() const = 0;   // a head has begun and isn't complete
  virtual bool idle() const = 0;      // no request is open
  virtual bool finished() const = 0;  // nothing to read or write any more
  virtual bool flooded() const = 0;
  virtual bool broke_off() const = 0;  // in the middle of a response, and only the connection's end can tell
};

}  // namespace weir::proxy
