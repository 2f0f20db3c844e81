// Rules and filters name executables as the kernel has them: by their real paths. One that names a symbolic
// link of this host matches no process of it, and whoever wrote it is told. It is not resolved: in a
// container the same path means another file.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "agent/config.h"
#include "attribution/policy_rules.h"

namespace weir::agent {

// Where the path leads on this host; nothing when it is no link and has none in it, or isn't there.
std::optional<std::filesystem::path> real_path_behind(const std::string& path);

// A line for each such executable of the policy in `file`, or of the configuration's filters.
std::vector<std::string> linked_executables(const Policy& policy, const std::string& file);
std::vector<std::string> linked_executables(const Config& config);

}  // namespace weir::agent
