// `weir coverage`: how much of each process's egress could be read.
#include <CLI/CLI.hpp>
#include <boost/json/parse.hpp>
#include <csignal>
#include <memory>

#include "agent/command.h"
#include "agent/command_line.h"
#include "agent/commands/common.h"
#include "agent/record_text.h"

namespace weir::agent {
namespace {

namespace json = boost::json;

struct CoverageOptions {
  StateDir state_dir;
  bool json = false;
};

std::uint64_t number_of(const json::object& row, std::string_view key) {
  const auto* value = row.if_contains(key);
  boost::system::error_code error;
  return value && value->is_number() ? value->to_number<std::uint64_t>(error) : 0;
}

std::string row_text(std::string_view line) {
  boost::system::error_code error;
  const auto parsed = json::parse(json::string_view(line.data(), line.size()), error);
  const auto* row = error ? nullptr : parsed.if_object();
  if (!row) return escape_for_terminal(line);
  const auto connections = number_of(*row, "connections");
  const auto readable = number_of(*row, "readable_connections");
  const double percentage =
      connections == 0 ? 0 : 100.0 * static_cast<double>(readable) / static_cast<double>(connections);
  const auto* name = row->if_contains("process.executable.name");
  const auto process = (name && name->is_string() ? escape_for_terminal(name->get_string()) : "?") + "[" +
                       std::to_string(number_of(*row, "process.pid")) + "]";
  char text[256];
  std::snprintf(text, sizeof(text), "%-32.128s %12llu %12llu %8.1f %%", process.c_str(),
                static_cast<unsigned long long>(connections), static_cast<unsigned long long>(readable),
                percentage);
  return text;
}

int run(const CoverageOptions& options) {
  std::signal(SIGPIPE, SIG_IGN);
  char heading[128];
  std::snprintf(heading, sizeof(heading), "%-32s %12s %12s %10s", "PROCESS", "CONNECTIONS", "READABLE",
                "COVERAGE");
  bool first = true;
  const auto on_line = [&](std::string_view line) {
    if (line.empty()) return true;
    if (!options.json && std::exchange(first, false)) print_line(heading);
    return print_line(options.json ? line : std::string_view(row_text(line)));
  };
  const auto answered = ask_agent(options.state_dir, "/v1/coverage", on_line);
  if (answered) return finish_output();
  return answered.error().not_running ? fail_not_running(options.state_dir) : fail(answered.error().what);
}

}  // namespace

void add_coverage_command(CLI::App& app, Action& action) {
  auto options = std::make_shared<CoverageOptions>();
  auto* command = app.add_subcommand("coverage", "How much of each process's egress could be read");
  add_state_dir_option(*command, options->state_dir);
  command->add_flag("--json", options->json, "A line of JSON for each process");
  command->footer("Example:\n  weir coverage\n");
  command->callback([options, &action] { action = [options] { return run(*options); }; });
}

}  // namespace weir::agent
