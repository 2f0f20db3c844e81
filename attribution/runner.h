// Runs engine shards on threads: each source gets a single-producer queue to each shard; an event goes to the
// shard of its cookie, process events to all. A full queue never blocks the source: bytes are dropped and
// counted, and the next event that does get through is preceded by a Gap for what was lost.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "attribution/engine.h"

namespace weir {

struct RunnerConfig {
  EngineConfig engine;
  unsigned shards = 1;
  std::size_t queue_events = 65'536;           // of one queue
  std::size_t queue_bytes = 64 * 1024 * 1024;  // payload held by one queue
  std::function<void()> when_idle{};  // called by each shard's thread that has had no event for a while
};

struct RunnerCounters {
  EngineCounters engine;  // summed over the shards
  std::uint64_t queue_dropped_events = 0;
  std::uint64_t queue_dropped_bytes = 0;
  std::uint64_t queue_events_now = 0;
  std::uint64_t queue_bytes_now = 0;
};

class EngineRunner {
 public:
  // `emit` is called from the shards' threads, one call at a time for each shard.
  EngineRunner(RunnerConfig config, std::function<void(RecordPtr)> emit);
  ~EngineRunner();  // as stop()

  // A queue of its own for one source thread; thread-safe, may be called while running. The publisher must
  // not be used after stop() and lives as long as the runner. `observe`, if set, sees each event before it is
  // queued, on the source's thread (recording).
  EventPublisher& add_source();

  // Called for each event that a source publishes, on that source's thread, before start(): for recording.
  void set_observer(std::function<void(const Event&)> observer);

  void set_proxy_listeners(std::vector<Endpoint> listeners);
  void set_own_pids(std::vector<std::uint32_t> pids);

  // From now on each shard's engine also hears the time: after each batch, or 100 ms when none comes.
  void start();
  // Waits until everything published before the call has been consumed and emitted.
  void drain();
  // Drains, finishes the engines (open exchanges become incomplete records) and joins the threads.
  void stop();

  RunnerCounters counters() const;                 // thread-safe
  std::vector<Engine::Coverage> coverage() const;  // thread-safe

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace weir
