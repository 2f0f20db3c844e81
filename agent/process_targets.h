// What the native tap would find in running processes: the files that each has mapped as code, the TLS
// libraries in them, and where their probes go. For `weir doctor`; nothing is attached, and no agent is
// asked.
//
// In two steps: opening needs root for processes of others, reading what they wrote must not be done as root.
#pragma once

#include <cstdint>
#include <expected>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "agent/descriptor.h"
#include "agent/error.h"
#include "bpf/probes/tls_probes.h"

namespace weir::agent {

// A file with a TLS library's code, or one that could not be looked at (`error`).
struct TargetFile {
  std::string path;  // as the process mapped it
  std::vector<bpf::FoundLibrary> libraries;
  std::string error;
};

struct ProcessTargets {
  std::uint32_t pid = 0;
  std::string executable;  // path
  std::vector<TargetFile> files;
};

class OpenTargets {
 public:
  // Of one process, or of all that may be looked at. The error: there is no such process, or it is not ours
  // to see.
  static std::expected<OpenTargets, Error> open(std::optional<std::uint32_t> pid);

  // Looks into the files, each once, whoever has mapped it.
  std::vector<ProcessTargets> examine() const;

 private:
  struct Mapped {
    std::string path;
    std::string error;
    std::shared_ptr<Descriptor> file;  // null with an error
  };
  struct Process {
    std::uint32_t pid = 0;
    std::string executable;
    std::vector<Mapped> files;
  };
  using FileKey = std::pair<std::string, std::uint64_t>;  // device and inode, as /proc/PID/maps has them

  std::expected<void, Error> add(std::uint32_t pid);

  std::vector<Process> processes_;
  std::map<FileKey, Mapped> files_;
};

}  // namespace weir::agent
