// The `weir` program: one executable, its subcommands, and the hidden ones that the broker starts.
#include <CLI/CLI.hpp>
#include <cstring>
#include <iostream>
#include <string>
#include <vector>

#include "agent/command.h"
#include "agent/gate_process.h"
#include "agent/record_text.h"
#include "agent/worker.h"

namespace weir::agent {
namespace {

std::string what_is_wrong(const CLI::ParseError& error, std::vector<std::string> rest) {
  std::erase(rest, "--");  // it ended the options: nobody's mistake
  if (rest.empty()) return error.what();
  // CLI11 misses the subcommand before it looks at what stands in its place.
  const auto is = [&](CLI::ExitCodes code) { return error.get_exit_code() == static_cast<int>(code); };
  if (is(CLI::ExitCodes::RequiredError)) return "there is no '" + rest.front() + "'";
  if (!is(CLI::ExitCodes::ExtrasError)) return error.what();
  std::string what = "not expected:";
  for (const std::string& word : rest) what += " " + word;
  return what;
}

}  // namespace
}  // namespace weir::agent

int main(int argc, char** argv) {
  using namespace weir::agent;
  // Not on the command line's help: only the broker starts them, with a channel that nobody else has.
  if (argc == 2 && std::strcmp(argv[1], "worker") == 0) return run_worker();
  if (argc == 2 && std::strcmp(argv[1], "exec-gate") == 0) return run_exec_gate();

  CLI::App app("weir shows what every process on this host says to the outside world.", "weir");
  app.require_subcommand(1);
  app.set_version_flag("--version", WEIR_VERSION);
  app.footer(
      "Examples:\n"
      "  weir agent &            watch this host (as root: all of it)\n"
      "  weir tail               the live feed\n"
      "  weir exec -- java -jar app.jar    run a program through the egress proxy\n"
      "\n`weir COMMAND --help` tells more of each.");
  Action action;
  add_agent_command(app, action);
  add_exec_command(app, action);
  add_env_command(app, action);
  add_tail_command(app, action);
  add_ls_command(app, action);
  add_coverage_command(app, action);
  add_status_command(app, action);
  add_ca_command(app, action);
  add_policy_command(app, action);
  add_doctor_command(app, action);
  add_replay_command(app, action);
  add_release_command(app, action);

  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);
    const std::string what = what_is_wrong(error, app.remaining(true));
    std::cerr << "weir: " << escape_for_terminal(what) << "\nTry `weir --help`.\n";
    return 2;
  }
  return action();
}
