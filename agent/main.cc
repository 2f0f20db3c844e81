// The `weir` program: one executable, its subcommands, and the hidden ones that the broker starts.
#include <fcntl.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstring>
#include <iostream>
#include <string>
#include <string_view>
#include <vector>

#include "agent/command.h"
#include "agent/commands/common.h"
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

// The option that is given "" by an equals sign: CLI11 would take the next argument for its value. What
// stands behind "--", or behind `exec`'s first word, is not for us.
const char* option_without_value(int argc, char** argv) {
  const bool runs_another = argc > 1 && std::strcmp(argv[1], "exec") == 0;
  for (int i = 1; i < argc && std::strcmp(argv[i], "--") != 0; ++i) {
    const std::string_view word = argv[i];
    const bool option = word.starts_with("--");
    if (runs_another && i > 1 && !option && argv[i - 1][0] != '-') break;
    if (option && word.find('=') == word.size() - 1) return argv[i];
  }
  return nullptr;
}

// Else the next file that is opened would be standard input, output or error, and be written to as that. What
// stands there can be neither read nor written: it was closed.
void keep_standard_descriptors() {
  for (const int descriptor : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
    if (::fcntl(descriptor, F_GETFD) < 0)
      ::open("/dev/null", descriptor == STDIN_FILENO ? O_WRONLY : O_RDONLY);  // the lowest that is free
  }
}

int ended(int status) {
  std::cout.flush();
  return status == 0 && !std::cout ? fail("standard output can't be written") : status;
}

}  // namespace
}  // namespace weir::agent

int main(int argc, char** argv) {
  using namespace weir::agent;
  keep_standard_descriptors();
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

  if (const char* option = option_without_value(argc, argv)) {
    std::cerr << "weir: " << escape_for_terminal(option) << " is given no value\nTry `weir --help`.\n";
    return 2;
  }
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return ended(app.exit(error));
    const std::string what = what_is_wrong(error, app.remaining(true));
    std::cerr << "weir: " << escape_for_terminal(what) << "\nTry `weir --help`.\n";
    return 2;
  }
  return ended(action());
}
