// What is attached ends with the last descriptor of it: closing is quick while the child has one, too.
#include "bpf/detacher.h"

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>

namespace weir::bpf {

void Detacher::detach(const FileIdentity& file, const std::function<void()>& close) {
  collect();
  int closed_here[2];
  const bool piped = ::pipe2(closed_here, O_CLOEXEC) == 0;
  const pid_t child = piped ? ::fork() : -1;
  if (child == 0) {
    ::close(closed_here[1]);
    char byte = 0;
    while (::read(closed_here[0], &byte, 1) < 0 && errno == EINTR) {
    }
    close();
    ::_exit(0);
  }
  close();
  if (child > 0) leaving_.push_back({file, child});
  if (!piped) return;
  ::close(closed_here[0]);
  ::close(closed_here[1]);
}

void Detacher::wait_for(const FileIdentity& file) {
  std::erase_if(leaving_, [&](const Leaving& one) {
    if (one.file != file) return false;
    while (::waitpid(one.child, nullptr, 0) < 0 && errno == EINTR) {
    }
    return true;
  });
}

void Detacher::wait_for_all() {
  while (!leaving_.empty()) wait_for(leaving_.back().file);
}

void Detacher::collect() {
  std::erase_if(leaving_, [](const Leaving& one) { return ::waitpid(one.child, nullptr, WNOHANG) != 0; });
}

}  // namespace weir::bpf
