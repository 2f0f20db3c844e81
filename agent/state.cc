// The state directory: made, checked, locked. Must refuse what another user could have prepared.
#include "agent/state.h"

#include <fcntl.h>
#include <poll.h>
#include <pwd.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <chrono>
#include <cstring>

#include "agent/process_info.h"
#include "ca/files.h"

namespace weir::agent {
namespace {

// systemd's range for dynamic users; no distribution gives these ids to accounts.
constexpr uid_t first_dynamic_uid = 61184;
constexpr uid_t last_dynamic_uid = 65519;

// Sticky, and writable for the worker's group; see state.h.
constexpr mode_t shared_mode = 01775;

// Empty, or made by weir: nobody's /tmp becomes a state directory by a slip.
bool is_ours(const StateDir& state) {
  std::error_code failed;
  return std::filesystem::is_empty(state.path, failed) || std::filesystem::exists(state.lock(), failed) ||
         std::filesystem::exists(state.ca().directory, failed);
}

Error errno_error(const std::string& what, const std::string& remedy) {
  return {what + ": " + std::strerror(errno), remedy};
}

// `weir exec` holds the lock for an instant when it looks whether an agent does.
constexpr std::chrono::milliseconds patience{200};
// Of an agent that was killed, a process that it was about to start may still hold it, and the kernel takes
// its time with its probes.
constexpr std::chrono::seconds patience_with_the_dead{10};

std::string holder_of(const Descriptor& lock) {
  std::string holder(32, '\0');
  const ssize_t size = ::pread(lock.get(), holder.data(), holder.size(), 0);
  holder.resize(size > 0 ? static_cast<std::size_t>(size) : 0);
  while (!holder.empty() && holder.back() == '\n') holder.pop_back();
  return holder;
}

bool take_exclusively(const Descriptor& lock) {
  const auto began = std::chrono::steady_clock::now();
  while (::flock(lock.get(), LOCK_EX | LOCK_NB) != 0) {
    const auto waited = std::chrono::steady_clock::now() - began;
    if (waited >= patience && (waited >= patience_with_the_dead || !has_ended(holder_of(lock)))) return false;
    ::poll(nullptr, 0, 20);
  }
  return true;
}

std::expected<Descriptor, Error> take_lock(const StateDir& state) {
  const std::string name = state.lock().string();
  Descriptor lock(::open(name.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!lock) return std::unexpected(errno_error(name, "check the state directory's owner and mode"));
  ::fchmod(lock.get(), 0600);  // whoever can open it can hold it
  if (!take_exclusively(lock)) {
    return std::unexpected(
        Error{"another agent (pid " + holder_of(lock) + ") runs on state directory " + state.path.string(),
              "stop it, or give this one its own --state-dir"});
  }
  const std::string pid = std::to_string(::getpid()) + "\n";
  if (::ftruncate(lock.get(), 0) != 0 ||
      ::pwrite(lock.get(), pid.data(), pid.size(), 0) != static_cast<ssize_t>(pid.size())) {
    return std::unexpected(errno_error(name, "is the disk full?"));
  }
  return lock;
}

// What an earlier worker made under a dynamic id becomes the present one's. Only plain files and sockets with
// a single name: nothing that could stand for something elsewhere. Whatever else is there is its owner's.
std::expected<void, Error> hand_over(const StateDir& state, const Descriptor& directory,
                                     const WorkerUser& worker) {
  const std::string database = state.database().filename().string();
  for (const std::string& name :
       {database, database + "-wal", database + "-shm", state.socket().filename().string(),
        state.api_token().filename().string()}) {
    const Descriptor file(::openat(directory.get(), name.c_str(), O_PATH | O_NOFOLLOW | O_CLOEXEC));
    struct stat status{};
    if (!file || ::fstat(file.get(), &status) != 0 || status.st_uid == worker.uid || status.st_uid == 0)
      continue;
    const bool plain = (S_ISREG(status.st_mode) || S_ISSOCK(status.st_mode)) && status.st_nlink == 1;
    const bool dynamic = status.st_uid >= first_dynamic_uid && status.st_uid <= last_dynamic_uid;
    if (!plain || !dynamic || ::fchownat(file.get(), "", worker.uid, worker.gid, AT_EMPTY_PATH) != 0) {
      return std::unexpected(
          Error{(state.path / name).string() + " belongs to user " + std::to_string(status.st_uid),
                "give it to user " + std::to_string(worker.uid) + ", or remove it"});
    }
  }
  return {};
}

}  // namespace

std::expected<WorkerUser, Error> choose_worker_user() {
  if (::geteuid() != 0) return WorkerUser{::geteuid(), ::getegid()};
  if (const passwd* account = ::getpwnam("weir")) return WorkerUser{account->pw_uid, account->pw_gid};
  for (uid_t id = first_dynamic_uid; id <= last_dynamic_uid; ++id) {
    if (::getpwuid(id) == nullptr) return WorkerUser{id, id};
  }
  return std::unexpected(Error{"no unused user id for the worker", "make a system user named weir"});
}

std::optional<pid_t> running_broker(const StateDir& state) {
  const Descriptor lock(::open(state.lock().c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
  struct stat status{};
  if (!lock || ::fstat(lock.get(), &status) != 0 || status.st_uid != ::geteuid()) return std::nullopt;
  if (::flock(lock.get(), LOCK_SH | LOCK_NB) == 0) return std::nullopt;
  pid_t pid = 0;
  const std::string text = holder_of(lock);
  std::from_chars(text.data(), text.data() + text.size(), pid);
  return pid > 1 ? std::optional(pid) : std::nullopt;
}

std::expected<LockedState, Error> open_state(const StateDir& state, const WorkerUser& worker) {
  const std::string name = state.path.string();
  const std::string remedy = "choose another with --state-dir";
  if (auto made = ca::make_directories(state.path); !made) return std::unexpected(to_error(made.error()));

  Descriptor directory(::open(name.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  struct stat status{};
  if (!directory || ::fstat(directory.get(), &status) != 0) {
    return std::unexpected(errno_error("state directory " + name, remedy));
  }
  if (status.st_uid != ::geteuid()) {
    return std::unexpected(
        Error{"state directory " + name + " belongs to user " + std::to_string(status.st_uid), remedy});
  }
  if (::faccessat(directory.get(), ".", W_OK | X_OK, AT_EACCESS) != 0) {
    return std::unexpected(errno_error("state directory " + name + " is not writable", remedy));
  }
  if (!is_ours(state)) {
    return std::unexpected(Error{"state directory " + name + " holds something else", remedy});
  }
  auto lock = take_lock(state);
  if (!lock) return std::unexpected(lock.error());
  if (worker.uid != ::geteuid() && (::fchown(directory.get(), ::geteuid(), worker.gid) != 0 ||
                                    ::fchmod(directory.get(), shared_mode) != 0)) {
    return std::unexpected(errno_error("state directory " + name, remedy));
  }
  if (worker.uid != ::geteuid()) {
    if (auto handed = hand_over(state, directory, worker); !handed) return std::unexpected(handed.error());
  }
  return LockedState{std::move(directory), std::move(*lock)};
}

}  // namespace weir::agent
