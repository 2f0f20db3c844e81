// The upstream's half of a connection whose upstream speaks HTTP/2: each transit is a stream there. Sans-IO:
// bytes of the upstream in, bytes for it out.
#pragma once

#include <functional>
#include <unordered_map>

#include "proxy/h2_session.h"

namespace weir::proxy {

class H2Back final : public Back, private H2Session::Handler {
 public:
  // `name`: the upstream's, for answers of our own. `on_settings`: the upstream's first have come.
  H2Back(const H2Limits& limits, std::string name)
      : name_(std::move(name)), session_(H2Session::Role::client, limits, *this) {
    session_.open(0, false);
  }
  ~H2Back() override = default;
  void set_front(Front& front) { front_ = &front; }

  bool receive(std::span<const std::byte> data, H2Session::Clock::time_point now);
  void produce(std::vector<std::byte>& out, std::size_t most) { session_.produce(out, most); }
  // The connection is over: what is open ends with `answer` or as broken.
  void ended(const OwnAnswer& answer);
  void leave() { session_.terminate(h2_error::kNone); }

  const H2Session& session() const { return session_; }
  bool settings_came() const { return settings_came_; }
  bool finished() const { return session_.finished(); }
  std::uint32_t max_streams() const { return session_.peer_setting(NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS); }
  bool takes_extended_connect() const {
    return session_.peer_setting(NGHTTP2_SETTINGS_ENABLE_CONNECT_PROTOCOL) == 1;
  }
  const std::string& name() const { return name_; }

  void start(Transit& transit, HeadBlock head, bool ended) override;
  void request_arrived(Transit& transit) override;
  void response_taken(Transit& transit, std::size_t size) override;
  void cancel(Transit& transit, std::uint32_t code) override;

 private:
  void on_block(std::int32_t stream, HeadBlock block, bool ended, bool too_large) override;
  void on_content(std::int32_t stream, std::span<const std::byte> data) override;
  void on_end(std::int32_t stream) override;
  void on_closed(std::int32_t stream, std::uint32_t code, bool by_peer) override;
  void on_settings() override { settings_came_ = true; }
  void on_goaway(std::uint32_t code, std::string_view why) override;
  Content* outgoing(std::int32_t stream) override;
  void on_sent(std::int32_t stream, std::size_t size) override;

  Transit* find(std::int32_t stream) const;

  const std::string name_;
  Front* front_ = nullptr;
  H2Session session_;
  std::unordered_map<std::int32_t, Transit*> transits_;
  bool settings_came_ = false;
  bool over_ = false;
};

}  // namespace weir::proxy
