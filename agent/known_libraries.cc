// The product of the usual library directories and the probed file names.
#include "agent/known_libraries.h"

#include <iterator>

namespace weir::agent {
namespace {

constexpr const char* directories[] = {
    "/usr/lib/x86_64-linux-gnu",
    "/lib/x86_64-linux-gnu",
    "/usr/lib64",
    "/lib64",
    "/usr/lib",
    "/lib",
    "/usr/local/lib",
    "/usr/local/lib64",
    "/usr/local/ssl/lib64",
    "/opt/openssl/lib64",
    "/usr/lib/x86_64-linux-gnu/android",  // Debian's BoringSSL
};

constexpr const char* names[] = {"libssl.so.3", "libssl.so.1.1", "libgnutls.so.30", "libssl3.so",
                                 "libssl.so.0"};

}  // namespace

std::optional<std::string> known_library(std::uint32_t number) {
  if (number >= std::size(directories) * std::size(names)) return std::nullopt;
  return std::string(directories[number / std::size(names)]) + "/" + names[number % std::size(names)];
}

}  // namespace weir::agent
