// `weir ca install` and `weir ca uninstall`: the CA among the roots that the whole host trusts.
#include <CLI/CLI.hpp>
#include <iostream>

#include "agent/commands/ca_commands.h"
#include "agent/commands/common.h"
#include "agent/host_trust.h"
#include "ca/ca.h"

namespace weir::agent {
namespace {

int tell(const std::expected<HostTrustDone, Error>& done, const char* changed, const char* same) {
  if (!done) return report(done.error());
  for (const std::string& note : done->notes) complain(note);
  std::cout << (done->changed ? changed : same) << '\n';
  return 0;
}

int install(const StateDir& state) {
  if (auto found = find_authority(state); !found) return report(found.error());
  auto authority = ca::Authority::load_or_create(state.ca());
  if (!authority) return report(to_error(authority.error()));
  return tell(install_on_host(state, (*authority)->roots_pem()),
              "installed: programs that start now trust it", "was installed already");
}

}  // namespace

void add_ca_install_commands(CLI::App& command, Action& action) {
  CLI::App* install_command = command.add_subcommand("install", "Let all programs of this host trust it");
  install_command->footer(
      "Example:\n  sudo weir ca install\n\n"
      "By the distribution's own way, and in the stores of JDKs that have their own. Browsers and Python's "
      "certifi are not touched.");
  auto install_dir = add_state_dir_option(*install_command);
  install_command->callback(
      [install_dir, &action] { action = [install_dir] { return install(*install_dir); }; });

  CLI::App* uninstall_command = command.add_subcommand("uninstall", "Undo that, file by file");
  uninstall_command->footer("Example:\n  sudo weir ca uninstall");
  auto uninstall_dir = add_state_dir_option(*uninstall_command);
  uninstall_command->callback([uninstall_dir, &action] {
    action = [uninstall_dir] {
      return tell(uninstall_from_host(*uninstall_dir), "uninstalled", "was not installed");
    };
  });
}

}  // namespace weir::agent
