// How containers are called: read from their runtime's files, once for each container.
#pragma once

#include <chrono>
#include <cstdint>
#include <expected>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>

#include "agent/descriptor.h"
#include "agent/error.h"
#include "attribution/container.h"
#include "attribution/events.h"

namespace weir::agent {

// What a runtime's file says of a container; what `names` has stays. The files are docker's config.v2.json,
// containerd's config.json and the list of containers/storage (podman, CRI-O). Only what the runtime itself
// writes is believed: labels and annotations may be an image's.
enum class Told : std::uint8_t { names, nothing, unreadable };
Told read_container_state(std::string_view text, std::string_view id, ContainerNames& names);

// Thread-safe if `open` is.
class ContainerTable {
 public:
  struct File {
    std::uint32_t number = 0;
    Descriptor descriptor;
  };
  // The first of a container's files from that number on (see ContainerFiles), nothing when there are no
  // more; the error: it can't be told.
  using Open =
      std::function<std::expected<std::optional<File>, Error>(const std::string& id, std::uint32_t number)>;
  explicit ContainerTable(Open open) : open_(std::move(open)) {}

  // Null for "", and when no runtime's file is found, or one can't be read: that is asked again after a
  // while. May wait for the broker.
  std::shared_ptr<const ContainerNames> find(const std::string& id);
  // Of the container that the process's cgroup names, unless it only claims to be in that one.
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
