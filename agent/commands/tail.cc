// `weir tail`: the live feed, until it is interrupted or the agent goes away.
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <csignal>
#include <memory>

#include "agent/command.h"
#include "agent/command_line.h"
#include "agent/commands/common.h"
#include "agent/record_query.h"
#include "agent/record_text.h"

namespace weir::agent {
namespace {

struct TailOptions {
  StateDir state_dir;
  sinks::StoreQuery query;
  bool json = false;
};

// Lines are written whole, so there is nothing to finish.
void end_well(int) {
  ::_exit(0);
}

int run(TailOptions& options) {
  if (!options.json) select_for_people(options.query);
  std::signal(SIGINT, end_well);
  std::signal(SIGTERM, end_well);
  std::signal(SIGPIPE, SIG_IGN);
  const auto on_line = [&options](std::string_view line) {
    if (line.empty()) {
      complain("following " + options.state_dir.path.string() + ", Ctrl-C ends it");
      return true;
    }
    return print_line(options.json ? line : std::string_view(record_text(line, TimeStyle::time_of_day)));
  };
  const auto followed = ask_agent(options.state_dir, to_target("/v1/tail", options.query), on_line);
  if (!followed && followed.error().not_running) return fail_not_running(options.state_dir);
  if (!followed) return fail(followed.error().what);
  const int written = finish_output();
  return output_ended() ? written : fail("the agent has ended");
}

}  // namespace

void add_tail_command(CLI::App& app, Action& action) {
  auto options = std::make_shared<TailOptions>();
  auto* command = app.add_subcommand("tail", "The live feed: what processes say to whom, as it happens");
  add_state_dir_option(*command, options->state_dir);
  command->add_flag("--json", options->json, "Records as lines of JSON, all kinds unless --kind");
  add_filter_options(*command, options->query);
  command->footer("Examples:\n  weir tail --process curl\n  weir tail --json --status 5xx | jq .\n");
  command->callback([options, &action] { action = [options] { return run(*options); }; });
}

}  // namespace weir::agent
