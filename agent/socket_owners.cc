// A walk over /proc/PID/fd. Must compare links as text only, and never follow one.
#include "agent/socket_owners.h"

#include <dirent.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <filesystem>
#include <string_view>
#include <vector>

namespace weir::agent {
namespace {

class Directory {
 public:
  explicit Directory(const std::string& name) : handle_(::opendir(name.c_str())) {}
  ~Directory() {
    if (handle_ != nullptr) ::closedir(handle_);
  }
  Directory(const Directory&) = delete;
  Directory& operator=(const Directory&) = delete;
  const dirent* next() { return handle_ == nullptr ? nullptr : ::readdir(handle_); }

 private:
  DIR* handle_;
};

bool holds_socket(std::uint32_t pid, std::uint32_t inode) {
  const std::string base = "/proc/" + std::to_string(pid) + "/fd/";
  const std::string wanted = "socket:[" + std::to_string(inode) + "]";
  Directory descriptors(base);
  while (const dirent* entry = descriptors.next()) {
    std::array<char, 64> link{};
    const ssize_t size = ::readlink((base + entry->d_name).c_str(), link.data(), link.size());
    if (size > 0 && std::string_view(link.data(), static_cast<std::size_t>(size)) == wanted) return true;
  }
  return false;
}

std::vector<std::uint32_t> newest_first() {
  std::vector<std::uint32_t> pids;
  Directory proc("/proc");
  while (const dirent* entry = proc.next()) {
    const int pid = std::atoi(entry->d_name);
    if (pid > 0 && pid != ::getpid()) pids.push_back(static_cast<std::uint32_t>(pid));
  }
  std::sort(pids.rbegin(), pids.rend());
  return pids;
}

}  // namespace

// The process that had the last socket likely has this one too; then the newest, as clients are short-lived.
std::optional<SocketOwner> SocketOwners::find(std::uint32_t socket_inode) {
  std::uint32_t owner = last_pid_ != 0 && holds_socket(last_pid_, socket_inode) ? last_pid_ : 0;
  if (owner == 0) {
    for (const std::uint32_t pid : newest_first()) {
      if (!holds_socket(pid, socket_inode)) continue;
      owner = pid;
      break;
    }
  }
  if (owner == 0) return std::nullopt;
  last_pid_ = owner;
  std::error_code gone;
  return SocketOwner{owner,
                     std::filesystem::read_symlink("/proc/" + std::to_string(owner) + "/exe", gone).string()};
}

}  // namespace weir::agent
