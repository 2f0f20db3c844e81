// Holds the start of a program that was not seen before until its probes stand: a process that is told of
// only after its exec has often spoken before anybody could attach. The kernel asks (fanotify), and while it
// waits for an answer so does the process; so the answers come from a process of their own (gate_process.h)
// that does nothing else. This is the broker's end of it: starts that process, and the next when it dies.
//
// Nobody waits longer than `longest_hold`, also when the broker or the worker is stopped, and then nothing is
// held until somebody looks again. When the process that answers is stopped, the kernel ends it after
// `longest_silence` (a timer of its own that it winds up again and again), and when it ends, however it ends,
// the kernel lets go whoever waits. Single-threaded, but for counters.
#pragma once

#include <poll.h>
#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <expected>
#include <memory>
#include <optional>

#include "agent/descriptor.h"
#include "agent/error.h"
#include "agent/state.h"

namespace weir::agent {

struct GatePage;

struct ExecGateCounters {
  std::uint64_t held = 0;
  std::uint64_t late = 0;      // let go without an answer
  std::uint64_t restarts = 0;  // of the process that answers
  std::uint32_t pid = 0;       // its; 0: there is none now
};

class ExecGate {
 public:
  static constexpr std::chrono::milliseconds longest_hold{100};
  static constexpr std::chrono::milliseconds longest_silence{500};

  // Watches every file system that is mounted now. `executable` is weir itself; `user` is who answers, once
  // the kernel has been asked. The error says why the kernel allows none of it.
  static std::expected<std::unique_ptr<ExecGate>, Error> open(int executable, const WorkerUser& user);
  ~ExecGate();
  ExecGate(const ExecGate&) = delete;
  ExecGate& operator=(const ExecGate&) = delete;

  // Whether anybody looks: while false, nothing is held. Each call forgets what was seen.
  void set_watched(bool watched);
  // Becomes readable when a file waits; for the worker.
  int event_descriptor() const { return event_.get(); }
  // To be mapped by the worker (ExecGateStatus); read-only.
  int page_descriptor() const { return read_only_page_.get(); }

  // To be waited for, at most `time_to_start()` long; then revive() starts the process anew if it has ended.
  pollfd wait() const { return {channel_.get(), 0, 0}; }
  // Milliseconds, -1 for ever.
  int time_to_start() const;
  void revive();

  struct Held {
    std::uint32_t number = 0;
    Descriptor file;
  };
  // The next file that waits and was not taken yet.
  std::optional<Held> take();
  // Its process may go on.
  void release(std::uint32_t number);
  // All files are to be asked about again.
  void forget_files();

 private:
  ExecGate() = default;
  std::expected<void, Error> prepare(int executable, const WorkerUser& user);
  std::expected<void, Error> start();
  void end();

  int executable_ = -1;
  Descriptor event_;
  Descriptor page_file_;
  Descriptor read_only_page_;
  GatePage* page_ = nullptr;
  Descriptor channel_;
  pid_t process_ = -1;
  bool watched_ = false;
  std::chrono::steady_clock::time_point next_start_;
};

// What the gate counts, as the worker reads it. Thread-safe.
class ExecGateStatus {
 public:
  explicit ExecGateStatus(Descriptor page);  // without one, all is zero
  ~ExecGateStatus();
  ExecGateStatus(const ExecGateStatus&) = delete;
  ExecGateStatus& operator=(const ExecGateStatus&) = delete;
  ExecGateCounters counters() const;

 private:
  const GatePage* page_ = nullptr;
};

}  // namespace weir::agent
