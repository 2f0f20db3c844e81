// TLS libraries recognised by texts that are part of their own code: also where a program contains a copy
// without symbols. Names that a mere user of the library has, too, are not among them.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "bpf/probes/elf_file.h"

namespace weir::bpf {

struct LibraryText {
  std::string_view title;  // "OpenSSL", "BoringSSL", "rustls", "Mbed TLS", "wolfSSL", "s2n-tls"
  bool present = false;
  std::string version;  // "3.0.13"; "" when it isn't said; may be known of OpenSSL though `present` is false
};

// One pass over the file's constants.
std::vector<LibraryText> find_library_texts(ElfFile& file);

}  // namespace weir::bpf
