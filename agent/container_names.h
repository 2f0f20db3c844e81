// How containers are called: read from their runtime's files, once for each container.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>

#include "agent/descriptor.h"
#include "attribution/container.h"
#include "attribution/events.h"

namespace weir::agent {

// What a runtime's file says of a container. False when it says nothing of it. What `names` has stays. The
// text may be anybody's: it is docker's config.v2.json, an OCI bundle's config.json with Kubernetes'
// annotations as containerd and CRI-O write them, or the list of containers of containers/storage (podman,
// CRI-O).
bool read_container_state(std::string_view text, std::string_view id, ContainerNames& names);

// Thread-safe if `open` is.
class ContainerTable {
 public:
  struct File {
    std::uint32_t number = 0;
    Descriptor descriptor;
  };
  // The first of a container's files from that number on; see ContainerFiles.
  using Open = std::function<std::optional<File>(const std::string& id, std::uint32_t number)>;
  explicit ContainerTable(Open open) : open_(std::move(open)) {}

  // Null for "", and when no runtime's file is found: that is asked again after a while. May wait for the
  // broker.
  std::shared_ptr<const ContainerNames> find(const std::string& id);
  // Of the container that the process's cgroup names.
  void name(ProcessEvent& process);

 private:
  struct Known {
    std::shared_ptr<const ContainerNames> names;
    std::chrono::steady_clock::time_point asked;
  };
  std::shared_ptr<const ContainerNames> read(const std::string& id) const;

  Open open_;
  std::mutex mutex_;
  std::unordered_map<std::string, Known> known_;
};

// Passes events on to `next`, those of processes with the names of their containers.
std::unique_ptr<EventPublisher> with_container_names(EventPublisher& next, ContainerTable& table);

}  // namespace weir::agent
