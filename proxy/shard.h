// What the proxy's threads share, and what each has for itself. A connection lives on one shard, and all that
// touches it runs on that shard's thread.
#pragma once

#include <atomic>
#include <boost/asio/io_context.hpp>
#include <list>
#include <memory>

#include "proxy/client_identities.h"
#include "proxy/idle.h"
#include "proxy/name_resolver.h"
#include "proxy/poller.h"
#include "proxy/proxy.h"
#include "proxy/stream.h"
#include "proxy/tls.h"
#include "proxy/upstream_sessions.h"

namespace weir::proxy {

struct AtomicCounters {
  std::atomic<std::uint64_t> accepted = 0;
  std::atomic<std::uint64_t> active = 0;
  std::atomic<std::uint64_t> unresolved_refused = 0;
  std::atomic<std::uint64_t> over_limit_closed = 0;
  std::atomic<std::uint64_t> idle_shed = 0;
  std::atomic<std::uint64_t> redirected = 0;
  std::atomic<std::uint64_t> bumped = 0;
  std::atomic<std::uint64_t> tunnelled = 0;
  std::atomic<std::uint64_t> passed_through = 0;
  std::atomic<std::uint64_t> upstream_failed = 0;
  std::atomic<std::uint64_t> client_rejected_certificate = 0;
  std::atomic<std::uint64_t> requests = 0;
  std::atomic<std::uint64_t> malformed_requests = 0;
  std::atomic<std::uint64_t> floods_ended = 0;
  std::atomic<std::uint64_t> slow_bodies_ended = 0;
};

inline void count(std::atomic<std::uint64_t>& counter) {
  counter.fetch_add(1, std::memory_order_relaxed);
}

struct Shared {
  Config config;  // `refused_destinations` includes our own listener
  ClientResolver& resolver;
  PolicyDecider& decider;
  std::unique_ptr<LeafCache> leaves;
  SslContext upstream_context;
  ClientIdentities client_identities;
  NameResolver names{};
  Rejections rejections{config.rejections};
  AtomicCounters counters{};
  std::atomic<bool> over_memory = false;
};

// A connection as its shard sees it: something with deadlines that may have to end.
class Supervised {
 public:
  virtual ~Supervised() = default;
  virtual void tick(Stream::Clock::time_point now) = 0;
  virtual void end_if_idle() = 0;
  virtual void end_now() = 0;
};

struct Shard {
  Shard(Shared& all, EventPublisher& events)
      : shared(all), publisher(events), sessions(all.config.limits.upstream_sessions) {}
  ~Shard() { poller.abandon(); }
  Shard(const Shard&) = delete;
  Shard& operator=(const Shard&) = delete;
  Shared& shared;
  EventPublisher& publisher;
  UpstreamSessions sessions;
  std::list<Supervised*> connections;
  IdleQueue idle;
  bool stopping = false;
  Poller poller{context};
  asio::io_context context{1};  // last: what still hangs in it when it goes refers to the rest
};

}  // namespace weir::proxy
