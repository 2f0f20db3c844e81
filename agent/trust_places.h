// Where a program finds the roots that it trusts when no variable tells it: the system's bundles, the JDKs'
// stores, the bundles that Python packages bring. Looks at the disk, changes nothing.
#pragma once

#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace weir::agent {

struct TrustPlaceInputs {
  std::string command;  // the first word: its JDK and its Python environment count, too
  // What the variable is in the command's environment.
  std::function<std::optional<std::string>(std::string_view name)> variable;
};

// Regular files, by their real path, each once; at most 512.
std::vector<std::filesystem::path> trust_places(const TrustPlaceInputs& inputs);

}  // namespace weir::agent
