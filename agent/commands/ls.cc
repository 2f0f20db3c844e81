// `weir ls`: what the store holds. The running agent is asked; without one the store is read directly.
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

struct LsOptions {
  StateDir state_dir;
  sinks::StoreQuery query;
  bool json = false;
};

bool print_record(const LsOptions& options, std::string_view line) {
  return print_line(options.json ? line : std::string_view(record_text(line, TimeStyle::full)));
}

int read_store(const LsOptions& options) {
  const auto entered = enter_as_owner(options.state_dir, &StateDir::database);
  if (!entered) return fail(entered.error());
  std::error_code error;
  if (!std::filesystem::exists(entered->database(), error)) return fail_not_running(options.state_dir);
  auto cursor = sinks::StoreCursor::open(entered->database(), options.query);
  if (!cursor) return fail(to_string(cursor.error()));
  auto line = cursor->next();
  while (line && *line && print_record(options, **line)) line = cursor->next();
  return line ? finish_output() : fail(to_string(line.error()));
}

int run(LsOptions& options) {
  if (!options.json) select_for_people(options.query);
  std::signal(SIGPIPE, SIG_IGN);
  const auto listed = ask_agent(options.state_dir, to_target("/v1/records", options.query),
                                [&options](std::string_view line) { return print_record(options, line); });
  if (listed) return finish_output();
  return listed.error().not_running ? read_store(options) : fail(listed.error().what);
}

}  // namespace

void add_ls_command(CLI::App& app, Action& action) {
  auto options = std::make_shared<LsOptions>();
  auto* command = app.add_subcommand("ls", "What was recorded, oldest first");
  add_state_dir_option(*command, options->state_dir);
  command->add_flag("--json", options->json, "Records as lines of JSON, all kinds unless --kind");
  add_filter_options(*command, options->query);
  add_limit_option(*command, options->query);
  command->footer(
      "Examples:\n  weir ls --host api.example.com --since 10m\n  weir ls --json --kind connection --limit "
      "100\n");
  command->callback([options, &action] { action = [options] { return run(*options); }; });
}

}  // namespace weir::agent
