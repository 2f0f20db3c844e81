// A connection of which one side speaks HTTP/2, or both do: moves bytes between its streams and
// the two halves that know what they mean, asks the policy for each request, and publishes what the client
// sent and received.
#pragma once

#include <list>
#include <memory>
#include <optional>

#include "proxy/connection_events.h"
#include "proxy/h1_back.h"
#include "proxy/h2_back.h"
#include "proxy/http_session.h"
#include "proxy/outlet.h"
#include "proxy/policy_gate.h"
#include "proxy/shard.h"
#include "proxy/upstream.h"

namespace weir::proxy {

class MuxSession final : private RequestJudge {
 public:
  // With an upstream whose TLS is open, or none when `tls` has its failure.
  // `protocol` is what the client will speak; `idle` is told when no request is open.
  MuxSession(Shard& shard, Stream& client, Upstream& upstream, ConnectionEvents& events, IdlePlace& idle,
             TlsDestination tls, HttpProtocol protocol);

  // Before the client's handshake: the upstream's own first bytes take a while.
  void greet_upstream();
  // Serves requests until the connection is to end.
  Task<void> run();

  bool idle() const { return front_->idle(); }
  void tick(Stream::Clock::time_point now);
  void expire();  // of the upstream connections that only this session has
  // Takes no more requests; run() ends with the last that is open.
  void leave();
  bool anything_received() const { return anything_received_; }
  Io last_client_status() const { return client_status_; }

 private:
  std::optional<OwnAnswer> judge(std::int32_t stream, const HeadBlock& request) override;
  void malformed() override;
  void malformed_stream(std::int32_t stream) override;
  void upstream_failed(std::int32_t stream, const OwnAnswer& answer) override;
  std::optional<std::uint64_t> decided_stream(std::int32_t stream) const;
  std::optional<OwnAnswer> ask_policy(std::int32_t stream, const HeadBlock& request);

  // A connection to an upstream that speaks HTTP/1.
  struct LegIo {
    LegIo(Shard& shard, const Upstream& like, H1Leg& moved)
        : leg(moved), own(like.sibling()), changed(shard.context) {}
    H1Leg& leg;
    Upstream own;
    Upstream* upstream = &own;
    std::optional<Outlet> outlet;
    Signal changed;
  };

  bool speaks_upstream() const { return upstream_outlet_.has_value(); }
  void open_leg(H1Leg& leg);
  std::unique_ptr<ClientSide> make_front();
  bool may_use_again(const H1Leg& leg);
  Task<void> run_leg(LegIo& io);
  Task<std::optional<UpstreamFailure>> open_leg_upstream(LegIo& io);
  Task<void> read_leg(LegIo& io);
  void leg_ended(LegIo& io);
  Task<void> meet_upstream();
  Task<void> read_client();
  Task<void> read_upstream();
  Task<void> drain(std::optional<Outlet>& outlet);
  bool take_from_upstream(std::span<const std::byte> data);
  void lose_upstream(Io status);
  bool waits_for_upstream() const;
  void limit_client();
  void release_write_buffers();
  void touch_upstream();
  void flush();

  Shard& shard_;
  const Limits& limits_;
  Stream& client_;
  Upstream& upstream_;
  ConnectionEvents& events_;
  IdlePlace& idle_;
  PolicyGate gate_;
  const TlsDestination tls_;
  const HttpProtocol protocol_;

  H2Back back_;
  H1Back h1_back_;
  std::list<LegIo> legs_;
  bool first_leg_taken_ = false;  // the connection that was there before the client's handshake
  bool closing_ = false;
  std::unique_ptr<ClientSide> front_;
  Outlet client_outlet_;
  std::optional<Outlet> upstream_outlet_;
  Signal over_;
  Signal never_;
  Signal room_;  // where something waited, something was sent
  bool reader_waits_ = false;
  bool client_opened_ = false;
  bool upstream_over_ = false;
  enum class ClientWait : std::uint8_t { idle, head, answer };
  ClientWait client_wait_ = ClientWait::idle;
  bool anything_received_ = false;
  Io client_status_ = Io::ok;
};

}  // namespace weir::proxy
