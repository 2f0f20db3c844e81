// Must never wait.
#include "agent/file_changes.h"

#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <string>
#include <string_view>

#include "agent/known_libraries.h"

namespace weir::agent {
namespace {

bool is_library_name(std::string_view name) {
  for (std::uint32_t number = 0;; ++number) {
    const auto path = known_library(number);
    if (!path) return false;
    if (path->substr(path->rfind('/') + 1) == name) return true;
  }
}

}  // namespace

Descriptor open_file_changes() {
  Descriptor changes(::inotify_init1(IN_CLOEXEC | IN_NONBLOCK));
  if (!changes) return Descriptor(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  for (std::uint32_t number = 0; changes; ++number) {
    const auto path = known_library(number);
    if (!path) break;
    const std::string directory = path->substr(0, path->rfind('/'));
    // One that isn't there is looked at by the scans alone; one under two names has one watch.
    ::inotify_add_watch(changes.get(), directory.c_str(), IN_MOVED_TO | IN_CLOSE_WRITE | IN_ONLYDIR);
  }
  return changes;
}

std::int32_t watch_content(int changes, int file) {
  const std::string path = "/proc/self/fd/" + std::to_string(file);
  return std::max(::inotify_add_watch(changes, path.c_str(), IN_MODIFY), 0);
}

void forget_watch(int changes, std::int32_t watch) {
  if (watch > 0) ::inotify_rm_watch(changes, watch);
}

bool read_file_changes(int changes, const std::function<void(const FileChange&)>& each) {
  bool all = true;
  alignas(inotify_event) std::array<char, 16384> buffer;
  ssize_t size = 0;
  while ((size = ::read(changes, buffer.data(), buffer.size())) > 0) {
    for (ssize_t at = 0; at < size;) {
      const auto* event = reinterpret_cast<const inotify_event*>(buffer.data() + at);
      at += static_cast<ssize_t>(sizeof(inotify_event) + event->len);
      if ((event->mask & IN_Q_OVERFLOW) != 0) all = false;
      const bool appeared = event->len > 0 && is_library_name(event->name);
      const bool content = (event->mask & IN_MODIFY) != 0;
      const bool ended = (event->mask & IN_IGNORED) != 0;
      if (appeared || content || ended) each({event->wd, content, ended});
    }
  }
  return all;
}

}  // namespace weir::agent
