// Trust stores for programs that can't be told "and this CA too": the system's roots and ours in one file, in
// the format that each kind of runtime reads. Writing is atomic (a temporary file renamed), mode 0644, and a
// file whose content would not change is left alone. Pure functions on files; no state.
#pragma once

#include <expected>
#include <filesystem>
#include <set>
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
// All that exist, by their real path.
std::vector<std::filesystem::path> system_bundles();

// All roots of a JDK's `cacerts` (JKS or PKCS#12), as PEM; of the JDKs found under /usr/lib/jvm, JAVA_HOME
// and the directory of `java` on the PATH. Unreadable stores are passed over and named in `skipped`.
struct JdkRoots {
  std::vector<std::string> pem;
  std::vector<std::filesystem::path> read;
  std::vector<std::string> skipped;
};
JdkRoots jdk_roots();

// The stores that these JDKs use, and those of `homes`, by their real path; at most 64.
std::vector<std::filesystem::path> jdk_stores(std::span<const std::filesystem::path> homes);

// Text with at least the beginning of a PEM block, whatever it holds.
bool is_pem(std::string_view store);

// The same store with `roots_pem` in it, in its own format: a PEM text keeps all that it had and gets ours at
// its end; of a JKS or PKCS#12 keystore, all trusted certificates. The error says what is wrong with the
// store.
std::expected<std::string, std::string> with_roots(std::string_view store, std::string_view roots_pem);

// DER of each certificate in a PEM text, JKS or PKCS#12; what is none of them has none.
std::set<std::string> certificates_in(std::string_view store);

// with_roots() undone: a PEM text is what it was, a keystore has the same certificates and perhaps other
// bytes.
std::expected<std::string, std::string> without_roots(std::string_view store, std::string_view roots_pem);

// In what follows, `root_pem` may hold more than one root of ours.

// The system's bundle and our root, duplicates removed. Returns how many certificates it holds.
std::expected<std::size_t, Error> write_bundle(const std::filesystem::path& file, std::string_view root_pem);

// The same and the JDKs' roots as a PKCS#12 that Java reads as trusted certificates (each with the attribute
// 2.16.840.1.113894.746875.1.1, anyExtendedKeyUsage), password truststore_password.
std::expected<std::size_t, Error> write_pkcs12(const std::filesystem::path& file, std::string_view root_pem);

// A JKS (format 2) of trusted certificates.
std::expected<std::size_t, Error> write_jks(const std::filesystem::path& file, std::string_view root_pem);

}  // namespace weir::ca
