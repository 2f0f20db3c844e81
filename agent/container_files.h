// Where container runtimes keep what they know of a container: files that only root may read, named by the
// container's id. The broker opens them for the worker, which can't name a path.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "agent/descriptor.h"

namespace weir::agent {

class ContainerFiles {
 public:
  // Those that the runtimes' packages use.
  static std::vector<std::string> usual_roots();
  explicit ContainerFiles(const std::vector<std::string>& roots = usual_roots());

  struct Found {
    std::uint32_t number = 0;
    Descriptor file;
  };
  // The first file from candidate `number` on that is there: regular, and root's or ours. Nothing when no
  // more are, or when `id` is none.
  std::optional<Found> open(std::string_view id, std::uint32_t number) const;

 private:
  struct Place {
    std::string before;
    std::string after;  // the id stands between the two
    bool has_id = true;
  };
  std::vector<Place> places_;
};

}  // namespace weir::agent
