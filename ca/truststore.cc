// Puts together whose roots go into which store and publishes the file. Our own root comes first in each.
#include "ca/truststore.h"

#include <array>
#include <utility>

#include "ca/certificates.h"
#include "ca/files.h"
#include "ca/keystore.h"
#include "ca/root_set.h"

namespace weir::ca {

namespace fs = std::filesystem;

namespace {

constexpr ReadRules bundle_rules{
    .limit = 16UL * 1024 * 1024, .forbidden_bits = 0022, .follow_links = true, .root_may_own = true};

std::expected<RootSet, Error> collect(std::string_view root_pem, const std::vector<std::string>& more) {
  RootSet set;
  if (set.add_pem(root_pem) != 1) return std::unexpected(Error{"the CA's own certificate is not one", {}});
  if (const fs::path system = system_bundle(); !system.empty()) {
    const auto pem = read_checked(system, bundle_rules);
    if (!pem) return std::unexpected(pem.error());
    set.add_pem(*pem);
  }
  for (const std::string& pem : more) set.add_pem(pem);
  return set;
}

std::string encode_bundle(const RootSet& set) {
  std::string out;
  for (const Root& root : set.roots()) out += to_pem(root.certificate.get());
  return out;
}

std::expected<std::size_t, Error> write(const fs::path& file, const std::expected<RootSet, Error>& set,
                                        std::string (*encode)(const RootSet&)) {
  if (!set) return std::unexpected(set.error());
  const std::string content = encode(*set);
  if (content.empty()) return std::unexpected(Error{file.string() + ": " + take_openssl_error(), {}});
  if (auto written = publish_if_changed(file, content, 0644); !written)
    return std::unexpected(written.error());
  return set->roots().size();
}

}  // namespace

fs::path system_bundle() {
  static constexpr std::array places = {
      "/etc/ssl/certs/ca-certificates.crt",                 // Debian, Ubuntu, Arch, Alpine
      "/etc/pki/tls/certs/ca-bundle.crt",                   // Fedora, RHEL
      "/etc/ssl/ca-bundle.pem",                             // openSUSE
      "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",  // RHEL without the compatibility link
      "/etc/ssl/cert.pem",                                  // Alpine, and where OpenSSL looks by default
  };
  for (const char* place : places) {
    std::error_code error;
    if (fs::is_regular_file(place, error)) return place;
  }
  return {};
}

std::expected<std::size_t, Error> write_bundle(const fs::path& file, std::string_view root_pem) {
  return write(file, collect(root_pem, {}), encode_bundle);
}

std::expected<std::size_t, Error> write_pkcs12(const fs::path& file, std::string_view root_pem) {
  return write(file, collect(root_pem, jdk_roots().pem), encode_pkcs12);
}

std::expected<std::size_t, Error> write_jks(const fs::path& file, std::string_view root_pem) {
  return write(file, collect(root_pem, jdk_roots().pem), encode_jks);
}

}  // namespace weir::ca
