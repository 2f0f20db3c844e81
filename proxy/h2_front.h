// The client's half of a connection that speaks HTTP/2 with its client: requests are checked, judged and
// passed to the back, responses come from there. One refused request is one answered stream; the connection
// lives on. Sans-IO: bytes of the client in, bytes for it out.
#pragma once

#include <memory>
#include <unordered_map>
#include <vector>

#include "proxy/h2_session.h"

namespace weir::proxy {

class H2Front final : public ClientSide, private H2Session::Handler {
 public:
  H2Front(const H2Limits& limits, const BodyPace::Limits& pace, RequestJudge& judge, Back& back)
      : limits_(limits),
        pace_(pace),
        judge_(judge),
        back_(back),
        session_(H2Session::Role::server, limits, *this) {}
  ~H2Front() override = default;

  void open(std::uint32_t max_streams, bool connect_protocol) override {
    session_.open(max_streams, connect_protocol);
  }
  void limit_streams(std::uint32_t max_streams) override { session_.limit_streams(max_streams); }
  bool receive(std::span<const std::byte> data, Clock::time_point now) override;
  void produce(std::vector<std::byte>& out, std::size_t most) override;
  void leave() override;
  std::size_t end_slow_requests(Clock::time_point now) override;
  bool wants_input() const override { return session_.wants_input(); }
  bool in_head() const override { return session_.in_head(); }
  bool idle() const override { return transits_.empty(); }
  bool finished() const override { return session_.finished(); }
  bool flooded() const override { return session_.flooded(); }
  bool broke_off() const override { return false; }

  void interim(Transit& transit, const HeadBlock& head) override;
  void response(Transit& transit, const HeadBlock& head, bool ended) override;
  void response_arrived(Transit& transit) override;
  void request_taken(Transit& transit, std::size_t size) override;
  void failed(Transit& transit, std::uint32_t code, const OwnAnswer& answer) override;
  void done(Transit& transit) override;
  void upstream_leaves(std::uint32_t code, std::string_view why) override;

 private:
  struct Entry {
    Transit transit;
    bool own_answer = false;
    bool closed = false;  // the client's stream is; the back still takes of the request
  };

  void on_block(std::int32_t stream, HeadBlock block, bool ended, bool too_large) override;
  void on_content(std::int32_t stream, std::span<const std::byte> data) override;
  void on_end(std::int32_t stream) override;
  void on_closed(std::int32_t stream, std::uint32_t code, bool by_peer) override;
  Content* outgoing(std::int32_t stream) override;
  void on_sent(std::int32_t stream, std::size_t size) override;

  Entry* find(std::int32_t stream);
  void begin(std::int32_t stream, HeadBlock block, bool ended, bool too_large);
  void answer(Entry& entry, const OwnAnswer& answer);
  bool reset_broken_off();
  void erase(std::int32_t stream);
  void leave_if_idle();

  const H2Limits limits_;
  const BodyPace::Limits pace_;
  RequestJudge& judge_;
  Back& back_;
  H2Session session_;
  std::unordered_map<std::int32_t, Entry> transits_;
  std::vector<std::int32_t> broken_off_;  // streams to be reset once what came is sent
  bool leaving_ = false;
  bool left_ = false;
};

}  // namespace weir::proxy
