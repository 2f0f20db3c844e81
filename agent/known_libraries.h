// Where the host's own TLS libraries lie: the files that are probed before anybody maps them. A fixed table;
// the worker asks for its entries by number, so it can't name a path.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace weir::agent {

// The path of candidate `number`; nothing past the last.
std::optional<std::string> known_library(std::uint32_t number);

}  // namespace weir::agent
