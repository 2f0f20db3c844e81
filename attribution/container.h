// Which container, pod and systemd unit a process runs in, as its cgroup's name tells, and how the container
// and its pod are called, as its runtime tells. Values and pure text.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace weir {

inline constexpr std::size_t kContainerIdLength = 64;

// Lower-case hexadecimal digits alone.
bool begins_container_id(std::string_view text);
// What people call a container by is its id if it has at least as many digits as runtimes show of one, else
// its name.
inline constexpr std::size_t kShortContainerId = 12;

// As runtimes, and Kubernetes, let their objects be called: letters, digits, '-', '_' and '.', 253 at most.
bool is_container_name(std::string_view text);

struct ContainerFacts {
  std::string container_id;  // "" when the cgroup names no container
  // Who made the cgroup may have named it after another's container: it stands in a user's service, or in
  // another container.
  bool claimed = false;
  std::string pod_uid;
  std::string systemd_unit;
  bool host = false;  // only the host's own services and sessions run there
};

// "" where the runtime says nothing: of a container outside Kubernetes nothing but its name and image.
struct ContainerNames {
  std::string name{};
  std::string image{};  // as the runtime was asked for it, with registry, tag and digest
  std::string k8s_namespace{};
  std::string k8s_pod{};
  std::string k8s_container{};
  bool operator==(const ContainerNames&) const = default;
};

// An image's name without tag and digest, and its tag: "registry:5000/app:1@sha256:..." is
// "registry:5000/app" and "1".
struct ImageName {
  std::string_view name;
  std::string_view tag;
};
ImageName split_image(std::string_view image);

// `cgroup_text`: lines of /proc/PID/cgroup ("hierarchy:controllers:path"), joined with '\n'.
ContainerFacts container_facts(std::string_view cgroup_text);

}  // namespace weir
