// Must work between fork and exec.
#include "agent/own_program.h"

#include <fcntl.h>
#include <grp.h>
#include <sys/prctl.h>
#include <unistd.h>

namespace weir::agent {
namespace {

constexpr int first_descriptor = 3;

int copy_above(int descriptor, int limit) {
  const int copy = ::fcntl(descriptor, F_DUPFD_CLOEXEC, limit);
  if (copy < 0) ::_exit(126);
  return copy;
}

}  // namespace

void execute_role(int executable, const char* role, std::span<const int> descriptors,
                  const std::vector<std::string>& environment) {
  // Out of the way first: one may stand where another belongs.
  const int end = first_descriptor + static_cast<int>(descriptors.size());
  executable = copy_above(executable, end);
  std::vector<int> copies;
  for (const int descriptor : descriptors) copies.push_back(copy_above(descriptor, end));
  for (int at = first_descriptor; const int copy : copies)
    if (::dup2(copy, at++) < 0) ::_exit(126);
  std::vector<char*> variables;
  for (const std::string& variable : environment) variables.push_back(const_cast<char*>(variable.c_str()));
  variables.push_back(nullptr);
  std::string name = "weir";
  std::string word = role;
  char* arguments[] = {name.data(), word.data(), nullptr};
  ::fexecve(executable, arguments, variables.data());
  ::_exit(126);
}

void give_up_privileges(const WorkerUser& user) {
  ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
  if (user.uid == ::geteuid()) return;
  // The bounding set first: dropping from it needs the capability that setresuid takes away.
  for (int capability = 0; ::prctl(PR_CAPBSET_READ, capability, 0, 0, 0) >= 0; ++capability) {
    ::prctl(PR_CAPBSET_DROP, capability, 0, 0, 0);
  }
  ::prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
  if (::setgroups(0, nullptr) != 0 || ::setresgid(user.gid, user.gid, user.gid) != 0 ||
      ::setresuid(user.uid, user.uid, user.uid) != 0) {
    ::_exit(126);
  }
}

}  // namespace weir::agent
