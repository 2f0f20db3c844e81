// Any bytes as a TLS library's file: what is found in it are few sites, in the order of the table, and each
// return site is a `ret` within the file.
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>

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
  const auto& library = library_probes().front();
  const auto sites = resolve_sites(file_with(contents), library);
  if (!sites) return 0;
  require(sites->size() <= size + library.points.size());
  for (const auto& site : *sites) {
    require(site.program < WIRE_UPROBE_PROGRAMS && site.offset != 0);
    if (site.program == WIRE_TLS_RETURN)
      require(site.offset < size && is_return(contents.subspan(site.offset)));
  }
  return 0;
}
