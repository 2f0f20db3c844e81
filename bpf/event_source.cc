// The consumer of the ring buffer, over the memory that the kernel shares by the ring's descriptor: it needs
// no capability and no libbpf. Layout and bits: kernel/bpf/ringbuf.c and include/uapi/linux/bpf.h.
#include "bpf/event_source.h"

#include <fcntl.h>
#include <linux/bpf.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cerrno>
#include <cstring>
#include <ctime>
#include <deque>
#include <mutex>
#include <utility>

#include "bpf/kernel_list.h"
#include "bpf/kernel_table.h"
#include "bpf/wire.h"

namespace weir::bpf {
namespace {

// How long a record waits for others while they keep coming: waking this thread for each costs the programs
// that are watched more than the record.
constexpr std::chrono::milliseconds kBatchInterval{5};
// One poll() gives others a turn after this many records.
constexpr std::size_t kRecordsPerPoll = 4096;
constexpr std::size_t kArgumentBytes = 4096;

SourceError system_error(const std::string& what) {
  return {what + ": " + std::strerror(errno),
          "restart the agent; `weir doctor` tells what this kernel allows"};
}

class Descriptor {
 public:
  explicit Descriptor(int value) : value_(value) {}
  ~Descriptor() {
    if (value_ >= 0) ::close(value_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return value_; }

 private:
  int value_;
};

class SharedMemory {
 public:
  SharedMemory(int descriptor, std::size_t length, int protection, off_t offset)
      : length_(length), start_(::mmap(nullptr, length, protection, MAP_SHARED, descriptor, offset)) {}
  ~SharedMemory() {
    if (*this) ::munmap(start_, length_);
  }
  SharedMemory(const SharedMemory&) = delete;
  SharedMemory& operator=(const SharedMemory&) = delete;
  explicit operator bool() const { return start_ != MAP_FAILED; }
  template <class T>
  T* at(std::size_t offset) const {
    return reinterpret_cast<T*>(static_cast<std::byte*>(start_) + offset);
  }

 private:
  std::size_t length_;
  void* start_;
};

std::size_t page_bytes() {
  return static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
}

std::chrono::nanoseconds now(clockid_t clock) {
  timespec time{};
  ::clock_gettime(clock, &time);
  return std::chrono::seconds(time.tv_sec) + std::chrono::nanoseconds(time.tv_nsec);
}

std::uint64_t acquire(const std::uint64_t* word) {
  return __atomic_load_n(word, __ATOMIC_ACQUIRE);
}
std::uint64_t relaxed(const __u64& word) {
  return __atomic_load_n(&word, __ATOMIC_RELAXED);
}

// Two pages for the positions, then the data, mapped twice in a row so that a record never wraps.
class Ring {
 public:
  Ring(int descriptor, std::size_t bytes)
      : bytes_(bytes),
        consumer_(descriptor, page_bytes(), PROT_READ | PROT_WRITE, 0),
        producer_(descriptor, page_bytes() + 2 * bytes, PROT_READ, static_cast<off_t>(page_bytes())) {}

  explicit operator bool() const { return consumer_ && producer_; }

  std::uint64_t produced() const { return acquire(producer_.at<std::uint64_t>(0)); }
  std::uint64_t consumed() const { return *consumer_.at<std::uint64_t>(0); }

  // Hands each finished record to `take`, at most `limit` of them, in order. Stops at one that is being
  // written.
  template <class Take>
  std::size_t consume(std::size_t limit, Take take) {
    auto* consumed = consumer_.at<std::uint64_t>(0);
    std::uint64_t position = *consumed;
    std::size_t taken = 0;
    while (taken < limit && position < produced()) {
      const std::size_t at = page_bytes() + (position & (bytes_ - 1));
      const auto head = __atomic_load_n(producer_.at<std::uint32_t>(at), __ATOMIC_ACQUIRE);
      if (head & BPF_RINGBUF_BUSY_BIT) break;
      const std::size_t length = head & ~(BPF_RINGBUF_BUSY_BIT | BPF_RINGBUF_DISCARD_BIT);
      if (length > bytes_) break;
      if (!(head & BPF_RINGBUF_DISCARD_BIT)) {
        take(std::span<const std::byte>(producer_.at<std::byte>(at + BPF_RINGBUF_HDR_SZ), length));
        ++taken;
      }
      position += (length + BPF_RINGBUF_HDR_SZ + 7) / 8 * 8;
      __atomic_store_n(consumed, position, __ATOMIC_RELEASE);
    }
    return taken;
  }

 private:
  std::size_t bytes_;
  SharedMemory consumer_;
  SharedMemory producer_;
};

std::vector<std::string> read_arguments(std::uint32_t pid, bool& truncated) {
  const Descriptor file(::open(("/proc/" + std::to_string(pid) + "/cmdline").c_str(), O_RDONLY | O_CLOEXEC));
  std::array<char, kArgumentBytes> text{};
  const ssize_t length = file.get() < 0 ? 0 : ::read(file.get(), text.data(), text.size());
  truncated = length == static_cast<ssize_t>(text.size());
  std::vector<std::string> arguments;
  for (ssize_t at = 0; at < length;) {
    arguments.emplace_back(text.data() + at,
                           ::strnlen(text.data() + at, static_cast<std::size_t>(length - at)));
    at += static_cast<ssize_t>(arguments.back().size()) + 1;
  }
  return arguments;
}

class RingEventSource final : public EventSource {
 public:
  RingEventSource(Descriptors descriptors, EventPublisher& publisher,
                  std::function<std::string(std::uint32_t)> cgroup_of)
      : ring_descriptor_(descriptors.ring),
        control_descriptor_(descriptors.control),
        untold_descriptor_(descriptors.untold),
        epoll_(::epoll_create1(EPOLL_CLOEXEC)),
        ring_(descriptors.ring, descriptors.ring_bytes),
        control_(descriptors.control, page_bytes(), PROT_READ | PROT_WRITE, 0),
        untold_(descriptors.untold),
        publisher_(publisher),
        cgroup_of_(std::move(cgroup_of)),
        clock_{now(CLOCK_REALTIME) - now(CLOCK_BOOTTIME)} {}

  std::expected<void, SourceError> start() {
    if (!ring_) return std::unexpected(system_error("cannot map the ring buffer"));
    if (!control_) return std::unexpected(system_error("cannot map the control page"));
    epoll_event interest{};
    interest.events = EPOLLIN | EPOLLET;  // that the kernel side woke us, not that something is there
    if (epoll_.get() < 0 || ::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, ring_descriptor_.get(), &interest) != 0)
      return std::unexpected(system_error("cannot wait for the ring buffer"));
    set_batching(false);  // a worker before this one may have left it on
    return {};
  }

  std::size_t poll(std::chrono::milliseconds wait) override {
    if (batching_) return poll_batch(std::min(wait, kBatchInterval));
    std::size_t taken = drain();
    if (taken == 0) {
      wait_for_ring(wait);
      taken = drain();
    }
    if (taken > 0) set_batching(true);
    return taken;
  }

  void drain_for_the_end() override {
    const std::uint64_t end = ring_.produced();
    while (drain() > 0 && ring_.consumed() < end) {
    }
  }

  std::expected<std::size_t, SourceError> seed_processes(int task_iterator) override {
    return read_all<wire_task>(task_iterator,
                               [this](const wire_task& task) { take(std::as_bytes(std::span(&task, 1))); });
  }

  std::expected<std::size_t, SourceError> seed_connections(int socket_iterator) override {
    return read_all<wire_opened>(socket_iterator,
                                 [this](const wire_opened& one) { take(std::as_bytes(std::span(&one, 1))); });
  }

  std::expected<void, SourceError> look_at_processes_again(int task_iterator) override {
    const auto read = read_all<wire_task>(task_iterator, [&](const wire_task& task) {
      auto event = decode(std::as_bytes(std::span(&task, 1)), clock_);
      auto* process = event ? std::get_if<ProcessEvent>(&*event) : nullptr;
      if (process == nullptr) return;
      enrich(*process);
      publish(*std::move(event));
    });
    if (!read) return std::unexpected(read.error());
    return {};
  }

  void publish(Event event) override {
    const std::lock_guard lock(others_mutex_);
    others_.emplace_back(ring_.produced(), std::move(event));
  }

  void beat() override {
    const auto boot_ns = static_cast<std::uint64_t>(now(CLOCK_BOOTTIME).count());
    __atomic_store_n(&control_.at<wire_control>(0)->heartbeat_boot_ns, boot_ns, __ATOMIC_RELEASE);
  }

  SourceCounters counters() const override {
    const auto& kernel = *control_.at<const wire_control>(0);
    SourceCounters counters;
    counters.records = records_;
    counters.bytes = bytes_;
    counters.malformed = malformed_;
    counters.ring_full = relaxed(kernel.ring_full_records);
    counters.ring_full_bytes = relaxed(kernel.ring_full_bytes);
    counters.faults = relaxed(kernel.faults);
    counters.unreadable_bytes = relaxed(kernel.unreadable_bytes);
    counters.unaddressed_bytes = relaxed(kernel.unaddressed_bytes);
    counters.table_full = relaxed(kernel.table_full);
    counters.calls_lost = relaxed(kernel.calls_lost);
    counters.filtered_connections = relaxed(kernel.filtered_connections);
    counters.redirected_connections = relaxed(kernel.redirected_connections);
    counters.unredirected_connections = relaxed(kernel.unredirected_connections);
    counters.refused_datagrams = relaxed(kernel.refused_datagrams);
    counters.unmarked_children = relaxed(kernel.unmarked_children);
    counters.untold_connections = relaxed(kernel.untold_connections);
    counters.untold_processes = relaxed(kernel.untold_processes);
    counters.policy_refused = relaxed(kernel.policy_refused);
    counters.policy_unjudged = relaxed(kernel.policy_unjudged);
    counters.steered_connections = relaxed(kernel.steered_connections);
    counters.untold_policy = relaxed(kernel.untold_policy);
    return counters;
  }

 private:
  void wait_for_ring(std::chrono::milliseconds wait) {
    epoll_event ready{};
    ::epoll_wait(epoll_.get(), &ready, 1, static_cast<int>(wait.count()));
  }

  // The kernel side wakes us only for a ring that fills; one interval without a record ends that.
  std::size_t poll_batch(std::chrono::milliseconds interval) {
    if (!more_waits_) wait_for_ring(interval);
    const std::size_t taken = drain();
    more_waits_ = taken >= kRecordsPerPoll;
    if (taken == 0) set_batching(false);
    return taken;
  }

  void set_batching(bool on) {
    batching_ = on;
    more_waits_ = false;
    __atomic_store_n(&control_.at<wire_control>(0)->batching, on ? 1 : 0, __ATOMIC_SEQ_CST);
  }

  std::size_t drain() {
    const std::size_t taken =
        ring_.consume(kRecordsPerPoll, [this](std::span<const std::byte> record) { take(record); });
    return taken + drain_untold() + drain_others();
  }

  std::size_t drain_others() {
    const std::lock_guard lock(others_mutex_);
    std::size_t taken = 0;
    for (; !others_.empty() && ring_.consumed() >= others_.front().first; ++taken) {
      publisher_.publish(std::move(others_.front().second));
      others_.pop_front();
    }
    return taken;
  }

  // A connection that found no room in the ring ended after all that the ring then held of it.
  std::size_t drain_untold() {
    if (waiting_.empty()) collect_untold();
    if (waiting_.empty() || ring_.consumed() < waiting_for_) return 0;
    for (const wire_untold& one : waiting_) {
      take(std::as_bytes(std::span(&one.opened, 1)));
      take(std::as_bytes(std::span(&one.closed, 1)));
    }
    const std::size_t taken = waiting_.size();
    waiting_.clear();
    return taken;
  }

  void collect_untold() {
    const std::uint64_t ever = relaxed(control_.at<const wire_control>(0)->untold_connections);
    if (ever == untold_collected_) return;
    if (untold_.take_all<wire_untold_key>(waiting_)) untold_collected_ = ever;
    waiting_for_ = ring_.produced();
  }

  void take(std::span<const std::byte> record) {
    auto event = decode(record, clock_);
    if (!event) {
      ++malformed_;
      return;
    }
    ++records_;
    if (auto* process = std::get_if<ProcessEvent>(&*event)) enrich(*process);
    if (const auto* bytes = std::get_if<Bytes>(&*event)) bytes_ += bytes->data.size();
    publisher_.publish(*std::move(event));
  }

  void enrich(ProcessEvent& event) {
    if (event.what == ProcessEvent::What::seen)
      event.arguments = read_arguments(event.process.pid, event.arguments_truncated);
    if (event.what == ProcessEvent::What::seen || event.what == ProcessEvent::What::execed)
      event.cgroup_path = cgroup_of_(event.process.pid);
  }

  Descriptor ring_descriptor_;
  Descriptor control_descriptor_;
  Descriptor untold_descriptor_;
  Descriptor epoll_;
  Ring ring_;
  SharedMemory control_;
  KernelTable untold_;
  bool batching_ = false;
  bool more_waits_ = false;  // of a batch than one poll() takes
  std::vector<wire_untold> waiting_;
  std::uint64_t waiting_for_ = 0;  // the ring's position behind which they may be published
  std::uint64_t untold_collected_ = 0;
  std::mutex others_mutex_;
  std::deque<std::pair<std::uint64_t, Event>> others_;  // each with what the ring had been told before it
  EventPublisher& publisher_;
  std::function<std::string(std::uint32_t)> cgroup_of_;
  ClockOffset clock_;
  std::atomic<std::uint64_t> records_ = 0;
  std::atomic<std::uint64_t> bytes_ = 0;
  std::atomic<std::uint64_t> malformed_ = 0;
};

}  // namespace

std::expected<std::unique_ptr<EventSource>, SourceError> EventSource::create(
    Descriptors descriptors, EventPublisher& publisher,
    std::function<std::string(std::uint32_t pid)> cgroup_of) {
  auto source = std::make_unique<RingEventSource>(descriptors, publisher, std::move(cgroup_of));
  if (!std::has_single_bit(descriptors.ring_bytes))
    return std::unexpected(SourceError{"the ring's size is not a power of two", "choose another size"});
  if (auto started = source->start(); !started) return std::unexpected(started.error());
  return source;
}

}  // namespace weir::bpf
