// The queue between those who make records and a sink's own thread. It must never make submit() wait for the
// sink, and each record submitted ends up in exactly one of `written` and `dropped`.
#include <csignal>

#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>
#include <vector>

#include "attribution/idle_hook.h"
#include "sinks/sink.h"

namespace weir::sinks {
namespace {

using Clock = std::chrono::steady_clock;

// One write to the sink: large enough for a transaction to pay, small enough to bound memory and time.
constexpr std::size_t kBatchRecords = 8'192;
constexpr std::size_t kBatchBytes = std::size_t{16} << 20;

std::size_t size_of(const Record& record) {
  return sizeof(Record) + record.id.size() + record.json.size();
}

}  // namespace

std::string to_string(const Error& error) {
  return error.remedy.empty() ? error.what : error.what + ": " + error.remedy;
}

struct SinkThread::State {
  struct Entry {
    RecordPtr record;
    std::size_t bytes;
  };

  State(std::unique_ptr<Sink> to, QueueLimits queue_limits, OnFailure failure,
        std::function<void()> when_idle)
      : sink(std::move(to)),
        limits(queue_limits),
        on_failure(std::move(failure)),
        idle(std::move(when_idle)) {
    counters.name = sink->name();
  }

  bool in_a_hurry() const {
    return stopping || drains > 0 || queue.size() >= kBatchRecords || bytes >= kBatchBytes;
  }

  // Waits until there is a batch or it is time to tidy. An empty one is no batch.
  std::vector<RecordPtr> next_batch(Clock::time_point tidy_at) {
    std::unique_lock lock(mutex);
    work.wait_until(lock, tidy_at, [this] { return stopping || !queue.empty(); });
    if (queue.empty()) return {};
    work.wait_for(lock, sink->batch_delay(), [this] { return in_a_hurry(); });
    std::vector<RecordPtr> batch;
    std::size_t batch_bytes = 0;
    while (!queue.empty() && batch.size() < kBatchRecords && batch_bytes < kBatchBytes) {
      batch_bytes += queue.front().bytes;
      batch.push_back(std::move(queue.front().record));
      queue.pop_front();
    }
    bytes -= batch_bytes;
    return batch;
  }

  bool ended() const {
    const std::lock_guard lock(mutex);
    return stopping && queue.empty();
  }

  template <typename Result>
  void note(const Result& result, std::string& error, std::size_t records = 0) {
    const bool was_well = write_error.empty() && tidy_error.empty();
    {
      const std::lock_guard lock(mutex);
      (result ? counters.written : counters.dropped) += records;
      counters.removed = sink->removed();
      error = result ? "" : to_string(result.error());
      counters.last_error = write_error.empty() ? tidy_error : write_error;
      finished += records;
    }
    done.notify_all();
    if (!result && was_well && on_failure) on_failure(counters.name, result.error());
  }

  Clock::time_point tidy() {
    const auto next = sink->tidy();
    note(next, tidy_error);
    return Clock::now() + next.value_or(Sink::kTidyInterval);
  }

  void run() {
    auto tidy_at = Clock::now();
    while (!ended()) {
      const auto batch = next_batch(tidy_at);
      if (!batch.empty()) note(sink->write(batch), write_error, batch.size());
      if (Clock::now() >= tidy_at && !ended()) tidy_at = tidy();
      idle.turn(!batch.empty());
    }
  }

  const std::unique_ptr<Sink> sink;
  const QueueLimits limits;
  const OnFailure on_failure;
  mutable std::mutex mutex;
  std::condition_variable work;
  std::condition_variable done;
  std::deque<Entry> queue;
  std::size_t bytes = 0;        // of what is queued
  std::uint64_t accepted = 0;   // ever queued
  std::uint64_t finished = 0;   // of those, written or dropped
  std::uint64_t overtaken = 0;  // dropped, as the queue was full
  int drains = 0;               // callers waiting in drain()
  bool stopping = false;
  SinkCounters counters;
  IdleHook idle;  // this and the next two: the sink's thread alone
  std::string write_error;
  std::string tidy_error;
  std::thread thread;
};

SinkThread::SinkThread(std::unique_ptr<Sink> sink, QueueLimits limits, OnFailure on_failure,
                       std::function<void()> when_idle)
    : state_(std::make_unique<State>(std::move(sink), limits, std::move(on_failure), std::move(when_idle))) {
  // Signals belong to the main thread; and a closed pipe must come back as EPIPE, not as SIGPIPE.
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  state_->thread = std::thread([state = state_.get()] { state->run(); });
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

SinkThread::~SinkThread() {
  stop();
}

void SinkThread::submit(RecordPtr record) {
  const std::size_t bytes = size_of(*record);
  auto& state = *state_;
  const std::lock_guard lock(state.mutex);
  if (state.stopping || state.queue.size() >= state.limits.records ||
      state.bytes + bytes > state.limits.bytes) {
    ++state.counters.dropped;
    if (!state.stopping) ++state.overtaken;
    return;
  }
  const bool hurried = state.in_a_hurry();
  state.queue.push_back({std::move(record), bytes});
  state.bytes += bytes;
  ++state.accepted;
  if (state.queue.size() == 1 || hurried != state.in_a_hurry()) state.work.notify_one();
}

void SinkThread::drain() {
  auto& state = *state_;
  std::unique_lock lock(state.mutex);
  const auto target = state.accepted;
  ++state.drains;
  state.work.notify_one();
  state.done.wait(lock, [&] { return state.finished >= target; });
  --state.drains;
}

void SinkThread::stop() {
  {
    const std::lock_guard lock(state_->mutex);
    state_->stopping = true;
  }
  state_->work.notify_one();
  if (state_->thread.joinable()) state_->thread.join();
}

SinkCounters SinkThread::counters() const {
  const std::lock_guard lock(state_->mutex);
  SinkCounters counters = state_->counters;
  counters.queued = state_->accepted - state_->finished;
  if (counters.last_error.empty() && state_->overtaken > 0)
    counters.last_error =
        std::to_string(state_->overtaken) + " records came faster than they could be written";
  return counters;
}

}  // namespace weir::sinks
