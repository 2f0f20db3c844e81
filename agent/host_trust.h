// The CA among the roots that the whole host trusts, by the distribution's own way, and out again: each file
// that was touched gets back the bytes it had. What was done is written down first, in the state directory's
// ca/installed/ (root's, mode 0700), with copies of all that could change, so that an interrupted
// installation is undone, too.
#pragma once

#include <expected>
#include <string>
#include <string_view>
#include <vector>

#include "agent/error.h"
#include "agent/state_dir.h"

namespace weir::agent {

struct HostTrustDone {
  bool changed = false;            // false: it was so already
  std::vector<std::string> notes;  // what the administrator should know, a sentence each
};

bool is_installed(const StateDir& state);

// Makes `roots_pem` (one root or two) what the host trusts of ours. Root only.
std::expected<HostTrustDone, Error> install_on_host(const StateDir& state, std::string_view roots_pem);

// A file that others changed since loses our roots alone. Root only.
std::expected<HostTrustDone, Error> uninstall_from_host(const StateDir& state);

}  // namespace weir::agent
