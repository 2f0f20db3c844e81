// PKCS#12 as Java reads and writes it. What makes a bare certificate a trusted one for Java is an attribute
// on its bag; without it the entry is silently passed over. Never encrypts: the content is public.
#include <algorithm>
#include <array>

#include "ca/certificates.h"
#include "ca/keystore.h"
#include "ca/truststore.h"

namespace weir::ca {

namespace {

// oracle-jdk-trustedkeyusage (sun.security.pkcs12.PKCS12KeyStore) and the value for "any".
constexpr const char* trusted_key_usage = "2.16.840.1.113894.746875.1.1";
constexpr int mac_iterations = 2048;
constexpr long most_mac_iterations = 5'000'000;  // what Java accepts; more would only be a way to stall us
constexpr int salt_size = 20;
constexpr const char* password = truststore_password.data();  // ends in a NUL: it is a literal

using Pkcs12Ptr = std::unique_ptr<PKCS12, Freer<PKCS12_free>>;
using ObjectPtr = std::unique_ptr<ASN1_OBJECT, Freer<ASN1_OBJECT_free>>;
using BagPtr = std::unique_ptr<PKCS12_SAFEBAG, Freer<PKCS12_SAFEBAG_free>>;

struct BagsFreer {
  void operator()(STACK_OF(PKCS12_SAFEBAG) * bags) const {
    sk_PKCS12_SAFEBAG_pop_free(bags, PKCS12_SAFEBAG_free);
  }
};
using BagsPtr = std::unique_ptr<STACK_OF(PKCS12_SAFEBAG), BagsFreer>;

struct SafesFreer {
  void operator()(STACK_OF(PKCS7) * safes) const { sk_PKCS7_pop_free(safes, PKCS7_free); }
};
using SafesPtr = std::unique_ptr<STACK_OF(PKCS7), SafesFreer>;

BagPtr make_bag(X509* certificate, const std::string& alias) {
  BagPtr bag(PKCS12_SAFEBAG_create_cert(certificate));
  const auto* any = reinterpret_cast<const unsigned char*>(OBJ_nid2obj(NID_anyExtendedKeyUsage));
  const bool named =
      bag && PKCS12_add_friendlyname_utf8(bag.get(), alias.data(), static_cast<int>(alias.size())) == 1 &&
      PKCS12_add1_attr_by_txt(bag.get(), trusted_key_usage, V_ASN1_OBJECT, any, -1) == 1;
  return named ? std::move(bag) : nullptr;
}

BagsPtr make_bags(const RootSet& set) {
  const std::vector<std::string> aliases = aliases_for(set);
  BagsPtr bags(sk_PKCS12_SAFEBAG_new_null());
  for (std::size_t i = 0; bags && i < aliases.size(); ++i) {
    PKCS12_SAFEBAG* bag = make_bag(set.roots()[i].certificate.get(), aliases[i]).release();
    if (bag == nullptr || sk_PKCS12_SAFEBAG_push(bags.get(), bag) <= 0) {
      PKCS12_SAFEBAG_free(bag);
      return nullptr;
    }
  }
  return bags;
}

// Taken from the content, so that the same roots give the same file. Nothing secret hangs on it.
std::array<unsigned char, EVP_MAX_MD_SIZE> salt_for(const RootSet& set) {
  std::string all;
  for (const Root& root : set.roots()) all += root.der;
  std::array<unsigned char, EVP_MAX_MD_SIZE> digest{};
  EVP_Digest(all.data(), all.size(), digest.data(), nullptr, EVP_sha256(), nullptr);
  return digest;
}

bool mac_is_right(PKCS12* store) {
  if (PKCS12_mac_present(store) != 1) return true;  // the JDK's own store since 18 has none
  const ASN1_INTEGER* iterations = nullptr;
  PKCS12_get0_mac(nullptr, nullptr, nullptr, &iterations, store);
  const bool bounded = iterations == nullptr || (ASN1_INTEGER_get(iterations) >= 0 &&
                                                 ASN1_INTEGER_get(iterations) <= most_mac_iterations);
  return bounded && PKCS12_verify_mac(store, password, -1) == 1;
}

BagsPtr open_safe(PKCS7* safe) {
  if (PKCS7_type_is_data(safe)) return BagsPtr(PKCS12_unpack_p7data(safe));
  if (!PKCS7_type_is_encrypted(safe)) return nullptr;
  return BagsPtr(PKCS12_unpack_p7encdata(safe, password, -1));
}

// Java trusts a bare certificate only with the attribute; taking more would trust more than the JDK does.
bool is_trusted_certificate(const PKCS12_SAFEBAG* bag, const ASN1_OBJECT* attribute) {
  return PKCS12_SAFEBAG_get_nid(bag) == NID_certBag &&
         PKCS12_SAFEBAG_get_bag_nid(bag) == NID_x509Certificate &&
         X509at_get_attr_by_OBJ(PKCS12_SAFEBAG_get0_attrs(bag), attribute, -1) >= 0;
}

bool take_certificates(const STACK_OF(PKCS12_SAFEBAG) * bags, std::vector<std::string>& certificates) {
  const ObjectPtr attribute(OBJ_txt2obj(trusted_key_usage, 1));
  for (int i = 0; i < sk_PKCS12_SAFEBAG_num(bags); ++i) {
    const PKCS12_SAFEBAG* bag = sk_PKCS12_SAFEBAG_value(bags, i);
    if (!is_trusted_certificate(bag, attribute.get())) continue;
    const CertificatePtr certificate(PKCS12_SAFEBAG_get1_cert(bag));
    if (!certificate || certificates.size() >= RootSet::limit) return false;
    certificates.push_back(to_der(certificate.get()));
  }
  return true;
}

std::unexpected<std::string> refuse(const std::string& why) {
  return std::unexpected(why + " (" + take_openssl_error() + ")");
}

}  // namespace

std::expected<std::vector<std::string>, std::string> parse_pkcs12(std::string_view bytes) {
  const auto* position = reinterpret_cast<const unsigned char*>(bytes.data());
  const Pkcs12Ptr store(d2i_PKCS12(nullptr, &position, static_cast<long>(bytes.size())));
  if (!store) return refuse("is neither a JKS nor a PKCS#12 keystore");
  if (!mac_is_right(store.get())) return refuse("is damaged, or has a password other than Java's default");
  const SafesPtr safes(PKCS12_unpack_authsafes(store.get()));
  if (!safes) return refuse("is malformed");

  std::vector<std::string> certificates;
  for (int i = 0; i < sk_PKCS7_num(safes.get()); ++i) {
    const BagsPtr bags = open_safe(sk_PKCS7_value(safes.get(), i));
    if (!bags) return refuse("has a part that can't be opened");
    if (!take_certificates(bags.get(), certificates))
      return refuse("holds too many entries or a damaged one");
  }
  return certificates;
}

std::string encode_pkcs12(const RootSet& set) {
  const BagsPtr bags = make_bags(set);
  STACK_OF(PKCS7)* raw_safes = nullptr;
  if (!bags || PKCS12_add_safe(&raw_safes, bags.get(), -1, 0, nullptr) != 1) return {};
  const SafesPtr safes(raw_safes);
  const Pkcs12Ptr store(PKCS12_add_safes(safes.get(), 0));
  auto salt = salt_for(set);
  // SHA-1: Java before 8u301 and 11.0.12 knows no other MAC here, and under a public password it guards
  // against accidents alone.
  if (!store ||
      PKCS12_set_mac(store.get(), password, -1, salt.data(), salt_size, mac_iterations, EVP_sha1()) != 1)
    return {};
  unsigned char* data = nullptr;
  const int size = i2d_PKCS12(store.get(), &data);
  if (size <= 0) return {};
  std::string out(reinterpret_cast<char*>(data), static_cast<std::size_t>(size));
  OPENSSL_free(data);
  return out;
}

}  // namespace weir::ca
