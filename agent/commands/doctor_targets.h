// `weir doctor --pid N` and `weir doctor --processes`: what the native tap finds in running processes.
#pragma once

#include <cstdint>
#include <optional>

namespace weir::agent {

// Of one process or of all; gives the exit status. Gives up root on the way.
int report_targets(std::optional<std::uint32_t> pid, bool json);

}  // namespace weir::agent
