// Which TLS libraries a file that processes map contains: what bpf/probes/ finds in it, and what stands in no
// file.
#pragma once

#include <expected>
#include <string>
#include <vector>

#include "bpf/probes/library_cache.h"
#include "bpf/probes/tls_probes.h"

namespace weir::agent {

// As bpf::find_tls_libraries(); `name` is the file's last path component, "" when it isn't known.
std::expected<std::vector<bpf::FoundLibrary>, std::string> find_tls_libraries(bpf::LibraryCache& cache,
                                                                              int file,
                                                                              const std::string& name);

}  // namespace weir::agent
