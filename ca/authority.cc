// Signs leaves with the CA's private key; nothing here hands it out.
#include <openssl/core_names.h>
#include <openssl/ec.h>

#include <algorithm>
#include <mutex>
#include <utility>

#include "ca/ca.h"
#include "ca/certificates.h"
#include "ca/files.h"
#include "ca/leaf_name.h"
#include "ca/openssl.h"
#include "ca/root_files.h"

namespace weir::ca {

namespace {

using std::chrono::sys_seconds;

constexpr auto leaf_backdate = std::chrono::hours(24);
constexpr auto leaf_lifetime = std::chrono::days(90);

class RootAuthority final : public Authority {
 public:
  explicit RootAuthority(Roots roots) : roots_(std::move(roots)) {}

  std::expected<std::vector<std::uint8_t>, Error> sign(const LeafRequest& request) override;
  std::string certificate_pem() const override { return to_pem(roots_.root.get()); }
  std::string roots_pem() const override;
  bool in_overlap() const override { return roots_.former != nullptr; }
  std::string subject() const override { return subject_of(roots_.root.get()); }
  std::string sha256_fingerprint() const override { return sha256_fingerprint_of(roots_.root.get()); }
  sys_seconds not_after() const override { return roots_.validity.end; }

 private:
  const Roots roots_;
  std::mutex mutex_;  // over the root and its key: OpenSSL caches in them while it signs
};

std::expected<std::vector<std::uint8_t>, Error> RootAuthority::sign(const LeafRequest& request) {
  const auto name = parse_leaf_name(request.name);
  if (!name)
    return refuse("no certificate for this name: neither a DNS name in lower case nor an address", {});
  const KeyPtr leaf_key = public_key_from(request.public_key);
  if (!leaf_key) {
    ERR_clear_error();
    return refuse("no certificate for " + name->text + ": its public key is not a point of P-256", {});
  }
  const sys_seconds now = current_time();
  const Validity validity{std::max<sys_seconds>(now - leaf_backdate, roots_.validity.begin),
                          std::min<sys_seconds>(now + leaf_lifetime, roots_.validity.end)};
  if (validity.end <= now) return refuse("the CA certificate has expired");

  const std::lock_guard lock(mutex_);
  if (EVP_PKEY_eq(leaf_key.get(), roots_.key.get()) == 1)
    return refuse("the CA's own key cannot serve as a leaf's", {});
  const CertificatePtr leaf = make_leaf(*name, leaf_key.get(), validity, roots_.root.get(), roots_.key.get());
  if (!leaf) return refuse("cannot sign for " + name->text + ": " + take_openssl_error(), {});
  const X509* issuer = roots_.cross ? roots_.cross.get() : roots_.root.get();
  const std::string der = to_der(leaf.get()) + to_der(issuer);
  return std::vector<std::uint8_t>(der.begin(), der.end());
}

std::string RootAuthority::roots_pem() const {
  return certificate_pem() + (roots_.former ? to_pem(roots_.former.get()) : "");
}

}  // namespace

// The key is written first: a crash between the two leaves a key without a certificate, which nobody can have
// trusted yet, so the next call completes the pair. A certificate without its key may be trusted somewhere.
std::expected<std::unique_ptr<Authority>, Error> Authority::load_or_create(const Paths& paths) {
  if (auto ready = prepare_directory(paths.directory); !ready) return std::unexpected(ready.error());
  const auto lock = lock_directory(paths.directory);
  if (!lock) return std::unexpected(lock.error());
  if (auto settled = settle(paths); !settled) return std::unexpected(settled.error());

  const bool has_key = is_present(paths.key());
  if (!is_present(paths.certificate())) {
    auto key = has_key ? load_key(paths.key()) : create_key(paths.key());
    if (!key) return std::unexpected(key.error());
    if (auto root = create_root(paths.certificate(), key->get()); !root) return std::unexpected(root.error());
  } else if (!has_key) {
    return refuse(paths.key().string() + ": is missing, though its certificate ca.crt is there",
                  "put the key back, or run: weir ca rotate --without-overlap");
  }
  auto roots = load_roots(paths);
  if (!roots) return std::unexpected(roots.error());
  return std::make_unique<RootAuthority>(std::move(*roots));
}

}  // namespace weir::ca
