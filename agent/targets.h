// Finds the files that the native tap probes and has them attached: the host's own TLS libraries before
// anybody maps them, and those that running processes map. By inode, once a file, whoever maps it.
//
// One thread calls scan(); counts() is thread-safe.
#pragma once

#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "agent/channel.h"
#include "bpf/probes/tls_probes.h"

namespace weir::agent {

class Targets {
 public:
  explicit Targets(BrokerClient& broker) : broker_(broker) {}

  // Looks at the known libraries and at all mappings, and attaches what is new.
  void scan();

  struct Counts {
    std::uint64_t attached = 0;
    std::uint64_t failed = 0;
    std::string last_error;
  };
  Counts counts() const;

 private:
  using Inode = std::pair<std::uint64_t, std::uint64_t>;  // device, inode

  void scan_known_libraries();
  void scan_mappings();
  void consider(BrokerClient::Answer answer, const bpf::LibraryProbes& probes);
  void attach(const BrokerClient::Answer& answer, const bpf::LibraryProbes& probes);
  void failed(const std::string& why);

  BrokerClient& broker_;
  std::map<Inode, bool> seen_;           // as fstat tells; true: attached
  std::map<Inode, bool> seen_mappings_;  // as the mapping iterator tells
  mutable std::mutex mutex_;
  Counts counts_;
};

}  // namespace weir::agent
