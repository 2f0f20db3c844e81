// The way to one destination: its addresses, the connection to one of them, TLS on it. Owned by one client
// connection and never shared. Every failure comes out as an error.type of proxy.h.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "attribution/events.h"
#include "proxy/shard.h"

namespace weir::proxy {

class Upstream {
 public:
  explicit Upstream(Shard& shard) : shard_(shard) {}

  // In this order. resolve() drops a connection to an earlier destination; connect() again reconnects.
  Task<std::optional<UpstreamFailure>> resolve(Destination destination);
  Task<std::optional<UpstreamFailure>> connect();
  Task<std::optional<UpstreamFailure>> start_tls(std::string name);

  // After resolve(): one of the addresses is a listener of ours, or refused by configuration.
  bool is_refused() const;
  bool connected() const { return stream_ && stream_->is_open(); }
  Stream& stream() { return *stream_; }
  const Destination& destination() const { return destination_; }
  void close() { stream_.reset(); }

  void tick(Stream::Clock::time_point now);
  void expire();
  // A decision with the destination and, once connected, both ends of our socket.
  DecisionMade describe(Decision decision) const;

 private:
  Shard& shard_;
  Destination destination_;
  std::vector<Endpoint> addresses_;
  std::unique_ptr<Stream> stream_;
};

}  // namespace weir::proxy
