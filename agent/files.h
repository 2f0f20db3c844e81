// Files that an administrator names.
#pragma once

#include <cstddef>
#include <expected>
#include <filesystem>
#include <string>

#include "agent/error.h"

namespace weir::agent {

// All of it; a pipe will do, too. More than `limit` bytes are an error. `option` is what named the file.
std::expected<std::string, Error> read_file(const std::filesystem::path& file, std::size_t limit,
                                            const std::string& option);

}  // namespace weir::agent
