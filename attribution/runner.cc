// Threads around the sans-IO engine: one for each shard, woken by its sources' queues. The only file of this
// room that reads a clock. A source thread here never waits for a shard's work.
#include "attribution/runner.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <deque>
#include <map>
#include <mutex>
#include <thread>

#include "attribution/idle_hook.h"
#include "attribution/object_linker.h"
#include "attribution/source_queue.h"

namespace weir {
namespace {

constexpr std::chrono::milliseconds kTick{100};
// How long a shard lets events gather while they keep coming. Waking it for each costs a source more than the
// event does.
constexpr std::chrono::milliseconds kGather{2};

Time wall_clock() {
  return std::chrono::time_point_cast<std::chrono::nanoseconds>(std::chrono::system_clock::now());
}

class Shard {
 public:
  Shard(const RunnerConfig& config, Engine::Emit emit)
      : engine_(config.engine, std::move(emit)), idle_(config.when_idle) {}

  void add_queue(SourceQueue* queue) {
    const std::lock_guard lock(mutex_);
    queues_.push_back(queue);
  }

  void start() {
    thread_ = std::thread([this] { run(); });
  }

  // Called by sources after a push. The lock is taken only when the shard sleeps.
  void wake() {
    if (!sleeping_.exchange(false)) return;
    const std::lock_guard lock(mutex_);
    work_ = true;
    changed_.notify_all();
  }

  // Returns after a pass over the queues that began after the call.
  void drain() {
    std::unique_lock lock(mutex_);
    if (!thread_.joinable()) return;
    const std::uint64_t target = passes_begun_ + 1;
    work_ = true;
    changed_.notify_all();
    changed_.wait(lock, [&] { return passes_done_ >= target || done_; });
  }

  void stop() {
    if (!thread_.joinable()) return;
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
      changed_.notify_all();
    }
    thread_.join();
  }

  template <typename Function>
  auto with_engine(Function&& function) {
    const std::lock_guard lock(engine_mutex_);
    return function(engine_);
  }

 private:
  void run() {
    bool last = false;
    bool busy = false;
    while (!last) {
      std::unique_lock lock(mutex_);
      const auto awaited = [&] { return work_ || stopping_; };
      if (busy) {
        changed_.wait_for(lock, kGather, awaited);
      } else {
        sleeping_ = true;
        // A push before `sleeping_` was set has woken nobody: look at the queues once more before each sleep.
        if (!awaited() && !anything_queued()) changed_.wait_for(lock, kTick, awaited);
      }
      sleeping_ = false;
      work_ = false;
      last = stopping_;
      ++passes_begun_;
      const std::vector<SourceQueue*> queues = queues_;
      lock.unlock();
      busy = pass(queues, last);
      idle_.turn(busy);
      lock.lock();
      passes_done_ = passes_begun_;
      done_ = last;
      changed_.notify_all();
    }
  }

  bool anything_queued() const {
    return std::ranges::any_of(queues_,
                               [](const SourceQueue* queue) { return queue->counters().events_now != 0; });
  }

  // True when there was anything.
  bool pass(const std::vector<SourceQueue*>& queues, bool last) {
    // Read before the queues are taken: all that any source published up to this time is consumed when the
    // engine hears it.
    const Time now = wall_clock();
    batches_.resize(queues.size());
    for (std::size_t i = 0; i < queues.size(); ++i) queues[i]->take(batches_[i]);
    bool any = false;
    const std::lock_guard lock(engine_mutex_);
    for (std::vector<Event>& batch : batches_) {
      any = any || !batch.empty();
      for (Event& event : batch) engine_.consume(std::move(event));
      batch.clear();
    }
    engine_.advance(now);
    if (last) engine_.finish(now);
    return any;
  }

  std::mutex engine_mutex_;
  Engine engine_;
  std::vector<std::vector<Event>> batches_;
  IdleHook idle_;

  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<SourceQueue*> queues_;
  std::uint64_t passes_begun_ = 0;
  std::uint64_t passes_done_ = 0;
  bool work_ = false;
  bool stopping_ = false;
  bool done_ = false;
  std::atomic<bool> sleeping_{false};
  std::thread thread_;
};

using Observer = std::function<void(const Event&)>;

// One source's side: finds the shard of each event. Belongs to the source's thread.
class Source final : public EventPublisher {
 public:
  Source(const RunnerConfig& config, std::deque<Shard>& shards, const Observer& observer)
      : shards_(shards),
        observer_(observer),
        linker_(config.engine.limits.connections, config.engine.limits.unlinked_bytes) {
    for (std::size_t i = 0; i < shards.size(); ++i)
      queues_.emplace_back(config.queue_events, config.queue_bytes);
  }

  void publish(Event event) override {
    if (observer_) observer_(event);
    if (shards_.size() == 1) return push(0, std::move(event));
    // A TLS object's first events may not name their socket, and only the socket names the shard.
    linker_.advance(time_of(event));
    linker_.take(std::move(event), [this](Event&& linked) { route(std::move(linked)); });
    unlinked_dropped_.store(linker_.dropped_bytes(), std::memory_order_relaxed);
  }

  SourceQueue& queue(std::size_t shard) { return queues_[shard]; }
  std::uint64_t unlinked_dropped() const { return unlinked_dropped_.load(std::memory_order_relaxed); }

 private:
  void route(Event event) {
    if (std::holds_alternative<ProcessEvent>(event) || std::holds_alternative<TlsLibraryNoted>(event)) {
      for (std::size_t i = 0; i + 1 < shards_.size(); ++i) push(i, event);
      return push(shards_.size() - 1, std::move(event));
    }
    // The hash's upper half: the lower bits of a multiplicative hash follow the lower bits of the cookie.
    const std::size_t shard = (std::hash<SocketCookie>{}(cookie_of(event)) >> 32) % shards_.size();
    push(shard, std::move(event));
  }

  void push(std::size_t shard, Event event) {
    queues_[shard].push(std::move(event));
    shards_[shard].wake();
  }

  std::deque<Shard>& shards_;
  const Observer& observer_;
  std::deque<SourceQueue> queues_;
  ObjectLinker linker_;
  std::atomic<std::uint64_t> unlinked_dropped_{0};
};

void add(EngineCounters& sum, const EngineCounters& one) {
  static constexpr std::uint64_t EngineCounters::* kAll[] = {
      &EngineCounters::events,
      &EngineCounters::records,
      &EngineCounters::exchanges,
      &EngineCounters::connections_tracked,
      &EngineCounters::connections_evicted,
      &EngineCounters::processes_evicted,
      &EngineCounters::native_bytes,
      &EngineCounters::proxy_bytes,
      &EngineCounters::duplicate_bytes_dropped,
      &EngineCounters::gap_bytes,
      &EngineCounters::unlinked_bytes_dropped,
      &EngineCounters::unparsed_bytes,
  };
  static_assert(sizeof(EngineCounters) == sizeof(std::uint64_t) * std::size(kAll), "a counter isn't summed");
  for (const auto counter : kAll) sum.*counter += one.*counter;
}

}  // namespace

struct EngineRunner::State {
  RunnerConfig config;
  Observer observer;
  std::deque<Shard> shards;
  mutable std::mutex sources_mutex;
  std::deque<Source> sources;
};

EngineRunner::EngineRunner(RunnerConfig config, std::function<void(RecordPtr)> emit)
    : state_(std::make_unique<State>()) {
  state_->config = std::move(config);
  const unsigned shards = std::max(1u, state_->config.shards);
  for (unsigned i = 0; i < shards; ++i) state_->shards.emplace_back(state_->config, emit);
}

EngineRunner::~EngineRunner() {
  stop();
}

EventPublisher& EngineRunner::add_source() {
  const std::lock_guard lock(state_->sources_mutex);
  Source& source = state_->sources.emplace_back(state_->config, state_->shards, state_->observer);
  for (std::size_t i = 0; i < state_->shards.size(); ++i) state_->shards[i].add_queue(&source.queue(i));
  return source;
}

void EngineRunner::set_observer(std::function<void(const Event&)> observer) {
  state_->observer = std::move(observer);
}

void EngineRunner::set_proxy_listeners(std::vector<Endpoint> listeners) {
  for (Shard& shard : state_->shards) {
    shard.with_engine([&](Engine& engine) { engine.set_proxy_listeners(listeners); });
  }
}

void EngineRunner::set_own_pids(std::vector<std::uint32_t> pids) {
  for (Shard& shard : state_->shards) {
    shard.with_engine([&](Engine& engine) { engine.set_own_pids(pids); });
  }
}

void EngineRunner::start() {
  for (Shard& shard : state_->shards) shard.start();
}

void EngineRunner::drain() {
  for (Shard& shard : state_->shards) shard.drain();
}

void EngineRunner::stop() {
  for (Shard& shard : state_->shards) shard.stop();
}

RunnerCounters EngineRunner::counters() const {
  RunnerCounters sum;
  for (Shard& shard : state_->shards) {
    add(sum.engine, shard.with_engine([](Engine& engine) { return engine.counters(); }));
  }
  const std::lock_guard lock(state_->sources_mutex);
  for (Source& source : state_->sources) {
    sum.engine.unlinked_bytes_dropped += source.unlinked_dropped();
    for (std::size_t i = 0; i < state_->shards.size(); ++i) {
      const SourceQueue::Counters queue = source.queue(i).counters();
      sum.queue_dropped_events += queue.dropped_events;
      sum.queue_dropped_bytes += queue.dropped_bytes;
      sum.queue_events_now += queue.events_now;
      sum.queue_bytes_now += queue.bytes_now;
    }
  }
  return sum;
}

// A process that spoke over several connections is known to several shards.
std::vector<Engine::Coverage> EngineRunner::coverage() const {
  std::map<ProcessId, Engine::Coverage> merged;
  for (Shard& shard : state_->shards) {
    for (Engine::Coverage& one : shard.with_engine([](Engine& engine) { return engine.coverage(); })) {
      Engine::Coverage& sum = merged[one.process];
      sum.connections += one.connections;
      sum.readable_connections += one.readable_connections;
      sum.process = one.process;
      sum.executable_name = std::move(one.executable_name);
    }
  }
  std::vector<Engine::Coverage> all;
  for (auto& [id, one] : merged) all.push_back(std::move(one));
  return all;
}

}  // namespace weir
