// What tells that a file was written to since it was searched: its size, and the times that the kernel keeps
// of it.
#pragma once

#include <sys/types.h>

#include <compare>
#include <cstdint>

namespace weir::bpf {

struct FileVersion {
  off_t size = 0;
  std::int64_t modified_ns = 0;
  std::int64_t changed_ns = 0;
  auto operator<=>(const FileVersion&) const = default;
};

// All 0 when it can't be told. Borrows the descriptor.
FileVersion version_of(int file_descriptor);

}  // namespace weir::bpf
