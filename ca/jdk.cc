// Finds the JDKs of this machine and reads their roots. Only stores that root or the caller owns and nobody
// else can write are read: their content becomes trusted by every program that uses our trust store.
#include <algorithm>
#include <cstdlib>
#include <set>
#include <system_error>

#include "ca/certificates.h"
#include "ca/files.h"
#include "ca/keystore.h"
#include "ca/truststore.h"

namespace weir::ca {

namespace fs = std::filesystem;

namespace {

constexpr std::size_t most_stores = 64;
constexpr ReadRules store_rules{
    .limit = 16UL * 1024 * 1024, .forbidden_bits = 0022, .follow_links = false, .root_may_own = true};

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

void add_home(std::set<fs::path>& stores, const fs::path& home) {
  for (const char* place : {"lib/security/cacerts", "jre/lib/security/cacerts"}) {
    std::error_code error;
    const fs::path store = fs::canonical(home / place, error);
    if (!error && stores.size() < most_stores) stores.insert(store);
  }
}

void add_installed(std::set<fs::path>& stores) {
  std::error_code error;
  const fs::directory_iterator installed("/usr/lib/jvm", error);
  if (error) return;
  for (const fs::directory_entry& entry : installed) add_home(stores, entry.path());
}

// What several JDKs share, by distribution; theirs are mostly links to it.
void add_shared(std::set<fs::path>& stores) {
  for (const char* place : {"/etc/ssl/certs/java/cacerts",               // Debian, Ubuntu
                            "/etc/pki/ca-trust/extracted/java/cacerts",  // Fedora, RHEL
                            "/var/lib/ca-certificates/java-cacerts"}) {  // openSUSE
    std::error_code error;
    const fs::path store = fs::canonical(place, error);
    if (!error && stores.size() < most_stores) stores.insert(store);
  }
}

// A relative entry of PATH means another directory to each who reads it.
void add_from_path(std::set<fs::path>& stores) {
  const std::string path = environment("PATH");
  for (std::size_t begin = 0; begin <= path.size();) {
    const std::size_t end = std::min(path.find(':', begin), path.size());
    const fs::path directory = path.substr(begin, end - begin);
    begin = end + 1;
    std::error_code error;
    if (!directory.is_absolute()) continue;
    const fs::path java = fs::canonical(directory / "java", error);
    if (error) continue;
    add_home(stores, java.parent_path().parent_path());
    return;
  }
}

// By real path: one store is often reached through several JDKs.
std::set<fs::path> find_stores() {
  std::set<fs::path> stores;
  const fs::path java_home = environment("JAVA_HOME");
  if (java_home.is_absolute()) add_home(stores, java_home);
  add_from_path(stores);
  add_installed(stores);
  return stores;
}

std::expected<std::vector<std::string>, std::string> read_store(const fs::path& store) {
  const auto bytes = read_checked(store, store_rules);
  if (!bytes) return std::unexpected(bytes.error().what);
  auto certificates = parse_keystore(*bytes);
  if (!certificates) return std::unexpected(store.string() + ": " + certificates.error());
  return certificates;
}

}  // namespace

std::vector<fs::path> jdk_stores(std::span<const fs::path> homes) {
  std::set<fs::path> stores;
  for (const fs::path& home : homes) add_home(stores, home);
  stores.merge(find_stores());
  add_shared(stores);
  return {stores.begin(), stores.end()};
}

JdkRoots jdk_roots() {
  JdkRoots found;
  RootSet set;
  for (const fs::path& store : find_stores()) {
    const auto certificates = read_store(store);
    if (!certificates) {
      found.skipped.push_back(certificates.error());
      continue;
    }
    for (const std::string& der : *certificates) set.add_der(der);
    found.read.push_back(store);
  }
  for (const Root& root : set.roots()) found.pem.push_back(to_pem(root.certificate.get()));
  return found;
}

}  // namespace weir::ca
