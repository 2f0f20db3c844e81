// The root's and the leaves' fields and extensions. Values that come from outside go in through typed calls,
// never through OpenSSL's configuration strings, where a comma would start a second name.
#include "ca/certificates.h"

#include <openssl/core_names.h>
#include <openssl/param_build.h>
#include <openssl/params.h>
#include <openssl/pem.h>

#include <algorithm>
#include <ctime>

namespace weir::ca {

namespace {

using namespace std::chrono_literals;
using std::chrono::sys_seconds;

constexpr auto backdate = 24h;  // clocks of clients may be behind
constexpr auto root_lifetime = std::chrono::days(3653);
constexpr std::size_t longest_common_name = 64;  // RFC 5280, appendix A: ub-common-name
constexpr int serial_bits = 159;                 // 20 octets at most, and positive: RFC 5280, 4.1.2.2

struct FixedExtension {
  int nid;
  const char* value;
};

constexpr FixedExtension root_extensions[] = {
    {NID_basic_constraints, "critical,CA:TRUE,pathlen:1"},
    {NID_key_usage, "critical,keyCertSign,cRLSign"},
    {NID_subject_key_identifier, "hash"},
};

constexpr FixedExtension cross_extensions[] = {
    {NID_basic_constraints, "critical,CA:TRUE,pathlen:0"},
    {NID_key_usage, "critical,keyCertSign,cRLSign"},
    {NID_subject_key_identifier, "hash"},
    {NID_authority_key_identifier, "keyid:always"},
};

constexpr FixedExtension leaf_extensions[] = {
    {NID_basic_constraints, "critical,CA:FALSE"},
    {NID_key_usage, "critical,digitalSignature"},
    {NID_ext_key_usage, "serverAuth"},
    {NID_subject_key_identifier, "hash"},
    {NID_authority_key_identifier, "keyid:always"},
};

template <std::size_t Count>
bool add_extensions(X509* certificate, X509* issuer, const FixedExtension (&extensions)[Count]) {
  X509V3_CTX context;
  X509V3_set_ctx_nodb(&context);
  X509V3_set_ctx(&context, issuer, certificate, nullptr, nullptr, 0);
  return std::ranges::all_of(extensions, [&](const FixedExtension& fixed) {
    const ExtensionPtr extension(X509V3_EXT_conf_nid(nullptr, &context, fixed.nid, fixed.value));
    return extension && X509_add_ext(certificate, extension.get(), -1) == 1;
  });
}

bool set_random_serial(X509* certificate) {
  const BignumPtr number(BN_new());
  return number && BN_rand(number.get(), serial_bits, BN_RAND_TOP_ANY, BN_RAND_BOTTOM_ANY) == 1 &&
         BN_to_ASN1_INTEGER(number.get(), X509_get_serialNumber(certificate)) != nullptr;
}

bool set_validity(X509* certificate, const Validity& validity) {
  const auto begin = static_cast<time_t>(validity.begin.time_since_epoch().count());
  const auto end = static_cast<time_t>(validity.end.time_since_epoch().count());
  return ASN1_TIME_set(X509_getm_notBefore(certificate), begin) != nullptr &&
         ASN1_TIME_set(X509_getm_notAfter(certificate), end) != nullptr;
}

bool add_name_part(X509_NAME* name, int nid, std::string_view value) {
  return X509_NAME_add_entry_by_NID(name, nid, MBSTRING_UTF8,
                                    reinterpret_cast<const unsigned char*>(value.data()),
                                    static_cast<int>(value.size()), -1, 0) == 1;
}

CertificatePtr new_certificate(EVP_PKEY* key, const Validity& validity) {
  CertificatePtr certificate(X509_new());
  const bool filled = certificate && X509_set_version(certificate.get(), X509_VERSION_3) == 1 &&
                      set_random_serial(certificate.get()) && set_validity(certificate.get(), validity) &&
                      X509_set_pubkey(certificate.get(), key) == 1;
  return filled ? std::move(certificate) : nullptr;
}

using GeneralNamesPtr = std::unique_ptr<GENERAL_NAMES, Freer<GENERAL_NAMES_free>>;
using OctetsPtr = std::unique_ptr<ASN1_STRING, Freer<ASN1_STRING_free>>;

GeneralNamesPtr general_names(const LeafName& name) {
  const bool is_address = !name.address.empty();
  OctetsPtr value(ASN1_STRING_type_new(is_address ? V_ASN1_OCTET_STRING : V_ASN1_IA5STRING));
  const void* data = is_address ? static_cast<const void*>(name.address.data()) : name.text.data();
  const std::size_t size = is_address ? name.address.size() : name.text.size();
  if (!value || ASN1_STRING_set(value.get(), data, static_cast<int>(size)) != 1) return nullptr;
  GENERAL_NAME* entry = GENERAL_NAME_new();
  GeneralNamesPtr names(GENERAL_NAMES_new());
  if (entry == nullptr || !names || sk_GENERAL_NAME_push(names.get(), entry) <= 0) {
    GENERAL_NAME_free(entry);
    return nullptr;
  }
  GENERAL_NAME_set0_value(entry, is_address ? GEN_IPADD : GEN_DNS, value.release());
  return names;
}

// A common name that doesn't fit is left out rather than cut: half a name is another name. RFC 5280, 4.2.1.6:
// without a subject the alternative name must be critical.
bool name_leaf(X509* certificate, const LeafName& name) {
  const bool fits = name.text.size() <= longest_common_name;
  if (fits && !add_name_part(X509_get_subject_name(certificate), NID_commonName, name.text)) return false;
  const GeneralNamesPtr names = general_names(name);
  return names && X509_add1_ext_i2d(certificate, NID_subject_alt_name, names.get(), fits ? 0 : 1,
                                    X509V3_ADD_APPEND) == 1;
}

std::string printable(std::string_view host) {
  std::string text;
  std::ranges::copy_if(host, std::back_inserter(text), [](char c) { return c > ' ' && c < '\x7f'; });
  return text.empty() ? "localhost" : text;
}

std::optional<sys_seconds> to_time(const ASN1_TIME* time) {
  std::tm parts{};
  if (ASN1_TIME_to_tm(time, &parts) != 1) return std::nullopt;
  return sys_seconds(std::chrono::seconds(::timegm(&parts)));
}

}  // namespace

CertificatePtr make_root(EVP_PKEY* key, std::string_view host, sys_seconds now,
                         std::string_view distinction) {
  CertificatePtr root = new_certificate(key, {now - backdate, now + root_lifetime});
  if (!root) return nullptr;
  const std::string end = distinction.empty() ? "" : " " + std::string(distinction);
  const std::string common_name =
      ("weir CA " + printable(host)).substr(0, longest_common_name - end.size()) + end;
  X509_NAME* subject = X509_get_subject_name(root.get());
  const bool built =
      add_name_part(subject, NID_organizationName, "weir") &&
      add_name_part(subject, NID_commonName, common_name) && X509_set_issuer_name(root.get(), subject) == 1 &&
      add_extensions(root.get(), root.get(), root_extensions) && X509_sign(root.get(), key, EVP_sha256()) > 0;
  return built ? std::move(root) : nullptr;
}

CertificatePtr make_cross(X509* root, X509* former, EVP_PKEY* former_key, sys_seconds now) {
  const auto end = validity_of(root);
  const auto former_end = validity_of(former);
  if (!end || !former_end) return nullptr;
  const Validity validity{std::max(now - backdate, former_end->begin), std::min(end->end, former_end->end)};
  CertificatePtr cross = new_certificate(X509_get0_pubkey(root), validity);
  const bool built = cross && X509_set_subject_name(cross.get(), X509_get_subject_name(root)) == 1 &&
                     X509_set_issuer_name(cross.get(), X509_get_subject_name(former)) == 1 &&
                     add_extensions(cross.get(), former, cross_extensions) &&
                     X509_sign(cross.get(), former_key, EVP_sha256()) > 0;
  return built ? std::move(cross) : nullptr;
}

CertificatePtr make_leaf(const LeafName& name, EVP_PKEY* leaf_key, const Validity& validity, X509* root,
                         EVP_PKEY* root_key) {
  CertificatePtr leaf = new_certificate(leaf_key, validity);
  const bool built = leaf && name_leaf(leaf.get(), name) &&
                     X509_set_issuer_name(leaf.get(), X509_get_subject_name(root)) == 1 &&
                     add_extensions(leaf.get(), root, leaf_extensions) &&
                     X509_sign(leaf.get(), root_key, EVP_sha256()) > 0;
  return built ? std::move(leaf) : nullptr;
}

KeyPtr public_key_from(const PublicPoint& point) {
  if (point[0] != POINT_CONVERSION_UNCOMPRESSED) return nullptr;
  // OpenSSL takes parameters as non-const pointers, though it only reads them here.
  std::string group = "P-256";
  PublicPoint octets = point;
  const std::array<OSSL_PARAM, 3> parameters = {
      OSSL_PARAM_construct_utf8_string(OSSL_PKEY_PARAM_GROUP_NAME, group.data(), 0),
      OSSL_PARAM_construct_octet_string(OSSL_PKEY_PARAM_PUB_KEY, octets.data(), octets.size()),
      OSSL_PARAM_construct_end()};
  const KeyContextPtr context(EVP_PKEY_CTX_new_from_name(nullptr, "EC", nullptr));
  EVP_PKEY* raw = nullptr;
  if (!context || EVP_PKEY_fromdata_init(context.get()) != 1 ||
      EVP_PKEY_fromdata(context.get(), &raw, EVP_PKEY_PUBLIC_KEY,
                        const_cast<OSSL_PARAM*>(parameters.data())) != 1)
    return nullptr;
  KeyPtr key(raw);
  const KeyContextPtr check(EVP_PKEY_CTX_new_from_pkey(nullptr, key.get(), nullptr));
  return check && EVP_PKEY_public_check(check.get()) == 1 ? std::move(key) : nullptr;
}

std::optional<Validity> validity_of(const X509* certificate) {
  const auto begin = to_time(X509_get0_notBefore(certificate));
  const auto end = to_time(X509_get0_notAfter(certificate));
  if (!begin || !end) return std::nullopt;
  return Validity{*begin, *end};
}

std::string subject_of(const X509* certificate) {
  const BioPtr bio(BIO_new(BIO_s_mem()));
  if (!bio || X509_NAME_print_ex(bio.get(), X509_get_subject_name(certificate), 0, XN_FLAG_RFC2253) < 0)
    return {};
  char* data = nullptr;
  const long size = BIO_get_mem_data(bio.get(), &data);
  return {data, static_cast<std::size_t>(size)};
}

std::string sha256_fingerprint_of(const X509* certificate) {
  std::array<unsigned char, EVP_MAX_MD_SIZE> digest{};
  unsigned int size = 0;
  if (X509_digest(certificate, EVP_sha256(), digest.data(), &size) != 1) return {};
  constexpr std::string_view hex = "0123456789ABCDEF";
  std::string text;
  for (unsigned int i = 0; i < size; ++i) {
    if (i > 0) text += ':';
    text += {hex[digest[i] >> 4], hex[digest[i] & 15]};
  }
  return text;
}

std::string to_pem(X509* certificate) {
  const BioPtr bio(BIO_new(BIO_s_mem()));
  if (!bio || PEM_write_bio_X509(bio.get(), certificate) != 1) return {};
  char* data = nullptr;
  const long size = BIO_get_mem_data(bio.get(), &data);
  return {data, static_cast<std::size_t>(size)};
}

std::string to_der(const X509* certificate) {
  unsigned char* data = nullptr;
  const int size = i2d_X509(certificate, &data);
  if (size <= 0) return {};
  std::string der(reinterpret_cast<char*>(data), static_cast<std::size_t>(size));
  OPENSSL_free(data);
  return der;
}

CertificatePtr from_pem(std::string_view pem) {
  const BioPtr bio = read_only_bio(pem);
  return CertificatePtr(bio ? PEM_read_bio_X509(bio.get(), nullptr, nullptr, nullptr) : nullptr);
}

}  // namespace weir::ca
