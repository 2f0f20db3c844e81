// weir executes itself in its other roles, which have fewer rights.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "agent/state.h"

namespace weir::agent {

// In a forked child: becomes `role`, which finds `descriptors` from 3 on and nothing else that was open.
// Never returns; exits 126 when it can't.
[[noreturn]] void execute_role(int executable, const char* role, std::span<const int> descriptors,
                               const std::vector<std::string>& environment);

// Becomes that user, for good: no group, no capability, none to be had. Exits 126 when it can't.
void give_up_privileges(const WorkerUser& user);

}  // namespace weir::agent
