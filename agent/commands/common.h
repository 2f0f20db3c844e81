// What the reading subcommands share: their options, their output, and giving up root before looking at what
// others wrote.
#pragma once

#include <expected>
#include <filesystem>
#include <string>
#include <string_view>

#include "agent/api.h"
#include "agent/state_dir.h"
#include "sinks/store_reader.h"

namespace CLI {
class App;
}

namespace weir::agent {

// --process, --pid, --host, --status, --since, --kind: into `query`, which outlives the parse.
void add_filter_options(CLI::App& app, sinks::StoreQuery& query);
void add_limit_option(CLI::App& app, sinks::StoreQuery& query);  // --limit, likewise

// Without --kind, people are shown exchanges and the connections that could not be read; programs get
// everything.
void select_for_people(sinks::StoreQuery& query);

// As it can be named by who starts elsewhere; as it is, where there is no working directory.
StateDir absolute(const StateDir& state_dir);

// Standard output, a line at a time. False: nobody reads it any more, or it can't be written.
bool print_line(std::string_view line);
bool output_ended();  // print_line() has returned false

// What the command exits with after its last line: a reader that went away (`| head`) is no failure.
int finish_output();

// To standard error, as "weir: text".
void complain(const std::string& text);
int fail(const std::string& text);  // complains and returns 1
int fail_not_running(const StateDir& state_dir);

// Root becomes the owner of that file of the state directory, for good: what the worker wrote is read with
// the worker's rights. Returns the state directory as it can be named from then on.
std::expected<StateDir, std::string> enter_as_owner(const StateDir& state_dir,
                                                    std::filesystem::path (StateDir::*file)() const);

// api_get() on the agent's socket, as that socket's owner.
std::expected<void, ApiClientError> ask_agent(const StateDir& state_dir, const std::string& target,
                                              const std::function<bool(std::string_view line)>& on_line);

}  // namespace weir::agent
