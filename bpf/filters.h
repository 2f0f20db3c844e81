// Which processes, cgroups, ports and libraries the native tap leaves out, as the configuration says it. The
// kernel side judges by all but libraries; those that are left out are not probed.
#pragma once

#include <cstdint>
#include <expected>
#include <string>
#include <string_view>
#include <vector>

#include "attribution/events.h"

namespace weir::bpf {

struct FilterRule {
  enum class Kind : std::uint8_t { pid, process, cgroup, port, library };
  Kind kind = Kind::pid;
  std::uint64_t number = 0;  // pid; port; the id of a cgroup without a path
  std::string text{};  // process: name, or absolute path; cgroup: path below the root of cgroup v2, "/a/b"
  TlsLibrary library = TlsLibrary::unknown;
};

// "pid:1234", "process:curl", "process:/usr/bin/curl", "cgroup:/system.slice", "cgroup:4711" (its inode
// number), "port:443" (of the peer), "library:gnutls". The error says what is wrong with the text.
std::expected<FilterRule, std::string> parse_filter(std::string_view text);

// Rules of one kind (pid and process count as one) are alternatives. What `only` has rules of must match one
// of them in each kind; what matches any rule of `except` is left out. No rules: nothing is.
struct Filters {
  std::vector<FilterRule> only;
  std::vector<FilterRule> except;
  // Processes and cgroups whose connections are sent to the proxy; what matches any of them.
  std::vector<FilterRule> redirect{};

  bool wants(TlsLibrary library) const;
};

// The most rules that one list may have.
inline constexpr std::size_t kMostFilterRules = 256;

}  // namespace weir::bpf
