// The parts of `weir ca` that have a file of their own.
#pragma once

#include <expected>

#include "agent/command.h"
#include "agent/command_line.h"

namespace weir::agent {

void add_ca_install_commands(CLI::App& command, Action& action);

// An error unless the state directory has a certificate that the caller can get at.
std::expected<void, Error> find_authority(const StateDir& state);

}  // namespace weir::agent
