// The attribution engine: events in, records out. It joins what the taps saw with who did it, and writes
// exactly one record per exchange, from exactly one tap.
//
// Sans-IO and single-threaded: an Engine is one shard. It reads no clock, file or socket, so a recording
// gives the same records as the live host. EngineRunner (runner.h) gives each shard its thread and its
// queues.
//
// Exactly once. Native capture of a connection that goes to the proxy runs until the proxy publishes `bumped`
// (or `refused`, `upstream_failed`: it then spoke itself): from then on the proxy's view is the record, and
// native bytes of that cookie are dropped, those already parsed included. Tunnelled or passed through: the
// native copy is the record, and its peer comes from the decision. So native exchanges of a connection whose
// peer is the proxy's listener are held until the decision is known.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "attribution/events.h"
#include "attribution/record.h"

namespace weir {

struct EngineLimits {
  std::size_t connections = 100'000;  // tracked at once; the least recently used is closed early
  std::size_t processes = 100'000;
  std::size_t pending_exchanges =
      1'000;  // a connection: unanswered requests, and exchanges held for a decision
  std::size_t unlinked_bytes = 256 * 1024;  // a TLS object that has not met its socket
  std::size_t body_bytes =
      8 * 1024 * 1024;  // a captured body; the rest is counted and said (weir.body.truncated)
  std::size_t head_bytes = 64 * 1024;
  std::size_t early_bytes = 64 * 1024 * 1024;  // of responses before their requests, all connections together
};

struct EngineConfig {
  std::string host_id;
  std::string boot_id;
  bool capture_bodies = false;
  bool redact = true;
  bool ingress = false;
  Time boot_time{};  // wall clock at CLOCK_BOOTTIME 0; the epoch: not known
  std::function<std::string(std::uint32_t)> user_name;  // of a uid; may be empty: then the number is written
  std::vector<Endpoint> proxy_listeners;                // connections to these are proxied ones
  std::vector<std::uint32_t> own_pids;                  // weir's own processes: never in a record
  EngineLimits limits;
};

// Each counter only grows.
struct EngineCounters {
  std::uint64_t events = 0;
  std::uint64_t records = 0;
  std::uint64_t exchanges = 0;
  std::uint64_t connections_tracked = 0;  // ever
  std::uint64_t connections_evicted = 0;  // the limit was hit
  std::uint64_t processes_evicted = 0;
  std::uint64_t native_bytes = 0;
  std::uint64_t proxy_bytes = 0;
  std::uint64_t duplicate_bytes_dropped = 0;  // native copies of bumped connections
  std::uint64_t gap_bytes = 0;
  std::uint64_t unlinked_bytes_dropped = 0;
  std::uint64_t unparsed_bytes = 0;  // not HTTP, or after a protocol error
};

class Engine {
 public:
  using Emit = std::function<void(RecordPtr)>;  // called on the engine's thread

  Engine(EngineConfig config, Emit emit);
  ~Engine();
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  void consume(Event event);

  // The proxy's listeners become known after the engine is made (port 0).
  void set_proxy_listeners(std::vector<Endpoint> listeners);
  void set_own_pids(std::vector<std::uint32_t> pids);

  // Tells the time. Facts that come from different sources are waited for (a proxied connection's decision,
  // the owner of a connection that the proxy spoke of first); this gives up what has waited too long. Call it
  // about every 100 ms with the wall clock, read before the events that were then consumed were taken; in a
  // replay, with each event's time.
  void advance(Time now);

  // Writes out what is still open, as incomplete: at the end of a recording, or on shutdown.
  void finish(Time now);

  const EngineCounters& counters() const;

  // A snapshot for `weir coverage` and tests: payload bytes of each process's ended connections, readable or
  // not.
  struct Coverage {
    ProcessId process;
    std::string executable_name;
    std::uint64_t connections = 0;
    std::uint64_t readable_connections = 0;
  };
  std::vector<Coverage> coverage() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace weir
