#include "agent/tls_files.h"

#include <string_view>

namespace weir::agent {
namespace {

constexpr std::string_view java_library = "libjvm.so";

// Code that a virtual machine makes at run time stands in no file.
bpf::FoundLibrary java() {
  bpf::FoundLibrary library;
  library.name = "Java";
  library.unreadable = "Java's own TLS: use the proxy";
  return library;
}

}  // namespace

std::expected<std::vector<bpf::FoundLibrary>, std::string> find_tls_libraries(bpf::LibraryCache& cache,
                                                                              int file,
                                                                              const std::string& name) {
  auto found = cache.find(file);
  if (name != java_library) return found;
  if (!found) found.emplace();
  found->push_back(java());
  return found;
}

}  // namespace weir::agent
