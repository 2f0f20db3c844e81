#include "bpf/probes/file_version.h"

#include <sys/stat.h>

namespace weir::bpf {
namespace {

std::int64_t nanoseconds(const timespec& time) {
  return std::int64_t{time.tv_sec} * 1'000'000'000 + time.tv_nsec;
}

}  // namespace

FileVersion version_of(int file_descriptor) {
  struct stat status{};
  if (::fstat(file_descriptor, &status) != 0) return {};
  return {status.st_size, nanoseconds(status.st_mtim), nanoseconds(status.st_ctim)};
}

}  // namespace weir::bpf
