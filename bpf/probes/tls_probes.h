// Which function of which TLS library is probed by which program: data that the worker resolves to offsets
// and the broker attaches. The meaning of the cookies is shared with the programs through wire.h.
#pragma once

#include <cstdint>
#include <expected>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "attribution/events.h"
#include "bpf/kernel_side.h"

namespace weir::bpf {

struct ProbePoint {
  std::string_view symbol;
  std::uint32_t program;  // index into the uprobe programs
  std::uint64_t cookie;   // enum wire_tls_call and flags
  bool required;          // without it the library is not taken as a target
};

struct LibraryProbes {
  TlsLibrary library;
  std::string_view file_name_prefix;  // "libssl.so.3"
  std::span<const ProbePoint> points;
};

std::span<const LibraryProbes> library_probes();
const LibraryProbes* probes_for_file_name(std::string_view file_name);

// Reads the ELF file's dynamic symbols and resolves the points to file offsets. Untrusted input: every offset
// and count is checked. The error says what is missing or broken.
std::expected<std::vector<ProbeSite>, std::string> resolve_sites(int file_descriptor,
                                                                 const LibraryProbes& probes);

}  // namespace weir::bpf
