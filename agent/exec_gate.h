// Holds the start of a program that was not seen before until its probes stand: a process that is told of
// only after its exec has often spoken before anybody could attach. Root's half: the kernel asks (fanotify),
// this answers, at the latest after `longest_hold`, also when nobody looks at the file; then nothing is held
// until somebody looks again.
//
// A thread of its own answers, so that a busy broker keeps nobody waiting. All functions are thread-safe.
#pragma once

#include <chrono>
#include <cstdint>
#include <expected>
#include <memory>
#include <optional>

#include "agent/descriptor.h"
#include "agent/error.h"

namespace weir::agent {

class ExecGate {
 public:
  static constexpr std::chrono::milliseconds longest_hold{100};

  // Watches every file system that is mounted now. The error says why the kernel allows none of it.
  static std::expected<std::unique_ptr<ExecGate>, Error> open();
  virtual ~ExecGate() = default;

  // Whether anybody looks: while false, nothing is held. Each call forgets what was seen.
  virtual void set_watched(bool watched) = 0;
  // Becomes readable when a file waits; for the worker.
  virtual int event_descriptor() const = 0;

  struct Held {
    std::uint32_t number = 0;
    Descriptor file;
  };
  // The next file that waits and was not taken yet.
  virtual std::optional<Held> take() = 0;
  // Its process may go on.
  virtual void release(std::uint32_t number) = 0;
  // All files are to be asked about again.
  virtual void forget_files() = 0;

  struct Counters {
    std::uint64_t held = 0;
    std::uint64_t late = 0;  // let go without an answer
  };
  virtual Counters counters() const = 0;
};

}  // namespace weir::agent
