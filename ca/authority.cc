// The one owner of the CA's private key: loads or makes it, and signs leaves with it. The key leaves this
// file only as the 0600 file on disk; nothing here hands it out.
#include <openssl/core_names.h>
#include <openssl/ec.h>
#include <openssl/pem.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <mutex>
#include <utility>

#include "ca/ca.h"
#include "ca/certificates.h"
#include "ca/files.h"
#include "ca/leaf_name.h"
#include "ca/openssl.h"

namespace weir::ca {

namespace {

using std::chrono::sys_seconds;

constexpr std::size_t pem_limit = 16UL * 1024;
constexpr ReadRules key_rules{.limit = pem_limit, .forbidden_bits = 0177};
constexpr ReadRules certificate_rules{.limit = pem_limit, .forbidden_bits = 0022};
constexpr auto leaf_backdate = std::chrono::hours(24);
constexpr auto leaf_lifetime = std::chrono::days(90);
constexpr const char* rotate = "run: weir ca rotate";

std::unexpected<Error> refuse(std::string what, std::string remedy = rotate) {
  return std::unexpected(Error{std::move(what), std::move(remedy)});
}

sys_seconds current_time() {
  return std::chrono::floor<std::chrono::seconds>(std::chrono::system_clock::now());
}

std::string host_name() {
  std::array<char, 256> name{};
  return ::gethostname(name.data(), name.size() - 1) == 0 ? name.data() : "";
}

// OpenSSL would ask on the terminal for the password of an encrypted key.
int no_password(char* /*buffer*/, int /*size*/, int /*writing*/, void* /*data*/) {
  return -1;
}

bool is_sound_p256(EVP_PKEY* key) {
  std::array<char, 32> group{};
  std::size_t length = 0;
  const KeyContextPtr check(EVP_PKEY_CTX_new_from_pkey(nullptr, key, nullptr));
  return EVP_PKEY_get_group_name(key, group.data(), group.size(), &length) == 1 &&
         std::string_view(group.data(), length) == SN_X9_62_prime256v1 && check &&
         EVP_PKEY_check(check.get()) == 1;
}

std::expected<KeyPtr, Error> load_key(const std::filesystem::path& file) {
  auto pem = read_checked(file, key_rules);
  if (!pem) return std::unexpected(pem.error());
  const BioPtr bio = read_only_bio(*pem);
  KeyPtr key(bio ? PEM_read_bio_PrivateKey(bio.get(), nullptr, no_password, nullptr) : nullptr);
  OPENSSL_cleanse(pem->data(), pem->size());
  if (!key) return refuse(file.string() + ": not a private key in PEM form (" + take_openssl_error() + ")");
  if (!is_sound_p256(key.get())) return refuse(file.string() + ": not a sound P-256 key");
  return key;
}

std::expected<KeyPtr, Error> create_key(const std::filesystem::path& file) {
  KeyPtr key(EVP_EC_gen("P-256"));
  const BioPtr bio(BIO_new(BIO_s_secmem()));
  if (!key || !bio ||
      PEM_write_bio_PKCS8PrivateKey(bio.get(), key.get(), nullptr, nullptr, 0, nullptr, nullptr) != 1)
    return refuse(file.string() + ": cannot make a key (" + take_openssl_error() + ")", {});
  char* data = nullptr;
  const long size = BIO_get_mem_data(bio.get(), &data);
  const std::string_view pem(data, static_cast<std::size_t>(size));
  if (auto written = publish(file, pem, 0600, Existing::keep); !written)
    return std::unexpected(written.error());
  return key;
}

std::expected<CertificatePtr, Error> load_root(const std::filesystem::path& file, EVP_PKEY* key) {
  const auto pem = read_checked(file, certificate_rules);
  if (!pem) return std::unexpected(pem.error());
  CertificatePtr root = from_pem(*pem);
  if (!root) return refuse(file.string() + ": not a certificate in PEM form (" + take_openssl_error() + ")");
  if (X509_check_private_key(root.get(), key) != 1)
    return refuse(file.string() + ": does not belong to the key in ca.key beside it");
  if (X509_verify(root.get(), key) != 1) return refuse(file.string() + ": its signature is wrong");
  if (X509_check_ca(root.get()) != 1 || X509_get_pathlen(root.get()) != 0)
    return refuse(file.string() + ": is not weir's kind of CA certificate");
  return root;
}

std::expected<CertificatePtr, Error> create_root(const std::filesystem::path& file, EVP_PKEY* key) {
  CertificatePtr root = make_root(key, host_name(), current_time());
  if (!root) return refuse(file.string() + ": cannot make a certificate (" + take_openssl_error() + ")", {});
  auto written = publish(file, to_pem(root.get()), 0644, Existing::keep);
  if (!written) return std::unexpected(written.error());
  return root;
}

class RootAuthority final : public Authority {
 public:
  RootAuthority(KeyPtr key, CertificatePtr root, const Validity& validity)
      : key_(std::move(key)), root_(std::move(root)), validity_(validity) {}

  std::expected<std::vector<std::uint8_t>, Error> sign(const LeafRequest& request) override;
  std::string certificate_pem() const override { return to_pem(root_.get()); }
  std::string subject() const override;
  std::string sha256_fingerprint() const override;
  sys_seconds not_after() const override { return validity_.end; }

 private:
  const KeyPtr key_;
  const CertificatePtr root_;
  const Validity validity_;
  std::mutex mutex_;  // over root_ and key_: OpenSSL caches in them while it signs
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
  const Validity validity{std::max<sys_seconds>(now - leaf_backdate, validity_.begin),
                          std::min<sys_seconds>(now + leaf_lifetime, validity_.end)};
  if (validity.end <= now) return refuse("the CA certificate has expired");

  const std::lock_guard lock(mutex_);
  if (EVP_PKEY_eq(leaf_key.get(), key_.get()) == 1)
    return refuse("the CA's own key cannot serve as a leaf's", {});
  const CertificatePtr leaf = make_leaf(*name, leaf_key.get(), validity, root_.get(), key_.get());
  if (!leaf) return refuse("cannot sign for " + name->text + ": " + take_openssl_error(), {});
  const std::string der = to_der(leaf.get());
  return std::vector<std::uint8_t>(der.begin(), der.end());
}

std::string RootAuthority::subject() const {
  const BioPtr bio(BIO_new(BIO_s_mem()));
  if (!bio || X509_NAME_print_ex(bio.get(), X509_get_subject_name(root_.get()), 0, XN_FLAG_RFC2253) < 0)
    return {};
  char* data = nullptr;
  const long size = BIO_get_mem_data(bio.get(), &data);
  return {data, static_cast<std::size_t>(size)};
}

std::string RootAuthority::sha256_fingerprint() const {
  std::array<unsigned char, EVP_MAX_MD_SIZE> digest{};
  unsigned int size = 0;
  if (X509_digest(root_.get(), EVP_sha256(), digest.data(), &size) != 1) return {};
  constexpr std::string_view hex = "0123456789ABCDEF";
  std::string text;
  for (unsigned int i = 0; i < size; ++i) {
    if (i > 0) text += ':';
    text += {hex[digest[i] >> 4], hex[digest[i] & 15]};
  }
  return text;
}

}  // namespace

// The key is written first: a crash between the two leaves a key without a certificate, which nobody can have
// trusted yet, so the next call completes the pair. A certificate without its key may be trusted somewhere.
std::expected<std::unique_ptr<Authority>, Error> Authority::load_or_create(const Paths& paths) {
  if (auto ready = prepare_directory(paths.directory); !ready) return std::unexpected(ready.error());
  const auto lock = lock_directory(paths.directory);
  if (!lock) return std::unexpected(lock.error());

  const bool has_key = is_present(paths.key());
  const bool has_root = is_present(paths.certificate());
  if (has_root && !has_key)
    return refuse(paths.key().string() + ": is missing, though its certificate ca.crt is there",
                  "put the key back, or run: weir ca rotate");
  auto key = has_key ? load_key(paths.key()) : create_key(paths.key());
  if (!key) return std::unexpected(key.error());
  auto root =
      has_root ? load_root(paths.certificate(), key->get()) : create_root(paths.certificate(), key->get());
  if (!root) return std::unexpected(root.error());

  const auto validity = validity_of(root->get());
  if (!validity) return refuse(paths.certificate().string() + ": holds no readable dates");
  const sys_seconds now = current_time();
  if (validity->end <= now) return refuse(paths.certificate().string() + ": has expired");
  if (validity->begin > now)
    return refuse(paths.certificate().string() + ": is not valid yet",
                  "set the clock, or run: weir ca rotate");
  return std::make_unique<RootAuthority>(std::move(*key), std::move(*root), *validity);
}

}  // namespace weir::ca
