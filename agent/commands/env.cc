// `weir env`: the environment that `weir exec` gives to a command, for a shell, a service or a container.
#include <CLI/CLI.hpp>
#include <iostream>

#include "agent/child_environment.h"
#include "agent/command.h"
#include "agent/command_line.h"
#include "agent/commands/common.h"
#include "agent/config.h"

namespace weir::agent {
namespace {

int run(const StateDir& state, const std::string& format_name) {
  auto format = parse_environment_format(format_name);
  if (!format) {
    report(format.error());
    return 2;
  }
  auto agent = find_agent(state);
  if (!agent && agent.error().not_running) return fail_not_running(state);
  if (!agent) return report(agent.error().error);
  if (agent->proxy_address.empty())
    return report({"the agent runs without its proxy", "start it without --no-proxy"});
  auto variables = child_environment(state, agent->proxy_address);
  if (!variables) return report(variables.error());
  std::cout << render(*variables, *format) << std::flush;
  return 0;
}

}  // namespace

void add_env_command(CLI::App& app, Action& action) {
  CLI::App* command =
      app.add_subcommand("env", "Print the environment that sends a program through the proxy");
  command->footer("Example:\n  eval \"$(weir env)\"");
  auto state_dir = add_state_dir_option(*command);
  auto format = std::make_shared<std::string>("sh");
  command->add_option("--format", *format, "for whom")
      ->check(CLI::IsMember({"sh", "fish", "dotenv", "json", "systemd", "docker"}))
      ->capture_default_str();
  command->callback([state_dir, format, &action] {
    action = [state_dir, format] { return run(absolute(*state_dir), *format); };
  });
}

}  // namespace weir::agent
