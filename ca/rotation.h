// Replacing the root while programs run that trust it. The new root is signed by the old one, too, and this
// cross certificate is sent with each leaf: who trusts only the old root finds its way to it, who trusts only
// the new one doesn't need it. So the old key signs nothing any more and is gone at once, and programs from
// before the rotation work until it is finished.
#pragma once

#include <expected>
#include <functional>
#include <string_view>

#include "ca/ca.h"

namespace weir::ca {

struct RotationOptions {
  // Also when the old root can't sign a cross certificate: programs that run must be started anew then.
  bool without_overlap = false;
};

// Makes the new root, has `trust` put both into what programs read, and switches the files. A crash leaves
// the old root in use, or the new one. Refuses when an overlap is under way. Who holds an Authority opens it
// again.
std::expected<void, Error> begin_rotation(
    const Paths& paths, const RotationOptions& options,
    const std::function<std::expected<void, Error>(std::string_view roots_pem)>& trust);

// The cross certificate and the old root are dropped. Refuses when no overlap is under way.
std::expected<void, Error> finish_rotation(const Paths& paths);

}  // namespace weir::ca
