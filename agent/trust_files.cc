// Which file says what. Never reads what somebody other than root or the caller could have written.
#include "agent/trust_files.h"

#include <string>

#include "agent/command_line.h"
#include "ca/files.h"
#include "ca/truststore.h"

namespace weir::agent {
namespace {

constexpr const char* system_wgetrc = "/etc/wgetrc";
constexpr ca::ReadRules wgetrc_rules{
    .limit = 65536, .forbidden_bits = 0022, .follow_links = true, .root_may_own = true};

// Takes the place of the system's file, not of the user's own.
std::string wgetrc(const std::filesystem::path& bundle) {
  const auto system = ca::read_checked(system_wgetrc, wgetrc_rules);
  return system.value_or("") + "\nca_certificate = " + bundle.string() + "\n";
}

// Single quotes keep all as it is; there is no way to write one in them.
std::string php_quoted(const std::string& path) {
  return path.find('\'') == std::string::npos ? "'" + path + "'" : '"' + path + '"';
}

std::string php_ini(const std::filesystem::path& bundle) {
  const std::string file = php_quoted(bundle.string());
  return "openssl.cafile = " + file + "\ncurl.cainfo = " + file + "\n";
}

}  // namespace

std::expected<void, Error> write_trust_files(const StateDir& state, std::string_view roots_pem) {
  const ca::Paths paths = state.ca();
  if (auto done = ca::write_bundle(paths.bundle(), roots_pem); !done)
    return std::unexpected(to_error(done.error()));
  if (auto done = ca::write_pkcs12(paths.pkcs12(), roots_pem); !done)
    return std::unexpected(to_error(done.error()));
  if (auto done = ca::publish_if_changed(state.wgetrc(), wgetrc(paths.bundle()), 0644); !done)
    return std::unexpected(to_error(done.error()));
  if (auto done = ca::prepare_directory(state.php_directory()); !done)
    return std::unexpected(to_error(done.error()));
  const auto ini = state.php_directory() / "weir.ini";
  if (auto done = ca::publish_if_changed(ini, php_ini(paths.bundle()), 0644); !done)
    return std::unexpected(to_error(done.error()));
  return {};
}

}  // namespace weir::agent
