// Where records go. A Sink is driven by one SinkThread, so it needs no locks of its own.
// A sink must never hold up what feeds it: a full queue drops, and says so.
#pragma once

#include <chrono>
#include <cstdint>
#include <expected>
#include <functional>
#include <memory>
#include <span>
#include <string>

#include "attribution/record.h"

namespace weir::sinks {

struct Error {
  std::string what;
  std::string remedy;   // may be empty
  bool damage = false;  // the file itself is wrong: writing more to it would only make it worse
};
std::string to_string(const Error& error);  // "what: remedy"

class Sink {
 public:
  static constexpr std::chrono::seconds kTidyInterval{10};

  virtual ~Sink() = default;
  virtual std::string name() const = 0;
  // Takes all of them or says why not; the caller counts a failed batch as dropped and goes on. What it took
  // is visible to readers when it returns.
  virtual std::expected<void, Error> write(std::span<const RecordPtr> batch) = 0;
  // One small step of upkeep, as the next batch waits for it. Gives how soon the next step is due, 0: at
  // once.
  virtual std::expected<std::chrono::milliseconds, Error> tidy() { return kTidyInterval; }
  // How many records it has taken out again, to keep within its limits.
  virtual std::uint64_t removed() const { return 0; }
  // How long a record may wait for others, so that they are written together.
  virtual std::chrono::milliseconds batch_delay() const = 0;
};

struct SinkCounters {
  std::string name;
  std::uint64_t queued = 0;  // and not yet written or dropped
  std::uint64_t written = 0;
  std::uint64_t dropped = 0;  // queue full, or the sink failed
  std::uint64_t removed = 0;  // written once, and gone again as the sink's limits want it
  std::string last_error;     // "" when the last batch went well, and the last step of upkeep
};

struct QueueLimits {
  std::size_t records = 65'536;
  std::size_t bytes = std::size_t{256} << 20;  // of what the records hold, captured bodies included
};

// A bounded queue and the thread that empties it into a sink, in batches. submit() never blocks.
class SinkThread {
 public:
  // Called on the sink's thread when the sink begins to fail: once, until a batch goes well again.
  using OnFailure = std::function<void(const std::string& sink, const Error& error)>;

  // `when_idle`: called on the sink's thread when no record has come for a while.
  explicit SinkThread(std::unique_ptr<Sink> sink, QueueLimits limits = {}, OnFailure on_failure = {},
                      std::function<void()> when_idle = {});
  ~SinkThread();  // as stop()
  SinkThread(const SinkThread&) = delete;
  SinkThread& operator=(const SinkThread&) = delete;

  void submit(RecordPtr record);  // thread-safe; after stop() it only counts a drop
  void drain();                   // returns when all submitted before the call is written or dropped
  void stop();                    // drains, then ends the thread
  SinkCounters counters() const;  // thread-safe

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace weir::sinks
