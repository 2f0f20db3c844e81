#include "attribution/names.h"

namespace weir {

std::string_view name_of(TlsLibrary library) {
  static constexpr std::string_view kNames[] = {"", "none", "openssl", "boringssl", "gnutls", "nss", "go"};
  return kNames[static_cast<std::size_t>(library)];
}

}  // namespace weir
