// The functions by which NSS's TLS layer reads and writes. Applications call NSPR (PR_Read, PR_Send...),
// which jumps on through the layer's table of methods: the functions of that table are the TLS calls, they
// are local to libssl3.so, and every way to them passes through them, those of layers on top of NSS's, too.
//
// Facts: struct PRIOMethods of prio.h is public and fixed; sslsock.c fills one in when NSS is first used
// (ssl_SetupIOMethods), from constants that compilers keep in a table or in the code.
#pragma once

#include <expected>
#include <string>

#include "bpf/probes/elf_file.h"

namespace weir::bpf {

// Where these methods' functions begin. All take the PRFileDesc first.
struct NssMethods {
  std::uint64_t close = 0;
  std::uint64_t read = 0;  // (file, buffer, int length) -> int bytes, as all four
  std::uint64_t write = 0;
  std::uint64_t shutdown = 0;
  std::uint64_t recv = 0;  // with flags and a time limit behind
  std::uint64_t send = 0;
};

// Of a file that contains NSS's TLS. The table is told by the one function in it that NSS takes from NSPR by
// name, in its place; where code fills the table in, that code is run on a sketch of the processor.
std::expected<NssMethods, std::string> find_nss_methods(ElfFile& file);

}  // namespace weir::bpf
