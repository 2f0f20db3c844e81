// What /proc tells of a process. The caller must be allowed to look; what it may not see stays empty.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <unordered_map>

#include "attribution/events.h"

namespace weir::agent {

// The text of /proc/PID/cgroup; "" when the process is gone.
std::string read_cgroup(std::uint32_t pid);

// Whether the process of that pid, as a file names it, is gone or about to be; false for "".
bool has_ended(const std::string& pid);

// A ProcessEvent of kind `seen`; nothing when the process is gone. The start time has clock-tick precision.
std::optional<ProcessEvent> read_process(std::uint32_t pid);

// The name of that user here; the number when there is none.
std::string user_name(std::uint32_t uid);

// The same, looked up seldom: each look reads files. One thread, or one copy a thread.
class UserNames {
 public:
  std::string operator()(std::uint32_t uid);

 private:
  static constexpr std::chrono::seconds kept{10};
  static constexpr std::size_t most = 4096;
  struct Name {
    std::string name;
    std::chrono::steady_clock::time_point until;
  };
  std::unordered_map<std::uint32_t, Name> names_;
};

// Wall-clock time at CLOCK_BOOTTIME 0.
Time boot_time();

}  // namespace weir::agent
