// fanotify(7). Must never wait for anybody, never start a program, and never parse what others wrote.
//
// A file that was answered for is let through from then on as long as it is the same file with the same
// content: by the kernel itself, where this user may read the file (an ignore mark), so that what has run
// once starts even while this process is stopped; else by what is remembered here.
#include "agent/gate_process.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/fanotify.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <fstream>
#include <map>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <tuple>
#include <vector>

#include "agent/channel.h"
#include "agent/descriptor.h"
#include "agent/exec_gate.h"
#include "agent/mount_points.h"
#include "agent/own_program.h"

namespace weir::agent {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::size_t most_files = 65'536;
constexpr std::size_t most_waiting = 256;
constexpr std::chrono::milliseconds longest_start{5000};
constexpr int priority = -10;  // before what is only computing

// Device, inode, time of the last change and size.
using FileVersion = std::tuple<dev_t, ino_t, std::int64_t, std::int64_t, off_t>;

std::optional<FileVersion> version_of(int file) {
  struct stat status{};
  if (::fstat(file, &status) != 0) return std::nullopt;
  return FileVersion{status.st_dev, status.st_ino, status.st_ctim.tv_sec, status.st_ctim.tv_nsec,
                     status.st_size};
}

// The kernel ends this process when it isn't wound up in time: a stopped or hanging one would keep every new
// program of the host from starting.
class DeadMansSwitch {
 public:
  bool make() {
    sigevent event{};
    event.sigev_notify = SIGEV_SIGNAL;
    event.sigev_signo = SIGKILL;
    return ::timer_create(CLOCK_MONOTONIC, &event, &timer_) == 0 && wind_up(longest_start);
  }
  bool wind_up(std::chrono::milliseconds time) {
    itimerspec limit{};
    limit.it_value.tv_sec = time.count() / 1000;
    limit.it_value.tv_nsec = time.count() % 1000 * 1'000'000;
    return ::timer_settime(timer_, 0, &limit, nullptr) == 0;
  }

 private:
  timer_t timer_{};
};

class Gate {
 public:
  explicit Gate(GatePage& page)
      : page_(page), last_number_(static_cast<std::uint32_t>(page.restarts) << 20) {}

  int run() {
    if (!switch_.make()) return refuse("timer_create");
    if (!ask_kernel()) return 1;
    const pid_t broker = ::getppid();
    give_up_privileges({page_.user, page_.group});
    // After the change of user, which would undo it.
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (::getppid() != broker) return 0;
    page_.pid = static_cast<std::uint32_t>(::getpid());
    tell({});
    while (true) {
      switch_.wind_up(ExecGate::longest_silence);
      pollfd waits[] = {{group_.get(), POLLIN, 0}, {gate_channel_descriptor, POLLIN, 0}};
      (void)::poll(waits, 2, static_cast<int>(time_to_next().count()));
      if (!take_orders()) return 0;
      read_events();
      let_go_late_ones();
    }
  }

 private:
  struct Waiting {
    Descriptor file;
    Clock::time_point until;
  };

  bool ask_kernel() {
    group_ = Descriptor(
        ::fanotify_init(FAN_CLASS_CONTENT | FAN_CLOEXEC | FAN_NONBLOCK, O_RDONLY | O_LARGEFILE | O_CLOEXEC));
    if (!group_) return refuse("fanotify") == 0;
    bool any = false;
    int error = 0;
    std::ifstream mounts("/proc/self/mountinfo");
    for (const std::string& point : mount_points_with_programs(mounts)) {
      const bool marked = ::fanotify_mark(group_.get(), FAN_MARK_ADD | FAN_MARK_FILESYSTEM,
                                          FAN_OPEN_EXEC_PERM, AT_FDCWD, point.c_str()) == 0;
      if (!marked) error = errno;
      any = any || marked;
    }
    errno = error;
    return any || refuse("fanotify_mark") == 0;
  }

  int refuse(const char* what) {
    GateNotice notice;
    notice.error = errno != 0 ? errno : EINVAL;
    std::strncpy(notice.what.data(), what, notice.what.size() - 1);
    tell(notice);
    return 1;
  }

  bool tell(const GateNotice& notice, std::span<const int> file = {}) {
    return send_packet(gate_channel_descriptor, std::as_bytes(std::span(&notice, 1)), file, MSG_DONTWAIT)
        .has_value();
  }

  std::chrono::milliseconds time_to_next() const {
    const auto beat = ExecGate::longest_silence / 4;
    if (waiting_.empty()) return beat;
    const auto left =
        std::chrono::ceil<std::chrono::milliseconds>(waiting_.begin()->second.until - Clock::now());
    return std::clamp(left, std::chrono::milliseconds(0), beat);
  }

  // False when the broker is gone.
  bool take_orders() {
    while (true) {
      GateRequest request;
      const ssize_t size = ::recv(gate_channel_descriptor, &request, sizeof request, MSG_DONTWAIT);
      if (size < 0) return errno == EAGAIN || errno == EINTR;
      if (size != sizeof request) return false;
      obey(request);
    }
  }

  void obey(const GateRequest& request) {
    switch (request.order) {
      case GateOrder::watch:
      case GateOrder::unwatch:
        watched_ = request.order == GateOrder::watch;
        answered_ = true;
        forget();
        if (!watched_) let_all_go();
        return;
      case GateOrder::looking:
        answered_ = true;
        return;
      case GateOrder::release:
        return release(request.number);
      case GateOrder::forget:
        return forget();
    }
  }

  void release(std::uint32_t number) {
    const auto found = waiting_.find(number);
    if (found == waiting_.end()) return;
    const int file = found->second.file.get();
    if (::fanotify_mark(group_.get(), FAN_MARK_ADD | FAN_MARK_IGNORED_MASK | FAN_MARK_EVICTABLE,
                        FAN_OPEN_EXEC_PERM, file, nullptr) != 0) {
      if (const auto version = version_of(file)) remember(*version);
    }
    allow(file);
    waiting_.erase(found);
  }

  void forget() {
    seen_.clear();
    ::fanotify_mark(group_.get(), FAN_MARK_FLUSH, 0, AT_FDCWD, nullptr);  // the inodes' alone
  }

  void remember(const FileVersion& version) {
    if (seen_.size() >= most_files) seen_.clear();
    seen_.insert(version);
  }

  void read_events() {
    alignas(fanotify_event_metadata) std::array<char, 4096> buffer;
    ssize_t size = ::read(group_.get(), buffer.data(), buffer.size());
    auto* event = reinterpret_cast<fanotify_event_metadata*>(buffer.data());
    for (; FAN_EVENT_OK(event, size); event = FAN_EVENT_NEXT(event, size)) {
      if (event->fd < 0) continue;  // the queue has overflowed: the kernel lets those go
      decide(Descriptor(event->fd));
    }
  }

  void decide(Descriptor file) {
    if (!watched_) return allow(file.get());
    if (!seen_.empty()) {
      const auto version = version_of(file.get());
      if (!version || seen_.contains(*version)) return allow(file.get());
    }
    // Who let one wait too long is not waited for again before it asks.
    const bool waits = answered_ && waiting_.size() < most_waiting;
    const int sent[] = {file.get()};
    GateNotice notice;
    notice.number = ++last_number_;
    if (!waits || !tell(notice, sent)) {
      ++page_.late;
      return allow(file.get());
    }
    ++page_.held;
    waiting_.emplace(last_number_, Waiting{std::move(file), Clock::now() + ExecGate::longest_hold});
    ::eventfd_write(gate_event_descriptor, 1);
  }

  // The first is the oldest. Nobody looks: the others need not wait their time out.
  void let_go_late_ones() {
    if (waiting_.empty() || waiting_.begin()->second.until > Clock::now()) return;
    page_.late += waiting_.size();
    answered_ = false;
    let_all_go();
    ::eventfd_write(gate_event_descriptor, 1);  // whoever comes to look is waited for again
  }

  void let_all_go() {
    for (auto& [number, waiting] : waiting_) allow(waiting.file.get());
    waiting_.clear();
  }

  void allow(int file) {
    const fanotify_response response{file, FAN_ALLOW};
    while (::write(group_.get(), &response, sizeof response) < 0 && errno == EINTR) {
    }
  }

  GatePage& page_;
  DeadMansSwitch switch_;
  Descriptor group_;
  bool watched_ = false;
  bool answered_ = true;
  std::set<FileVersion> seen_;
  std::map<std::uint32_t, Waiting> waiting_;  // in the order of their deadlines
  std::uint32_t last_number_;                 // an earlier process's numbers mean nothing here
};

}  // namespace

int run_exec_gate() {
  for (const int descriptor : {gate_channel_descriptor, gate_event_descriptor, gate_page_descriptor})
    ::fcntl(descriptor, F_SETFD, FD_CLOEXEC);
  // It ends with the broker; what a terminal or a service manager sends to all is for the broker.
  ::setsid();
  for (const int signal : {SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGPIPE, SIGTSTP, SIGTTIN, SIGTTOU})
    ::signal(signal, SIG_IGN);
  ::setpriority(PRIO_PROCESS, 0, priority);
  void* const page =
      ::mmap(nullptr, sizeof(GatePage), PROT_READ | PROT_WRITE, MAP_SHARED, gate_page_descriptor, 0);
  if (page == MAP_FAILED) return 1;
  return Gate(*static_cast<GatePage*>(page)).run();
}

}  // namespace weir::agent
