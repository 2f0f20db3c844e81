// Any bytes as a trust store of Java's or as PEM: the roots that are found can be written in each format, and
// read back the same.
#include <algorithm>

#include "ca/certificates.h"
#include "ca/keystore.h"
#include "ca/root_set.h"
#include "ca/truststore.h"
#include "tests/fuzz/fuzz.h"

namespace {

using namespace weir::ca;
using weir::fuzz::require;

using Certificates = std::expected<std::vector<std::string>, std::string>;

// A JKS ends with a SHA-1 that no mutation would ever meet (JavaKeyStore.getPreKeyedHash).
std::string with_digest(std::string_view content) {
  std::string input;
  for (const char c : truststore_password) input += {'\0', c};
  input.append("Mighty Aphrodite").append(content);
  unsigned char digest[20];
  require(EVP_Digest(input.data(), input.size(), digest, nullptr, EVP_sha1(), nullptr) == 1);
  return std::string(content).append(reinterpret_cast<const char*>(digest), sizeof digest);
}

void check_round_trips(const RootSet& set) {
  std::vector<std::string> wanted;
  std::string pem;
  for (const Root& root : set.roots()) {
    wanted.push_back(root.der);
    pem += to_pem(root.certificate.get());
  }
  RootSet again;
  require(again.add_pem(pem) == wanted.size() && again.roots().size() == wanted.size());
  for (std::size_t i = 0; i < wanted.size(); ++i) require(again.roots()[i].der == wanted[i]);

  require(parse_jks(encode_jks(set)) == Certificates(wanted));
  require(parse_pkcs12(encode_pkcs12(set)) == Certificates(wanted));
  auto aliases = aliases_for(set);
  std::ranges::sort(aliases);
  require(aliases.size() == wanted.size() && std::ranges::adjacent_find(aliases) == aliases.end());
}

void check_store(const Certificates& certificates) {
  if (!certificates) return require(!certificates.error().empty());
  require(certificates->size() <= RootSet::limit);
  RootSet set;
  for (const std::string& der : *certificates) set.add_der(der);
  if (!set.roots().empty()) check_round_trips(set);
}

const std::string& own_root() {
  static const std::string pem = [] {
    const KeyPtr key(EVP_EC_gen("P-256"));
    return to_pem(make_root(key.get(), "fuzz", std::chrono::sys_seconds(std::chrono::seconds(1))).get());
  }();
  return pem;
}

// Our root put into a store and taken out again.
void check_merging(std::string_view store) {
  const auto merged = with_roots(store, own_root());
  if (!merged) return require(!merged.error().empty());
  const auto back = without_roots(*merged, own_root());
  require(back.has_value());
  if (is_pem(store)) return require(*back == std::string(store) + (store.ends_with('\n') ? "" : "\n"));
  auto wanted = certificates_in(store);
  require(certificates_in(*back) == wanted && is_jks(*merged) == is_jks(store));
  wanted.merge(certificates_in(own_root()));
  require(certificates_in(*merged) == wanted);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto bytes = weir::fuzz::text_of(data, size);
  check_store(parse_keystore(bytes));
  check_store(parse_jks(with_digest(bytes)));
  check_merging(bytes);
  check_merging(with_digest(bytes));
  RootSet set;
  const std::size_t taken = set.add_pem(bytes);
  require(set.roots().size() <= taken);
  set.add_der(bytes);
  if (!set.roots().empty()) check_round_trips(set);
  return 0;
}
