// The door of this folder: which TLS libraries a file contains, and at which offsets of it which programs
// read their plaintext, or why they can't be read. The libraries' functions are data (the tables in
// tls_probes.cc); the meaning of a site's program and cookie is shared with the programs through wire.h.
#pragma once

#include <expected>
#include <string>
#include <vector>

#include "attribution/events.h"
#include "bpf/kernel_side.h"

namespace weir::bpf {

// What a call of a probed function costs: probes at instructions that the kernel carries out itself are the
// cheap ones (placement.h).
struct PlacedFunction {
  std::string name;
  bool entry_emulated = false;
  std::size_t returns = 0;  // where it is probed: 0 for one that ends an object
  std::size_t returns_emulated = 0;
};

struct FoundLibrary {
  TlsLibrary library = TlsLibrary::unknown;
  std::string name;                         // "libssl.so.3", "static OpenSSL 3.0.13", "Go 1.21.3"
  std::vector<ProbeSite> sites{};           // none at one place twice; empty when it can't be read
  std::vector<PlacedFunction> functions{};  // those that the sites are of
  std::string unreadable;  // why it can't be read: "static BoringSSL without symbols"; "" when it can
};

// Any regular file: untrusted input, read within a budget of time and memory. Borrows the descriptor. Empty:
// the file contains none that is known. A file that only uses a library of another file does not contain it.
// The error says why the file could not be searched: it is no ELF file of this machine, or a broken one.
std::expected<std::vector<FoundLibrary>, std::string> find_tls_libraries(int file_descriptor);

// Whether the loader brings other files with the program than the languages' own libraries: one of them, or
// of those that it brings in turn, may be a TLS library.
bool brings_libraries(int file_descriptor);

}  // namespace weir::bpf
