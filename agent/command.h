// The subcommands. Each adds itself to the command line and, when the user chose it, sets `action` to what is
// to be run; main() parses, then runs it and exits with what it returns (0 done, 1 failed, 2 bad usage). Data
// goes to standard output, everything else to standard error.
#pragma once

#include <functional>

namespace CLI {
class App;
}

namespace weir::agent {

using Action = std::function<int()>;

void add_agent_command(CLI::App& app, Action& action);
void add_exec_command(CLI::App& app, Action& action);
void add_env_command(CLI::App& app, Action& action);
void add_ca_command(CLI::App& app, Action& action);
void add_status_command(CLI::App& app, Action& action);
void add_tail_command(CLI::App& app, Action& action);
void add_ls_command(CLI::App& app, Action& action);
void add_coverage_command(CLI::App& app, Action& action);
void add_policy_command(CLI::App& app, Action& action);
void add_doctor_command(CLI::App& app, Action& action);
void add_replay_command(CLI::App& app, Action& action);
void add_release_command(CLI::App& app, Action& action);

}  // namespace weir::agent
