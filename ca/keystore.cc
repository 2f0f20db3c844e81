// What the two keystore formats share: telling them apart and naming their entries.
#include "ca/keystore.h"

#include <array>
#include <set>

namespace weir::ca {

namespace {

constexpr std::string_view jks_magic = "\xfe\xed\xfe\xed";
constexpr std::string_view kept_in_aliases = "abcdefghijklmnopqrstuvwxyz0123456789.- ";
constexpr std::size_t longest_alias = 64;

std::string common_name(const X509* certificate) {
  const X509_NAME* subject = X509_get_subject_name(certificate);
  for (const int nid : {NID_commonName, NID_organizationalUnitName, NID_organizationName}) {
    std::array<char, 256> text{};
    if (X509_NAME_get_text_by_NID(subject, nid, text.data(), text.size()) > 0) return text.data();
  }
  return "unnamed";
}

std::string plain(std::string_view name) {
  std::string alias;
  for (const char c : name.substr(0, longest_alias)) {
    const char lower = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
    alias += kept_in_aliases.find(lower) == std::string_view::npos ? '_' : lower;
  }
  return alias;
}

}  // namespace

std::vector<std::string> aliases_for(const RootSet& set) {
  std::vector<std::string> aliases;
  std::set<std::string> taken;
  for (const Root& root : set.roots()) {
    const std::string base = aliases.empty() ? "weir" : plain(common_name(root.certificate.get()));
    std::string alias = base;
    for (int number = 2; !taken.insert(alias).second; ++number)
      alias = base + " (" + std::to_string(number) + ")";
    aliases.push_back(std::move(alias));
  }
  return aliases;
}

bool is_jks(std::string_view bytes) {
  return bytes.starts_with(jks_magic);
}

std::expected<std::vector<std::string>, std::string> parse_keystore(std::string_view bytes) {
  return is_jks(bytes) ? parse_jks(bytes) : parse_pkcs12(bytes);
}

}  // namespace weir::ca
