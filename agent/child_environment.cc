#include "agent/child_environment.h"

#include <cstdlib>

#include "agent/config.h"

namespace weir::agent {

std::expected<std::vector<Variable>, Error> child_environment(const StateDir& state,
                                                              const std::string& proxy_address,
                                                              EnvironmentParts parts) {
  EnvironmentInputs inputs;
  if (parts.proxy) {
    auto endpoint = parse_endpoint(proxy_address);
    if (!endpoint) return std::unexpected(endpoint.error());
    // A listener on all addresses is reached by loopback.
    std::string host = endpoint->address.to_string();
    if (host == "0.0.0.0") host = "127.0.0.1";
    if (host == "::") host = "::1";
    const bool v6 = host.find(':') != std::string::npos;
    inputs.proxy_host = host;
    inputs.proxy_port = endpoint->port;
    inputs.proxy_url = "http://" + (v6 ? "[" + host + "]" : host) + ":" + std::to_string(endpoint->port);
  }
  inputs.ca_certificate = state.ca().certificate();
  inputs.bundle = state.ca().bundle();
  inputs.pkcs12 = state.ca().pkcs12();
  inputs.wgetrc = state.wgetrc();
  inputs.php_directory = state.php_directory();
  inputs.inherited = [](std::string_view name) -> std::optional<std::string> {
    const char* value = ::getenv(std::string(name).c_str());
    return value == nullptr ? std::nullopt : std::optional<std::string>(value);
  };
  return client_environment(inputs, parts);
}

std::expected<void, Error> set_child_environment(const StateDir& state, const std::string& proxy_address,
                                                 EnvironmentParts parts) {
  auto variables = child_environment(state, proxy_address, parts);
  if (!variables) return std::unexpected(variables.error());
  for (const Variable& variable : *variables) ::setenv(variable.name.c_str(), variable.value.c_str(), 1);
  return {};
}

}  // namespace weir::agent
