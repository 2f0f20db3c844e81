// The CA's key and certificates as files: loaded with all that must hold checked, made, and switched. For
// this room's sources only. The caller holds the directory's lock.
#pragma once

#include <chrono>
#include <expected>
#include <filesystem>
#include <optional>
#include <string>

#include "ca/ca.h"
#include "ca/certificates.h"
#include "ca/openssl.h"

namespace weir::ca {

struct Roots {
  KeyPtr key;
  CertificatePtr root;    // the key's
  CertificatePtr former;  // in an overlap: trusted, too
  CertificatePtr cross;  // in an overlap, as long as it is valid: `root`'s name and key, signed by `former`'s
  Validity validity{};   // of `root`
};

std::unexpected<Error> refuse(std::string what, std::string remedy = "run: weir ca rotate --without-overlap");
std::chrono::sys_seconds current_time();
std::string host_name();

// Refuses what can't be used now, also for its dates.
std::expected<Roots, Error> load_roots(const Paths& paths);

std::expected<KeyPtr, Error> load_key(const std::filesystem::path& file);
// Both refuse to take the place of what is there.
std::expected<KeyPtr, Error> create_key(const std::filesystem::path& file);
std::expected<CertificatePtr, Error> create_root(const std::filesystem::path& file, EVP_PKEY* key);

// A rotation that was decided is done: what lies in next/ takes its place. Harmless when there is none; to be
// called before anything is loaded.
std::expected<void, Error> settle(const Paths& paths);

}  // namespace weir::ca
