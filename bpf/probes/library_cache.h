// What was found in files, for when they are looked at again: a program that is started after a while. To
// search Node's takes 30 ms or more, which its start waits for.
//
// By the file itself, its size and its times, which the kernel sets when it is written to; and not by what a
// file says of itself, such as a build ID: who made a copy with another table of symbols would have probes
// put into the middle of the instructions of the genuine one. Not thread-safe.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <expected>
#include <map>
#include <string>
#include <tuple>
#include <vector>

#include "bpf/probes/file_version.h"
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
  using Key = std::tuple<dev_t, ino_t, FileVersion>;
  struct Entry {
    std::vector<FoundLibrary> libraries;
    std::uint64_t used = 0;
  };

  static Key key_of(int file_descriptor);

  const std::size_t most_;
  std::map<Key, Entry> entries_;
  std::uint64_t uses_ = 0;
  std::uint64_t hits_ = 0;
};

}  // namespace weir::bpf
