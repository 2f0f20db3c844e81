// Which container, pod and systemd unit a process runs in, as its cgroup's name tells. Pure text.
#pragma once

#include <string>
#include <string_view>

namespace weir {

struct ContainerFacts {
  std::string container_id;  // "" when the cgroup names no container
  std::string pod_uid;
  std::string systemd_unit;
  bool host = false;  // only the host's own services and sessions run there
};

// `cgroup_text`: lines of /proc/PID/cgroup ("hierarchy:controllers:path"), joined with '\n'.
ContainerFacts container_facts(std::string_view cgroup_text);

}  // namespace weir
