// What must hold for a root to be used, and the order in which files change so that a crash leaves either the
// old state or one that settle() completes.
#include "ca/root_files.h"

#include <openssl/pem.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <system_error>
#include <utility>
#include <vector>

#include "ca/files.h"

namespace weir::ca {

namespace {

namespace fs = std::filesystem;

constexpr std::size_t pem_limit = 16UL * 1024;
constexpr ReadRules key_rules{.limit = pem_limit, .forbidden_bits = 0177};
constexpr ReadRules certificate_rules{.limit = pem_limit, .forbidden_bits = 0022};
constexpr ReadRules public_rules{.limit = pem_limit, .forbidden_bits = 0022, .anyone_may_own = true};

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

std::expected<void, Error> check_root(const std::filesystem::path& file, X509* root, EVP_PKEY* key) {
  if (X509_check_private_key(root, key) != 1)
    return refuse(file.string() + ": does not belong to the key in ca.key beside it");
  if (X509_verify(root, key) != 1) return refuse(file.string() + ": its signature is wrong");
  const long below = X509_get_pathlen(root);  // 0: an earlier version's, which allows no cross certificate
  if (X509_check_ca(root) != 1 || below < 0 || below > 1)
    return refuse(file.string() + ": is not weir's kind of CA certificate");
  return {};
}

// The root, and in an overlap the former one.
std::expected<std::vector<CertificatePtr>, Error> read_certificates(
    const fs::path& file, const ReadRules& rules = certificate_rules) {
  const auto pem = read_checked(file, rules);
  if (!pem) return std::unexpected(pem.error());
  std::vector<CertificatePtr> certificates;
  const BioPtr bio = read_only_bio(*pem);
  while (X509* next = bio ? PEM_read_bio_X509(bio.get(), nullptr, nullptr, nullptr) : nullptr)
    certificates.emplace_back(next);
  if (certificates.empty())
    return refuse(file.string() + ": not a certificate in PEM form (" + take_openssl_error() + ")");
  ERR_clear_error();  // that of the end
  return certificates;
}

std::expected<void, Error> check_dates(const fs::path& file, const Validity& validity) {
  const auto now = current_time();
  if (validity.end <= now) return refuse(file.string() + ": has expired");
  if (validity.begin > now)
    return refuse(file.string() + ": is not valid yet",
                  "set the clock, or run: weir ca rotate --without-overlap");
  return {};
}

// Null when there is none, or none that could still be used.
std::expected<CertificatePtr, Error> load_cross(const fs::path& file, const Roots& roots) {
  if (!roots.former || !is_present(file)) return nullptr;
  auto read = read_certificates(file);
  if (!read) return std::unexpected(read.error());
  CertificatePtr cross = std::move(read->front());
  const bool fits = X509_verify(cross.get(), X509_get0_pubkey(roots.former.get())) == 1 &&
                    X509_check_private_key(cross.get(), roots.key.get()) == 1;
  ERR_clear_error();
  if (!fits) return refuse(file.string() + ": does not link the two roots", "run: weir ca rotate --finish");
  const auto validity = validity_of(cross.get());
  return validity && validity->end > current_time() ? std::move(cross) : nullptr;
}

}  // namespace

std::unexpected<Error> refuse(std::string what, std::string remedy) {
  return std::unexpected(Error{std::move(what), std::move(remedy)});
}

std::chrono::sys_seconds current_time() {
  return std::chrono::floor<std::chrono::seconds>(std::chrono::system_clock::now());
}

std::string host_name() {
  std::array<char, 256> name{};
  return ::gethostname(name.data(), name.size() - 1) == 0 ? name.data() : "";
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

std::expected<CertificatePtr, Error> create_root(const std::filesystem::path& file, EVP_PKEY* key) {
  CertificatePtr root = make_root(key, host_name(), current_time());
  if (!root) return refuse(file.string() + ": cannot make a certificate (" + take_openssl_error() + ")", {});
  auto written = publish(file, to_pem(root.get()), 0644, Existing::keep);
  if (!written) return std::unexpected(written.error());
  return root;
}

std::expected<Roots, Error> load_roots(const Paths& paths) {
  Roots roots;
  auto key = load_key(paths.key());
  if (!key) return std::unexpected(key.error());
  roots.key = std::move(*key);
  auto certificates = read_certificates(paths.certificate());
  if (!certificates) return std::unexpected(certificates.error());
  roots.root = std::move(certificates->front());
  if (auto sound = check_root(paths.certificate(), roots.root.get(), roots.key.get()); !sound)
    return std::unexpected(sound.error());
  if (certificates->size() > 1) roots.former = std::move((*certificates)[1]);
  auto cross = load_cross(paths.cross(), roots);
  if (!cross) return std::unexpected(cross.error());
  roots.cross = std::move(*cross);
  const auto validity = validity_of(roots.root.get());
  if (!validity) return refuse(paths.certificate().string() + ": holds no readable dates");
  roots.validity = *validity;
  if (auto dates = check_dates(paths.certificate(), *validity); !dates) return std::unexpected(dates.error());
  return roots;
}

std::expected<RootDescription, Error> describe_root(const Paths& paths) {
  const auto certificates = read_certificates(paths.certificate(), public_rules);
  if (!certificates) return std::unexpected(certificates.error());
  const X509* root = certificates->front().get();
  const auto validity = validity_of(root);
  if (!validity) return refuse(paths.certificate().string() + ": holds no readable dates");
  return RootDescription{subject_of(root), sha256_fingerprint_of(root), validity->end,
                         certificates->size() > 1};
}

std::expected<void, Error> settle(const Paths& paths) {
  if (!is_present(paths.next())) return {};
  std::error_code failed;
  for (const fs::path& file : {paths.cross(), paths.key(), paths.certificate()}) {
    const fs::path fresh = paths.next() / file.filename();
    if (is_present(fresh)) fs::rename(fresh, file, failed);
    if (failed)
      return refuse(file.string() + ": " + failed.message(), "check the directory's owner and space");
  }
  fs::remove(paths.next(), failed);
  if (failed) return refuse(paths.next().string() + ": " + failed.message(), "remove it");
  return {};
}

}  // namespace weir::ca
