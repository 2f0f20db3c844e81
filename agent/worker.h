// The unprivileged process: everything that reads what others wrote.
#pragma once

namespace weir::agent {

// The hidden subcommand that the broker starts. Returns the exit status.
int run_worker();

}  // namespace weir::agent
