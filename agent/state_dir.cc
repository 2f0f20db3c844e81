// Where the state is by default. It only makes up a name.
#include "agent/state_dir.h"

#include <pwd.h>
#include <unistd.h>

#include <cstdlib>

namespace weir::agent {
namespace {

std::filesystem::path home_directory() {
  if (const char* home = std::getenv("HOME"); home && *home == '/') return home;
  const passwd* user = ::getpwuid(::geteuid());
  return user ? user->pw_dir : "/";
}

}  // namespace

StateDir default_state_dir() {
  if (::geteuid() == 0) return {"/var/lib/weir"};
  // The XDG base directory specification: a relative path in these variables is to be ignored.
  if (const char* state = std::getenv("XDG_STATE_HOME"); state && *state == '/') {
    return {std::filesystem::path(state) / "weir"};
  }
  return {home_directory() / ".local/state/weir"};
}

}  // namespace weir::agent
