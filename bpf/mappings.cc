// The layout of the perf ring and of its records: include/uapi/linux/perf_event.h.
#include "bpf/mappings.h"

#include <linux/perf_event.h>
#include <sys/mman.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

#include "bpf/kernel_list.h"
#include "bpf/wire.h"

namespace weir::bpf {
namespace {

// With the control page within what a user may lock for each processor (perf_event_mlock_kb).
constexpr std::size_t kDataPages = 16;

// With a name of PATH_MAX.
constexpr std::size_t kLargestRecord = 4096 + 128;

// PERF_RECORD_MMAP2 as asked for by open_mapping_events(), without the file's name behind it.
struct MmapRecord {
  perf_event_header header;
  std::uint32_t pid, tid;
  std::uint64_t address, length, page_offset;
  std::uint32_t major, minor;
  std::uint64_t inode, generation;
  std::uint32_t protection, flags;
};

class PerfRing {
 public:
  PerfRing(int descriptor, std::size_t page)
      : page_(page),
        size_(page * kDataPages),
        start_(::mmap(nullptr, page + size_, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0)) {}
  ~PerfRing() {
    if (*this) ::munmap(start_, page_ + size_);
  }
  PerfRing(PerfRing&& other) noexcept
      : page_(other.page_), size_(other.size_), start_(std::exchange(other.start_, MAP_FAILED)) {}
  PerfRing& operator=(PerfRing&&) = delete;
  explicit operator bool() const { return start_ != MAP_FAILED; }

  bool read(const std::function<void(const Mapped&)>& each) {
    auto* const control = static_cast<perf_event_mmap_page*>(start_);
    const std::uint64_t head = __atomic_load_n(&control->data_head, __ATOMIC_ACQUIRE);
    std::uint64_t tail = control->data_tail;
    // That one is lost is told with the next record that fits, which may be long after a ring is full.
    bool whole = head - tail + kLargestRecord <= size_;
    while (tail < head) {
      perf_event_header header{};
      copy(tail, &header, sizeof header);
      if (header.size < sizeof header) break;
      if (header.type == PERF_RECORD_LOST) whole = false;
      if (header.type == PERF_RECORD_MMAP2 && header.size >= sizeof(MmapRecord)) {
        MmapRecord record{};
        copy(tail, &record, sizeof record);
        if (record.inode != 0) {
          each({record.pid,
                {makedev(record.major, record.minor), record.inode,
                 static_cast<std::uint32_t>(record.generation)}});
        }
      }
      tail += header.size;
    }
    __atomic_store_n(&control->data_tail, head, __ATOMIC_RELEASE);
    return whole;
  }

 private:
  // A record may wrap around.
  void copy(std::uint64_t at, void* out, std::size_t count) const {
    const auto* const data = static_cast<const std::byte*>(start_) + page_;
    const std::size_t offset = at % size_;
    const std::size_t first = std::min(count, size_ - offset);
    std::memcpy(out, data + offset, first);
    std::memcpy(static_cast<std::byte*>(out) + first, data, count - first);
  }

  std::size_t page_;
  std::size_t size_;
  void* start_;
};

class PerfMappingWatch final : public MappingWatch {
 public:
  explicit PerfMappingWatch(std::vector<int> descriptors) : descriptors_(std::move(descriptors)) {}
  ~PerfMappingWatch() override {
    rings_.clear();
    for (const int descriptor : descriptors_) ::close(descriptor);
  }

  std::expected<void, SourceError> map() {
    const auto page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
    for (const int descriptor : descriptors_) {
      rings_.emplace_back(descriptor, page);
      if (!rings_.back()) {
        return std::unexpected(SourceError{std::string("cannot read perf events: ") + std::strerror(errno),
                                           "raise kernel.perf_event_mlock_kb"});
      }
    }
    return {};
  }

  const std::vector<int>& descriptors() const override { return descriptors_; }

  bool read(const std::function<void(const Mapped&)>& each) override {
    bool whole = true;
    for (PerfRing& ring : rings_) whole = ring.read(each) && whole;
    return whole;
  }

 private:
  std::vector<int> descriptors_;
  std::vector<PerfRing> rings_;
};

}  // namespace

std::expected<void, SourceError> read_mappings(int mapping_iterator,
                                               const std::function<void(const Mapping&)>& each) {
  const auto read = read_all<wire_mapping>(mapping_iterator, [&](const wire_mapping& wire) {
    Mapping mapping;
    mapping.pid = wire.tgid;
    mapping.start = wire.start;
    mapping.end = wire.end;
    mapping.file_offset = wire.file_offset;
    mapping.file = {makedev(wire.device_major, wire.device_minor), wire.inode, wire.inode_generation};
    mapping.name.assign(wire.name, ::strnlen(wire.name, sizeof wire.name));
    each(mapping);
  });
  if (!read) return std::unexpected(read.error());
  return {};
}

std::expected<std::unique_ptr<MappingWatch>, SourceError> MappingWatch::create(std::vector<int> descriptors) {
  auto watch = std::make_unique<PerfMappingWatch>(std::move(descriptors));
  if (auto mapped = watch->map(); !mapped) return std::unexpected(mapped.error());
  return watch;
}

}  // namespace weir::bpf
