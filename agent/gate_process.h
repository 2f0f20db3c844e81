// The process that answers the kernel's question whether a program may start (exec_gate.h): all of the host
// waits for it, so it waits for nobody. What is shared with the broker, who starts it.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <type_traits>

namespace weir::agent {

// What it inherits.
inline constexpr int gate_channel_descriptor = 3;
inline constexpr int gate_event_descriptor = 4;
inline constexpr int gate_page_descriptor = 5;

// Memory that stays when the process is replaced.
struct GatePage {
  std::atomic<std::uint64_t> held;
  std::atomic<std::uint64_t> late;
  std::atomic<std::uint64_t> restarts;
  std::atomic<std::uint32_t> pid;
  std::uint32_t user;
  std::uint32_t group;
};
static_assert(std::atomic<std::uint64_t>::is_always_lock_free);

enum class GateOrder : std::uint32_t {
  watch = 1,  // forgets what was seen, and holds from now on
  unwatch,    // holds nothing, and lets go who waits
  looking,    // somebody answers
  release,    // number
  forget,     // what was seen
};

// From the broker.
struct GateRequest {
  GateOrder order{};
  std::uint32_t number = 0;
};

// To the broker; with the file if there is a number. The first one says whether the kernel asks.
struct GateNotice {
  std::uint32_t number = 0;
  std::int32_t error = 0;       // an errno
  std::array<char, 32> what{};  // failed, zero-terminated
};

// Until the broker ends. Returns the exit status.
int run_exec_gate();

}  // namespace weir::agent
