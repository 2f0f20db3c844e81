#include "agent/lease.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace weir::agent {
namespace {

// Others hold the lock for an instant when they look whether they are alone.
constexpr int tries = 20;
constexpr int between_tries_ms = 5;

Descriptor open_users(const StateDir& state) {
  return Descriptor(::open(state.users().c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
}

bool lock(const Descriptor& file, int kind) {
  for (int i = 0; i < tries; ++i) {
    if (::flock(file.get(), kind | LOCK_NB) == 0) return true;
    ::poll(nullptr, 0, between_tries_ms);
  }
  return false;
}

}  // namespace

std::optional<Descriptor> take_lease(const StateDir& state) {
  Descriptor file = open_users(state);
  if (!file) return Descriptor();
  if (!lock(file, LOCK_SH)) return std::nullopt;
  struct stat status{};
  if (::fstat(file.get(), &status) != 0 || status.st_nlink == 0) return std::nullopt;  // claimed meanwhile
  return file;
}

bool claim_agent(const StateDir& state) {
  const Descriptor file = open_users(state);
  return file && lock(file, LOCK_EX) && ::unlink(state.users().c_str()) == 0;
}

std::expected<Leases, Error> Leases::open(const StateDir& state, bool while_used) {
  const std::string name = state.users().string();
  // Always a new file: a lock on one that an earlier agent left must not keep this one alive.
  if (::unlink(name.c_str()) != 0 && errno != ENOENT) {
    return std::unexpected(Error{name + ": " + std::strerror(errno), "remove it"});
  }
  Leases leases;
  if (!while_used) return leases;
  leases.file_ = Descriptor(::open(name.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0644));
  if (!leases.file_) {
    return std::unexpected(Error{name + ": " + std::strerror(errno), "check the state directory"});
  }
  return leases;
}

bool Leases::ended(pid_t starter) const {
  return file_ && ::getppid() != starter && ::flock(file_.get(), LOCK_EX | LOCK_NB) == 0;
}

}  // namespace weir::agent
