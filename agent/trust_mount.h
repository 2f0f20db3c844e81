// Makes this process trust the CA where no variable reaches: in a mount namespace of its own, the files that
// hold trusted roots are covered by copies with the CA's in them. Nothing of it is seen from outside, nothing
// is left on the disk, and all goes with the last process in the namespace.
#pragma once

#include <expected>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "agent/error.h"

namespace weir::agent {

struct TrustMounts {
  std::size_t covered = 0;
  std::vector<std::string> skipped;  // "FILE: why"
};

// To be called by a process with one thread that is about to exec. `files` are real paths. Whoever may (root)
// gets the mount namespace alone; others a user namespace, too, in which they are who they were, with no
// capability, and in which set-user-id programs don't gain anything. What others mount later still appears;
// what this process mounts doesn't appear to others. The copies can't be written to. When it fails, some of
// it may be done: don't exec.
std::expected<TrustMounts, Error> cover_trust_stores(std::span<const std::filesystem::path> files,
                                                     std::string_view roots_pem);

}  // namespace weir::agent
