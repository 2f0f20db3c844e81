// `weir release`: takes down what an agent that fails closed has left in the kernel.
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <iostream>

#include "agent/command.h"
#include "agent/error.h"
#include "bpf/pins.h"

namespace weir::agent {
namespace {

int release() {
  if (::geteuid() != 0) return report({"only root can take down what an agent has left in the kernel", ""});
  const auto released = bpf::release_pins();
  if (!released) return report(to_error(released.error()));
  std::cerr << (*released ? "weir: nothing is refused any more for want of an agent\n"
                          : "weir: no agent has left anything\n");
  return 0;
}

}  // namespace

void add_release_command(CLI::App& app, Action& action) {
  auto* command = app.add_subcommand(
      "release", "Let go direct what an agent with transparent.fail_closed refuses when it is gone or hangs");
  command->footer(
      "An agent that still runs goes on to redirect, and refuses nobody until it is started anew.\n\n"
      "Example:\n"
      "  weir release");
  command->callback([&action] { action = release; });
}

}  // namespace weir::agent
