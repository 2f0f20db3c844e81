// Puts together whose roots go into which store and publishes the file. Our own root comes first in each.
#include "ca/truststore.h"

#include <array>
#include <set>
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

constexpr std::array bundle_places = {
    "/etc/ssl/certs/ca-certificates.crt",                 // Debian, Ubuntu, Arch, Alpine
    "/etc/pki/tls/certs/ca-bundle.crt",                   // Fedora, RHEL
    "/etc/ssl/ca-bundle.pem",                             // openSUSE
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",  // RHEL without the compatibility link
    "/etc/ssl/cert.pem",                                  // Alpine, and where OpenSSL looks by default
};

std::expected<RootSet, Error> collect(std::string_view root_pem, const std::vector<std::string>& more) {
  RootSet set;
  if (set.add_pem(root_pem) == 0) return std::unexpected(Error{"the CA's own certificate is not one", {}});
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

// `set` and the certificates, in the format that the keystore has.
std::expected<std::string, std::string> encode_like(std::string_view keystore, RootSet set,
                                                    const std::vector<std::string>& certificates) {
  for (const std::string& der : certificates)
    if (!set.add_der(der)) return std::unexpected("holds too many entries or a damaged one");
  const std::string encoded = is_jks(keystore) ? encode_jks(set) : encode_pkcs12(set);
  if (encoded.empty()) return std::unexpected(take_openssl_error());
  return encoded;
}

}  // namespace

bool is_pem(std::string_view store) {
  return store.find("-----BEGIN ") != std::string_view::npos && store.find('\0') == std::string_view::npos;
}

fs::path system_bundle() {
  for (const char* place : bundle_places) {
    std::error_code error;
    if (fs::is_regular_file(place, error)) return place;
  }
  return {};
}

std::vector<fs::path> system_bundles() {
  std::set<fs::path> found;
  for (const char* place : bundle_places) {
    std::error_code error;
    const fs::path real = fs::canonical(place, error);
    if (!error && fs::is_regular_file(real, error)) found.insert(real);
  }
  return {found.begin(), found.end()};
}

std::expected<std::string, std::string> with_roots(std::string_view store, std::string_view roots_pem) {
  if (is_pem(store)) {
    const bool whole_line = store.ends_with('\n');
    return std::string(store) + (whole_line ? "" : "\n") + std::string(roots_pem);
  }
  const auto certificates = parse_keystore(store);
  if (!certificates) return std::unexpected(certificates.error());
  RootSet set;
  if (set.add_pem(roots_pem) == 0) return std::unexpected("can't hold the CA's certificate, which is none");
  return encode_like(store, std::move(set), *certificates);
}

std::set<std::string> certificates_in(std::string_view store) {
  RootSet set;
  if (is_pem(store)) {
    set.add_pem(store);
  } else if (const auto certificates = parse_keystore(store)) {
    for (const std::string& der : *certificates) set.add_der(der);
  }
  std::set<std::string> found;
  for (const Root& root : set.roots()) found.insert(root.der);
  return found;
}

std::expected<std::string, std::string> without_roots(std::string_view store, std::string_view roots_pem) {
  RootSet ours;
  ours.add_pem(roots_pem);
  if (is_pem(store)) {
    std::string text(store);
    for (const Root& root : ours.roots()) {
      const std::string pem = to_pem(root.certificate.get());
      for (std::size_t at = 0; (at = text.find(pem, at)) != std::string::npos;) text.erase(at, pem.size());
    }
    return text;
  }
  auto certificates = parse_keystore(store);
  if (!certificates) return std::unexpected(certificates.error());
  for (const Root& root : ours.roots()) std::erase(*certificates, root.der);
  return encode_like(store, RootSet(), *certificates);
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
