// Which variable tells which runtime about the proxy and the CA. The tables are the content; a variable more
// is a row more, and a row may compute its value from anything in the inputs (a generated file's path, too).
#include "agent/environment.h"

#include <algorithm>
#include <utility>

#include "agent/java_options.h"
#include "ca/truststore.h"

namespace weir::agent {

namespace {

using Inputs = EnvironmentInputs;
using Value = std::string (*)(const Inputs&);

std::string proxy_url(const Inputs& inputs) {
  return inputs.proxy_url;
}
std::string proxy_host(const Inputs& inputs) {
  return inputs.proxy_host;
}
std::string proxy_port(const Inputs& inputs) {
  return std::to_string(inputs.proxy_port);
}
std::string certificate(const Inputs& inputs) {
  return inputs.ca_certificate.string();
}
std::string bundle(const Inputs& inputs) {
  return inputs.bundle.string();
}
std::string pkcs12(const Inputs& inputs) {
  return inputs.pkcs12.string();
}

struct Row {
  std::string_view name;
  Value value;  // null: the fixed text
  std::string_view fixed = "";
  std::string text(const Inputs& inputs) const {
    return value == nullptr ? std::string(fixed) : value(inputs);
  }
};

constexpr Row java_properties[] = {
    {"http.proxyHost", proxy_host},
    {"http.proxyPort", proxy_port},
    {"https.proxyHost", proxy_host},
    {"https.proxyPort", proxy_port},
    {"http.nonProxyHosts", nullptr, ""},  // the default hides loopback
    {"javax.net.ssl.trustStore", pkcs12},
    {"javax.net.ssl.trustStorePassword", nullptr, ca::truststore_password},
    {"javax.net.ssl.trustStoreType", nullptr, "PKCS12"},
};

std::string java_tool_options(const Inputs& inputs) {
  std::vector<JavaProperty> properties;
  for (const Row& row : java_properties) properties.push_back({std::string(row.name), row.text(inputs)});
  return with_java_properties(inputs.inherited("JAVA_TOOL_OPTIONS").value_or(""), properties);
}

// SSL_CERT_DIR is left as it is. OpenSSL, Go and rustls-native-certs take the directory's roots in addition
// to SSL_CERT_FILE's, so an inherited one hides nothing, and one of ours would need a directory of hashed
// links.
constexpr Row table[] = {
    {"HTTP_PROXY", proxy_url},
    {"HTTPS_PROXY", proxy_url},
    {"ALL_PROXY", proxy_url},
    {"http_proxy", proxy_url},  // curl reads only this one for http://
    {"https_proxy", proxy_url},
    {"all_proxy", proxy_url},
    {"WS_PROXY", proxy_url},
    {"WSS_PROXY", proxy_url},
    {"GRPC_PROXY", proxy_url},
    {"grpc_proxy", proxy_url},
    {"GLOBAL_AGENT_HTTP_PROXY", proxy_url},
    {"CGI_HTTP_PROXY", proxy_url},
    {"npm_config_proxy", proxy_url},
    {"npm_config_https_proxy", proxy_url},
    {"CLOUDSDK_PROXY_TYPE", nullptr, "http"},
    {"CLOUDSDK_PROXY_ADDRESS", proxy_host},
    {"CLOUDSDK_PROXY_PORT", proxy_port},
    {"NODE_USE_ENV_PROXY", nullptr, "1"},

    // Inherited exceptions would go past us unseen.
    {"NO_PROXY", nullptr, ""},
    {"no_proxy", nullptr, ""},
    {"GLOBAL_AGENT_NO_PROXY", nullptr, ""},
    {"npm_config_noproxy", nullptr, ""},

    // These add to the runtime's own roots.
    {"NODE_EXTRA_CA_CERTS", certificate},
    {"DENO_CERT", certificate},

    // These replace them.
    {"SSL_CERT_FILE", bundle},
    {"CURL_CA_BUNDLE", bundle},
    {"REQUESTS_CA_BUNDLE", bundle},
    {"PIP_CERT", bundle},
    {"GIT_SSL_CAINFO", bundle},
    {"AWS_CA_BUNDLE", bundle},
    {"CARGO_HTTP_CAINFO", bundle},
    {"PERL_LWP_SSL_CA_FILE", bundle},
    {"HTTPLIB2_CA_CERTS", bundle},
    {"NIX_SSL_CERT_FILE", bundle},
    {"HEX_CACERTS_PATH", bundle},
    {"BUNDLE_SSL_CA_CERT", bundle},
    {"npm_config_cafile", bundle},
    {"CLOUDSDK_CORE_CUSTOM_CA_CERTS_FILE", bundle},
    {"GRPC_DEFAULT_SSL_ROOTS_FILE_PATH", bundle},

    // These make a runtime look where the others point.
    {"DENO_TLS_CA_STORE", nullptr, "system,mozilla"},
    {"UV_NATIVE_TLS", nullptr, "true"},
    {"UV_SYSTEM_CERTS", nullptr, "true"},

    {"JAVA_TOOL_OPTIONS", java_tool_options},
};

// Each byte of `special` in the text, replaced by what stands for it.
struct Escape {
  char special;
  std::string_view replacement;
};

std::string escaped(std::string_view text, std::span<const Escape> escapes) {
  std::string out;
  for (const char c : text) {
    const auto escape = std::ranges::find(escapes, c, &Escape::special);
    if (escape == escapes.end()) {
      out += c;
    } else {
      out += escape->replacement;
    }
  }
  return out;
}

constexpr Escape in_sh[] = {{'\'', R"('\'')"}};
constexpr Escape in_fish[] = {{'\'', R"(\')"}, {'\\', R"(\\)"}};
constexpr Escape in_dotenv[] = {
    {'"', R"(\")"}, {'\\', R"(\\)"}, {'$', R"(\$)"}, {'`', R"(\`)"}, {'\n', R"(\n)"}};
constexpr Escape in_systemd[] = {{'"', R"(\")"}, {'\\', R"(\\)"}, {'%', "%%"}, {'\n', R"(\n)"}};

std::string sh_line(const Variable& variable) {
  return "export " + variable.name + "='" + escaped(variable.value, in_sh) + "'\n";
}

std::string fish_line(const Variable& variable) {
  return "set -gx " + variable.name + " '" + escaped(variable.value, in_fish) + "'\n";
}

// Readers differ most in what they do inside double quotes, so those are for values that need them.
std::string dotenv_line(const Variable& variable) {
  if (variable.value.find_first_of("'\n") == std::string::npos)
    return variable.name + "='" + variable.value + "'\n";
  return variable.name + "=\"" + escaped(variable.value, in_dotenv) + "\"\n";
}

std::string systemd_line(const Variable& variable) {
  return "Environment=\"" + variable.name + "=" + escaped(variable.value, in_systemd) + "\"\n";
}

std::string docker_line(const Variable& variable) {
  if (variable.value.find_first_of("\r\n") != std::string::npos)
    return "# " + variable.name + " is left out: its value has a line break\n";
  return variable.name + "=" + variable.value + "\n";
}

// RFC 8259, 7.
std::string json_string(std::string_view text) {
  constexpr std::string_view hex = "0123456789abcdef";
  std::string out = "\"";
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') out += '\\';
    if (byte >= 0x20) {
      out += c;
    } else {
      out += std::string("\\u00") + hex[byte >> 4] + hex[byte & 15];
    }
  }
  return out + '"';
}

std::string json_line(const Variable& variable) {
  return "  " + json_string(variable.name) + ": " + json_string(variable.value);
}

struct FormatRow {
  std::string_view name;
  EnvironmentFormat format;
  std::string_view before;
  std::string (*line)(const Variable&);
  std::string_view between;
  std::string_view after;
};

constexpr FormatRow formats[] = {
    {"sh", EnvironmentFormat::sh, "", sh_line, "", ""},
    {"fish", EnvironmentFormat::fish, "", fish_line, "", ""},
    {"dotenv", EnvironmentFormat::dotenv, "", dotenv_line, "", ""},
    {"json", EnvironmentFormat::json, "{\n", json_line, ",\n", "\n}\n"},
    {"systemd", EnvironmentFormat::systemd, "[Service]\n", systemd_line, "", ""},
    {"docker", EnvironmentFormat::docker, "", docker_line, "", ""},
};

}  // namespace

std::vector<Variable> proxy_environment(const EnvironmentInputs& inputs) {
  std::vector<Variable> variables;
  for (const Row& row : table) variables.push_back({std::string(row.name), row.text(inputs)});
  return variables;
}

std::expected<EnvironmentFormat, Error> parse_environment_format(std::string_view name) {
  const auto* row = std::ranges::find(formats, name, &FormatRow::name);
  if (row != std::end(formats)) return row->format;
  std::string known;
  for (const FormatRow& format : formats) known += (known.empty() ? "" : ", ") + std::string(format.name);
  return std::unexpected(Error{"unknown format '" + std::string(name) + "'", "use one of " + known});
}

std::string render(std::span<const Variable> variables, EnvironmentFormat format) {
  const FormatRow& row = *std::ranges::find(formats, format, &FormatRow::format);
  std::string out(row.before);
  for (std::size_t i = 0; i < variables.size(); ++i) {
    if (i > 0) out += row.between;
    out += row.line(variables[i]);
  }
  return out + std::string(row.after);
}

}  // namespace weir::agent
