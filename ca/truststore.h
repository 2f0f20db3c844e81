// Trust stores for programs that can't be told "and this CA too": the system's roots and ours in one file, in
// the format that each kind of runtime reads. Writing is atomic (a temporary file renamed), mode 0644, and a
// file whose content would not change is left alone. Pure functions on files; no state.
#pragma once

#include <expected>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "ca/ca.h"

namespace weir::ca {

// Java's default password; the content is public.
inline constexpr std::string_view truststore_password = "changeit";

// The system's PEM bundle: the first that exists of the places that distributions use. Empty when none does.
std::filesystem::path system_bundle();

// All roots of a JDK's `cacerts` (JKS or PKCS#12), as PEM; of the JDKs found under /usr/lib/jvm, JAVA_HOME
// and the directory of `java` on the PATH. Unreadable stores are passed over and named in `skipped`.
struct JdkRoots {
  std::vector<std::string> pem;
  std::vector<std::filesystem::path> read;
  std::vector<std::string> skipped;
};
JdkRoots jdk_roots();

// The system's bundle and our root, duplicates removed. Returns how many certificates it holds.
std::expected<std::size_t, Error> write_bundle(const std::filesystem::path& file, std::string_view root_pem);

// The same and the JDKs' roots as a PKCS#12 that Java reads as trusted certificates (each with the attribute
// 2.16.840.1.113894.746875.1.1, anyExtendedKeyUsage), password truststore_password.
std::expected<std::size_t, Error> write_pkcs12(const std::filesystem::path& file, std::string_view root_pem);

// A JKS (format 2) of trusted certificates.
std::expected<std::size_t, Error> write_jks(const std::filesystem::path& file, std::string_view root_pem);

}  // namespace weir::ca
