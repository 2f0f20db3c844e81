// What several subcommands share.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <expected>
#include <memory>
#include <string>

#include "agent/error.h"
#include "agent/state_dir.h"

namespace weir::agent {

// Adds --state-dir with its default. The second form's value outlives the parse by itself.
void add_state_dir_option(CLI::App& command, StateDir& state_dir);
std::shared_ptr<StateDir> add_state_dir_option(CLI::App& command);

// Where a running agent's proxy listens.
struct RunningAgent {
  std::uint32_t pid = 0;      // of its broker
  std::string proxy_address;  // "127.0.0.1:7443"
  std::string ca_sha256;      // of the root that signs
  bool ca_overlap = false;    // of a rotation
  bool native_ready = false;
  bool for_a_command = false;  // ends with its last user (users.h)
};
// The error's `not_running` says that no agent answers on that directory.
struct NoAgent {
  bool not_running = false;
  Error error;
};
std::expected<RunningAgent, NoAgent> find_agent(const StateDir& state);

}  // namespace weir::agent
