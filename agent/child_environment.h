// The environment of a command that goes through the proxy: environment.h's table applied to a state
// directory.
#pragma once

#include <expected>
#include <string>
#include <vector>

#include "agent/environment.h"
#include "agent/error.h"
#include "agent/state_dir.h"

namespace weir::agent {

// Without the proxy's part, `proxy_address` isn't asked for.
std::expected<std::vector<Variable>, Error> child_environment(const StateDir& state,
                                                              const std::string& proxy_address,
                                                              EnvironmentParts parts = {});

// Sets it in this process, for the exec that follows.
std::expected<void, Error> set_child_environment(const StateDir& state, const std::string& proxy_address,
                                                 EnvironmentParts parts = {});

}  // namespace weir::agent
