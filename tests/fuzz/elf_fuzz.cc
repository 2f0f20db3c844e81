// Any bytes as the file of a program or a library: what is found in it either can't be read, and says why, or
// has sites; none twice, all within the file, and each that is to be a return is one.
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <set>
#include <utility>

#include "bpf/probes/tls_probes.h"
#include "bpf/wire.h"
#include "tests/fuzz/fuzz.h"

namespace {

using namespace weir::bpf;
using weir::fuzz::require;

// `ret` and its forms, behind any prefixes.
bool is_return(std::span<const std::uint8_t> code) {
  constexpr std::uint8_t kReturns[] = {0xc2, 0xc3, 0xca, 0xcb};
  constexpr std::size_t kLongestInstruction = 15;
  const auto instruction = code.first(std::min(code.size(), kLongestInstruction));
  return std::ranges::find_first_of(instruction, kReturns) != instruction.end();
}

int file_with(std::span<const std::uint8_t> contents) {
  static const int file = ::memfd_create("elf", MFD_CLOEXEC);
  require(::ftruncate(file, 0) == 0);
  require(::pwrite(file, contents.data(), contents.size(), 0) == static_cast<ssize_t>(contents.size()));
  return file;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::span contents(data, size);
  const auto libraries = find_tls_libraries(file_with(contents));
  if (!libraries) return 0;
  for (const FoundLibrary& library : *libraries) {
    require(!library.name.empty() && library.unreadable.empty() != library.sites.empty());
    std::set<std::pair<std::uint32_t, std::uint64_t>> seen;
    for (const auto& [program, offset, cookie] : library.sites) {
      require(program < WIRE_UPROBE_PROGRAMS && offset < size && seen.emplace(program, offset).second);
      if (program == WIRE_TLS_RETURN || program == WIRE_GO_RETURN)
        require(is_return(contents.subspan(offset)));
    }
  }
  return 0;
}
