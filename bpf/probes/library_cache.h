// What was found in files, for others of the same build: a program that is started again after a while, an
// image's copy of a library that another image has, too. To search Node's takes 30 ms, which its start waits
// for.
//
// Two files are taken for one if the linker's build ID, their size and all their headers are the same, and,
// as a patched file keeps its build ID, also the code around each place that is probed. A file without a
// build ID, or with a library that can't be read, is searched each time. Not thread-safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <expected>
#include <map>
#include <string>
#include <vector>

#include "bpf/probes/tls_probes.h"

namespace weir::bpf {

class LibraryCache {
 public:
  explicit LibraryCache(std::size_t most = 1024) : most_(most) {}

  // As bpf::find_tls_libraries().
  std::expected<std::vector<FoundLibrary>, std::string> find(int file_descriptor);

  // Searches that it spared.
  std::uint64_t hits() const { return hits_; }
  std::size_t size() const { return entries_.size(); }

 private:
  struct Entry {
    std::vector<FoundLibrary> libraries;
    std::size_t code = 0;  // a digest of what is around their sites
    std::uint64_t used = 0;
  };

  void remember(std::string key, Entry entry);

  const std::size_t most_;
  std::map<std::string, Entry> entries_;
  std::uint64_t uses_ = 0;
  std::uint64_t hits_ = 0;
};

}  // namespace weir::bpf
