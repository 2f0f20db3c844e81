// One side of an HTTP/2 connection (RFC 9113): frames, header compression, flow control and streams by
// nghttp2, behind limits of our own. Bytes in, events to a handler, bytes out; nothing is sent or read here.
// What it receives is paid back to the sender's windows only by consumed().
#pragma once

#include <nghttp2/nghttp2.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "proxy/proxy.h"
#include "proxy/transit.h"

namespace weir::proxy {

class H2Session {
 public:
  enum class Role : std::uint8_t { server, client };
  using Clock = std::chrono::steady_clock;

  class Handler {
   public:
    virtual ~Handler() = default;
    // A header section is complete: a request or response, an interim response, or trailers. `too_large`: it
    // is over our limits, and what is here is not all of it.
    virtual void on_block(std::int32_t stream, HeadBlock block, bool ended, bool too_large) = 0;
    virtual void on_content(std::int32_t stream, std::span<const std::byte> data) = 0;
    virtual void on_end(std::int32_t stream) = 0;
    // The stream is no more: both sides ended it (`code` 0), the peer reset it or took it not up (`by_peer`),
    // or what the peer sent was malformed, or we reset it.
    virtual void on_closed(std::int32_t stream, std::uint32_t code, bool by_peer) = 0;
    virtual void on_settings() {}
    virtual void on_goaway(std::uint32_t, std::string_view) {}
    // What is to be sent on the stream; null: its sending is over.
    virtual Content* outgoing(std::int32_t stream) = 0;
    virtual void on_sent(std::int32_t stream, std::size_t size) = 0;
  };

  H2Session(Role role, const H2Limits& limits, Handler& handler);
  ~H2Session();
  H2Session(const H2Session&) = delete;
  H2Session& operator=(const H2Session&) = delete;

  // The first thing to be sent. A server says whether it takes extended CONNECTs (RFC 8441), and how many
  // streams it takes at most.
  void open(std::uint32_t max_streams, bool connect_protocol);

  // As a server, once open: another number of streams that the peer may have open, if it differs.
  void limit_streams(std::uint32_t max_streams);

  // False: the connection is in error; what produce() still gives says so to the peer.
  bool receive(std::span<const std::byte> data, Clock::time_point now);
  // Appends what is to be sent until `out` has about `most` bytes.
  void produce(std::vector<std::byte>& out, std::size_t most);

  // Opens a stream; `with_content`: its content comes from outgoing(). Negative when none can be opened any
  // more.
  std::int32_t request(const HeadBlock& head, bool with_content);
  void respond(std::int32_t stream, const HeadBlock& head, bool with_content);
  void interim(std::int32_t stream, const HeadBlock& head);
  // outgoing() has more for the stream.
  void resume(std::int32_t stream);
  void reset(std::int32_t stream, std::uint32_t code);
  // So many bytes of what came on the stream are out of our hands.
  void consumed(std::int32_t stream, std::size_t size);

  // Asks the peer to open no more streams; those that it opens all the same still come.
  void announce_end();
  // Takes no stream beyond those that came.
  void refuse_streams(std::uint32_t code, std::string_view why);
  // No more is received; ends after what is sent says so.
  void terminate(std::uint32_t code);

  bool finished() const;  // nothing to read or write any more
  bool wants_input() const {
    return nghttp2_session_get_outbound_queue_size(session_) < limits_.queued_frames;
  }
  bool in_head() const { return in_head_; }  // a header section has begun and isn't complete
  bool flooded() const { return flooded_; }
  bool ended_sending(std::int32_t stream) const;
  bool ended_receiving(std::int32_t stream) const;
  std::uint32_t peer_setting(nghttp2_settings_id id) const;

 private:
  friend struct H2Callbacks;

  // Tokens of one kind of frame.
  struct Budget {
    double left = 0;
    Clock::time_point filled{};
  };
  enum Kind : std::uint8_t { kReset, kPing, kSettings, kPriority, kEmptyData, kKinds };

  void begin_block(std::int32_t stream);
  void closed(std::int32_t stream, std::uint32_t code);
  bool add_field(std::span<const std::uint8_t> name, std::span<const std::uint8_t> value, bool never_indexed);
  bool spend(Kind kind);
  bool count_frame(const nghttp2_frame_hd& header);
  void check_order(std::int32_t stream);
  std::vector<nghttp2_nv>& to_nv(const HeadBlock& head);

  const Role role_;
  const H2Limits limits_;
  const std::uint32_t head_size_;  // of what the peer sends
  const std::uint32_t head_fields_;
  Handler& handler_;
  nghttp2_session* session_ = nullptr;
  HeadBlock block_;
  std::int32_t block_stream_ = 0;
  std::int32_t reset_by_peer_ = 0;
  std::size_t block_size_ = 0;
  std::size_t block_fields_ = 0;
  bool block_too_large_ = false;
  bool in_head_ = false;
  std::uint32_t max_streams_ = 0;  // that the peer was told
  std::int32_t last_stream_ = -1;  // that the peer opened
  struct Skipped {
    std::int32_t first;
    std::int32_t last;
  };
  std::vector<Skipped> skipped_;  // below it, never opened; the first few gaps
  bool failed_ = false;
  bool flooded_ = false;
  std::uint32_t own_resets_ = 0;  // submitted and not sent yet; nghttp2's are for what the peer did wrong
  Clock::time_point now_{};
  Budget budgets_[kKinds];
  std::vector<std::byte>* out_ = nullptr;  // during produce()
  std::vector<nghttp2_nv> nv_;
};

}  // namespace weir::proxy
