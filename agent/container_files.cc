// A table of places. Facts: containerd's bundle is its state directory, the runtime, the namespace (k8s.io)
// and the id; CRI-O and podman have a list below the storage driver's name; docker a file below its data
// root.
#include "agent/container_files.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>

#include "attribution/container.h"

namespace weir::agent {
namespace {

constexpr std::array kRoots{"/run/containerd", "/run/k3s/containerd", "/run/containers/storage",
                            "/var/lib/containers/storage", "/var/lib/docker"};

struct Layout {
  const char* before;
  const char* after;
  bool has_id;
};
// What says most first; a later file fills in what is missing.
constexpr std::array kLayouts{
    Layout{"/k8s.io/", "/config.json", true},
    Layout{"/io.containerd.runtime.v2.task/k8s.io/", "/config.json", true},
    Layout{"/containers/", "/config.v2.json", true},
    Layout{"/overlay-containers/containers.json", "", false},
    Layout{"/overlay-containers/volatile-containers.json", "", false},
    Layout{"/vfs-containers/containers.json", "", false},
    Layout{"/vfs-containers/volatile-containers.json", "", false},
};

// The directories are root's, and may be links to another disk; a link in the file's own place is not the
// runtime's.
Descriptor open_state(const std::string& path) {
  Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOFOLLOW));
  struct stat status{};
  const bool good = file && ::fstat(file.get(), &status) == 0 && S_ISREG(status.st_mode) &&
                    (status.st_uid == 0 || status.st_uid == ::geteuid());
  return good ? std::move(file) : Descriptor();
}

}  // namespace

std::vector<std::string> ContainerFiles::usual_roots() {
  return {kRoots.begin(), kRoots.end()};
}

ContainerFiles::ContainerFiles(const std::vector<std::string>& roots) {
  for (const std::string& root : roots)
    for (const Layout& layout : kLayouts)
      places_.push_back({root + layout.before, layout.after, layout.has_id});
}

std::optional<ContainerFiles::Found> ContainerFiles::open(std::string_view id, std::uint32_t number) const {
  if (id.size() != kContainerIdLength || !begins_container_id(id)) return std::nullopt;
  for (; number < places_.size(); ++number) {
    const Place& place = places_[number];
    Descriptor file = open_state(place.before + std::string(place.has_id ? id : "") + place.after);
    if (file) return Found{number, std::move(file)};
  }
  return std::nullopt;
}

}  // namespace weir::agent
