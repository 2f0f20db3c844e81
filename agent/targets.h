// Finds the files that the native tap probes and has them attached: the host's own TLS libraries before
// anybody maps them, and those that running processes map. By inode, once a file, whoever maps it.
//
// One thread calls scan(); counts() is thread-safe.
#pragma once

#include <cstdint>
#include <map>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "agent/channel.h"
#include "bpf/probes/tls_probes.h"

namespace weir::agent {

class Targets {
 public:
  explicit Targets(BrokerClient& broker) : broker_(broker) {}

  // Looks at the known libraries and at all mappings, attaches what is new, and detaches what nobody maps any
  // more.
  void scan();

  struct Counts {
    std::uint64_t attached = 0;  // now
    std::uint64_t failed = 0;
    std::string last_error;
  };
  Counts counts() const;

 private:
  using Inode = std::pair<std::uint64_t, std::uint64_t>;  // device, inode

  struct File {
    std::optional<std::uint32_t> target;  // the broker's handle; none when it can't be probed
    bool known = false;                   // the host's own: stays probed though nobody maps it now
  };

  void scan_known_libraries();
  void scan_mappings();
  void consider(const BrokerClient::Answer& answer, const bpf::LibraryProbes& probes, bool known);
  std::optional<std::uint32_t> attach(const BrokerClient::Answer& answer, const bpf::LibraryProbes& probes);
  void release_unmapped(const std::set<Inode>& mapped);
  void release(const Inode& file);
  void failed(const std::string& why);

  BrokerClient& broker_;
  std::map<Inode, File> files_;      // as fstat tells
  std::map<Inode, Inode> mappings_;  // as the mapping iterator tells -> as fstat tells
  mutable std::mutex mutex_;
  Counts counts_;
};

}  // namespace weir::agent
