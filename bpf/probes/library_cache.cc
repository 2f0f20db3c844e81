#include "bpf/probes/library_cache.h"

#include <sys/stat.h>

#include <algorithm>

namespace weir::bpf {
LibraryCache::Key LibraryCache::key_of(int file_descriptor) {
  struct stat status{};
  ::fstat(file_descriptor, &status);
  return {status.st_dev, status.st_ino, version_of(file_descriptor)};
}

std::expected<std::vector<FoundLibrary>, std::string> LibraryCache::find(int file_descriptor) {
  const Key key = key_of(file_descriptor);
  if (const auto known = entries_.find(key); known != entries_.end()) {
    known->second.used = ++uses_;
    ++hits_;
    return known->second.libraries;
  }
  auto found = find_tls_libraries(file_descriptor);
  // One that was written to meanwhile is nothing to remember.
  if (!found || key_of(file_descriptor) != key) return found;
  entries_[key] = {*found, ++uses_};
  if (entries_.size() > most_)
    entries_.erase(std::ranges::min_element(entries_, {}, [](const auto& one) { return one.second.used; }));
  return found;
}

}  // namespace weir::bpf
