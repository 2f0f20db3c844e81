// fanotify(7). What waits is bounded by what the kernel queues; a file that was answered for is let through
// at once from then on, as long as it is the same file with the same content.
#include "agent/exec_gate.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/fanotify.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <map>
#include <mutex>
#include <set>
#include <sstream>
#include <string>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>

namespace weir::agent {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::size_t most_files = 65'536;

// Device, inode, time of the last change and size.
using FileVersion = std::tuple<dev_t, ino_t, std::int64_t, std::int64_t, off_t>;

std::optional<FileVersion> version_of(int file) {
  struct stat status{};
  if (::fstat(file, &status) != 0) return std::nullopt;
  return FileVersion{status.st_dev, status.st_ino, status.st_ctim.tv_sec, status.st_ctim.tv_nsec,
                     status.st_size};
}

// The kernel's own file systems hold no programs.
bool may_hold_programs(const std::string& type) {
  static const std::set<std::string> none = {"proc",        "sysfs",    "cgroup",  "cgroup2",   "devpts",
                                             "mqueue",      "debugfs",  "tracefs", "bpf",       "securityfs",
                                             "pstore",      "configfs", "fusectl", "hugetlbfs", "autofs",
                                             "binfmt_misc", "efivarfs", "nsfs"};
  return !none.contains(type);
}

// Type and mount point stand around " - ": proc_pid_mountinfo(5).
std::vector<std::string> mount_points() {
  std::vector<std::string> found;
  std::ifstream mounts("/proc/self/mountinfo");
  for (std::string line; std::getline(mounts, line);) {
    std::istringstream words(line);
    std::string word, point, type;
    for (int i = 0; i < 5; ++i) words >> point;
    while (words >> word && word != "-") {
    }
    words >> type;
    if (may_hold_programs(type)) found.push_back(point);
  }
  return found;
}

class FanotifyGate final : public ExecGate {
 public:
  std::expected<void, Error> start() {
    group_ = Descriptor(
        ::fanotify_init(FAN_CLASS_CONTENT | FAN_CLOEXEC | FAN_NONBLOCK, O_RDONLY | O_LARGEFILE | O_CLOEXEC));
    if (!group_) return std::unexpected(Error{std::string("fanotify: ") + std::strerror(errno), ""});
    event_ = Descriptor(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    wake_ = Descriptor(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    bool any = false;
    int error = 0;
    for (const std::string& point : mount_points()) {
      const bool marked = ::fanotify_mark(group_.get(), FAN_MARK_ADD | FAN_MARK_FILESYSTEM,
                                          FAN_OPEN_EXEC_PERM, AT_FDCWD, point.c_str()) == 0;
      if (!marked) error = errno;
      any = any || marked;
    }
    if (!any) return std::unexpected(Error{std::string("fanotify_mark: ") + std::strerror(error), ""});
    answerer_ = std::jthread([this](const std::stop_token& stop) { answer(stop); });
    return {};
  }

  ~FanotifyGate() override {
    answerer_.request_stop();
    ::eventfd_write(wake_.get(), 1);
    if (answerer_.joinable()) answerer_.join();
    // Closing the group lets go whoever waits.
  }

  void set_watched(bool watched) override {
    const std::lock_guard lock(mutex_);
    watched_ = watched;
    answered_ = true;
    seen_.clear();
    if (!watched) {
      for (auto& [number, waiting] : waiting_) allow(waiting.file.get());
      waiting_.clear();
    }
  }

  int event_descriptor() const override { return event_.get(); }

  std::optional<Held> take() override {
    const std::lock_guard lock(mutex_);
    answered_ = true;
    for (auto& [number, waiting] : waiting_) {
      if (std::exchange(waiting.taken, true)) continue;
      return Held{number, Descriptor(::fcntl(waiting.file.get(), F_DUPFD_CLOEXEC, 0))};
    }
    eventfd_t value = 0;
    ::eventfd_read(event_.get(), &value);
    return std::nullopt;
  }

  void release(std::uint32_t number) override {
    const std::lock_guard lock(mutex_);
    const auto found = waiting_.find(number);
    if (found == waiting_.end()) return;
    if (const auto version = version_of(found->second.file.get())) remember(*version);
    allow(found->second.file.get());
    waiting_.erase(found);
  }

  void forget_files() override {
    const std::lock_guard lock(mutex_);
    seen_.clear();
  }

  Counters counters() const override {
    const std::lock_guard lock(mutex_);
    return counters_;
  }

 private:
  struct Waiting {
    Descriptor file;
    Clock::time_point until;
    bool taken = false;
  };

  void answer(const std::stop_token& stop) {
    while (!stop.stop_requested()) {
      pollfd waits[] = {{group_.get(), POLLIN, 0}, {wake_.get(), POLLIN, 0}};
      (void)::poll(waits, 2, static_cast<int>(time_to_next().count()));
      read_events();
      let_go_late_ones();
    }
  }

  std::chrono::milliseconds time_to_next() {
    const std::lock_guard lock(mutex_);
    if (waiting_.empty()) return std::chrono::milliseconds(-1);
    const auto left = waiting_.begin()->second.until - Clock::now();
    return std::max(std::chrono::ceil<std::chrono::milliseconds>(left), std::chrono::milliseconds(0));
  }

  void read_events() {
    alignas(fanotify_event_metadata) std::array<char, 4096> buffer;
    ssize_t size = ::read(group_.get(), buffer.data(), buffer.size());
    const std::lock_guard lock(mutex_);
    auto* event = reinterpret_cast<fanotify_event_metadata*>(buffer.data());
    for (; FAN_EVENT_OK(event, size); event = FAN_EVENT_NEXT(event, size)) {
      if (event->fd < 0) continue;  // the queue has overflowed: the kernel lets those go
      decide(Descriptor(event->fd));
    }
  }

  void decide(Descriptor file) {
    const auto version = version_of(file.get());
    if (!watched_ || !version || seen_.contains(*version)) return allow(file.get());
    // Who let one wait too long is not waited for again before it asks.
    if (!answered_) {
      ++counters_.late;
      return allow(file.get());
    }
    ++counters_.held;
    waiting_.emplace(++last_number_, Waiting{std::move(file), Clock::now() + longest_hold});
    ::eventfd_write(event_.get(), 1);
  }

  void let_go_late_ones() {
    const std::lock_guard lock(mutex_);
    while (!waiting_.empty() && waiting_.begin()->second.until <= Clock::now()) {
      allow(waiting_.begin()->second.file.get());
      waiting_.erase(waiting_.begin());
      ++counters_.late;
      answered_ = false;
    }
  }

  void allow(int file) {
    const fanotify_response response{file, FAN_ALLOW};
    while (::write(group_.get(), &response, sizeof response) < 0 && errno == EINTR) {
    }
  }

  void remember(const FileVersion& version) {
    if (seen_.size() >= most_files) seen_.clear();
    seen_.insert(version);
  }

  Descriptor group_;
  Descriptor event_;
  Descriptor wake_;
  mutable std::mutex mutex_;
  bool watched_ = false;
  bool answered_ = true;
  std::set<FileVersion> seen_;
  std::map<std::uint32_t, Waiting> waiting_;  // in the order of their deadlines
  std::uint32_t last_number_ = 0;
  Counters counters_;
  std::jthread answerer_;
};

}  // namespace

std::expected<std::unique_ptr<ExecGate>, Error> ExecGate::open() {
  auto gate = std::make_unique<FanotifyGate>();
  if (auto started = gate->start(); !started) return std::unexpected(started.error());
  return gate;
}

}  // namespace weir::agent
