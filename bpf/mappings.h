// Which process has which file mapped as code: all that there are now, and each as it is made.
#pragma once

#include <cstdint>
#include <expected>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "bpf/event_source.h"
#include "bpf/kernel_side.h"

namespace weir::bpf {

// One file mapping of a process, as the mapping iterator tells it.
struct Mapping {
  std::uint32_t pid = 0;
  std::uint64_t start = 0;
  std::uint64_t end = 0;
  std::uint64_t file_offset = 0;
  FileIdentity file;
  std::string name;  // the file's last path component
};
std::expected<void, SourceError> read_mappings(int mapping_iterator,
                                               const std::function<void(const Mapping&)>& each);

// A file that was just mapped as code. `file` is what stat() tells (under overlayfs not what probes bind to).
struct Mapped {
  std::uint32_t pid = 0;
  FileIdentity file;
};

// Reads the perf events of KernelSide::open_mapping_events(). Needs no capability. One thread.
class MappingWatch {
 public:
  virtual ~MappingWatch() = default;
  // `descriptors` are taken over. An empty watch is one that tells nothing.
  static std::expected<std::unique_ptr<MappingWatch>, SourceError> create(std::vector<int> descriptors);

  // To be polled for input.
  virtual const std::vector<int>& descriptors() const = 0;
  // Gives what came since the last call. False when some of it was lost: look at all mappings then.
  virtual bool read(const std::function<void(const Mapped&)>& each) = 0;
};

}  // namespace weir::bpf
