// What /proc tells of a process. The caller must be allowed to look; what it may not see stays empty.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "attribution/events.h"

namespace weir::agent {

// The text of /proc/PID/cgroup; "" when the process is gone.
std::string read_cgroup(std::uint32_t pid);

// A ProcessEvent of kind `seen`; nothing when the process is gone. The start time has clock-tick precision.
std::optional<ProcessEvent> read_process(std::uint32_t pid);

// The name of that user here; the number when there is none.
std::string user_name(std::uint32_t uid);

// Wall-clock time at CLOCK_BOOTTIME 0.
Time boot_time();

}  // namespace weir::agent
