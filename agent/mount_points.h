// Where programs may be started from: mount points, as proc_pid_mountinfo(5) lists them.
#pragma once

#include <istream>
#include <string>
#include <vector>

namespace weir::agent {

// Not of the kernel's own file systems, which hold no programs; nor of what another machine or process
// answers for: to wait for that would keep this one waiting, and all of the host with it.
std::vector<std::string> mount_points_with_programs(std::istream& mountinfo);

}  // namespace weir::agent
