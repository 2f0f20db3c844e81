// The parts of `weir ca` that have a file of their own.
#pragma once

#include "agent/command.h"
#include "agent/command_line.h"

namespace weir::agent {

void add_ca_install_commands(CLI::App& command, Action& action);

}  // namespace weir::agent
