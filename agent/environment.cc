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

std::string wgetrc(const Inputs& inputs) {
  return inputs.wgetrc.string();
}

// A list of directories: an empty one stands for the built-in default, and each is read after those before.
std::string php_scan_directories(const Inputs& inputs) {
  const std::string ours = ":" + inputs.php_directory.string();
  const std::string inherited = inputs.inherited("PHP_INI_SCAN_DIR").value_or("");
  return inherited.ends_with(ours) ? inherited : inherited + ours;
}

enum class Part { proxy, trust };

bool wanted(Part part, EnvironmentParts parts) {
  return part == Part::proxy ? parts.proxy : parts.trust;
}

struct Row {
  Part part;
  std::string_view name;
  Value value;  // null: the fixed text
  std::string_view fixed = "";
  std::string text(const Inputs& inputs) const {
    return value == nullptr ? std::string(fixed) : value(inputs);
  }
};

using enum Part;

constexpr Row java_properties[] = {
    {proxy, "http.proxyHost", proxy_host},
    {proxy, "http.proxyPort", proxy_port},
    {proxy, "https.proxyHost", proxy_host},
    {proxy, "https.proxyPort", proxy_port},
    {proxy, "http.nonProxyHosts", nullptr, ""},  // the default hides loopback
    {trust, "javax.net.ssl.trustStore", pkcs12},
    {trust, "javax.net.ssl.trustStorePassword", nullptr, ca::truststore_password},
    {trust, "javax.net.ssl.trustStoreType", nullptr, "PKCS12"},
};

std::string java_tool_options(const Inputs& inputs, EnvironmentParts parts) {
  std::vector<JavaProperty> properties;
  for (const Row& row : java_properties)
    if (wanted(row.part, parts)) properties.push_back({std::string(row.name), row.text(inputs)});
  return with_java_properties(inputs.inherited("JAVA_TOOL_OPTIONS").value_or(""), properties);
}

// SSL_CERT_DIR is left as it is. OpenSSL, Go and rustls-native-certs take the directory's roots in addition
// to SSL_CERT_FILE's, so an inherited one hides nothing, and one of ours would need a directory of hashed
// links.
constexpr Row table[] = {
    {proxy, "HTTP_PROXY", proxy_url},
    {proxy, "HTTPS_PROXY", proxy_url},
    {proxy, "ALL_PROXY", proxy_url},
    {proxy, "http_proxy", proxy_url},  // curl reads only this one for http://
    {proxy, "https_proxy", proxy_url},
    {proxy, "all_proxy", proxy_url},
    {proxy, "WS_PROXY", proxy_url},
    {proxy, "WSS_PROXY", proxy_url},
    {proxy, "GRPC_PROXY", proxy_url},
    {proxy, "grpc_proxy", proxy_url},
    {proxy, "GLOBAL_AGENT_HTTP_PROXY", proxy_url},
    {proxy, "CGI_HTTP_PROXY", proxy_url},
    {proxy, "npm_config_proxy", proxy_url},
    {proxy, "npm_config_https_proxy", proxy_url},
    {proxy, "CLOUDSDK_PROXY_TYPE", nullptr, "http"},
    {proxy, "CLOUDSDK_PROXY_ADDRESS", proxy_host},
    {proxy, "CLOUDSDK_PROXY_PORT", proxy_port},
    {proxy, "NODE_USE_ENV_PROXY", nullptr, "1"},

    // Inherited exceptions would go past us unseen.
    {proxy, "NO_PROXY", nullptr, ""},
    {proxy, "no_proxy", nullptr, ""},
    {proxy, "GLOBAL_AGENT_NO_PROXY", nullptr, ""},
    {proxy, "npm_config_noproxy", nullptr, ""},

    // These add to the runtime's own roots.
    {trust, "NODE_EXTRA_CA_CERTS", certificate},
    {trust, "DENO_CERT", certificate},

    // These replace them.
    {trust, "SSL_CERT_FILE", bundle},
    {trust, "CURL_CA_BUNDLE", bundle},
    {trust, "REQUESTS_CA_BUNDLE", bundle},
    {trust, "PIP_CERT", bundle},
    {trust, "GIT_SSL_CAINFO", bundle},
    {trust, "AWS_CA_BUNDLE", bundle},
    {trust, "CARGO_HTTP_CAINFO", bundle},
    {trust, "PERL_LWP_SSL_CA_FILE", bundle},
    {trust, "HTTPLIB2_CA_CERTS", bundle},
    {trust, "NIX_SSL_CERT_FILE", bundle},
    {trust, "HEX_CACERTS_PATH", bundle},
    {trust, "BUNDLE_SSL_CA_CERT", bundle},
    {trust, "npm_config_cafile", bundle},
    {trust, "CLOUDSDK_CORE_CUSTOM_CA_CERTS_FILE", bundle},
    {trust, "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH", bundle},

    // These name a file of settings that names it.
    {trust, "SYSTEM_WGETRC", wgetrc},
    {trust, "PHP_INI_SCAN_DIR", php_scan_directories},

    // These make a runtime look where the others point.
    {trust, "DENO_TLS_CA_STORE", nullptr, "system,mozilla"},
    {trust, "UV_NATIVE_TLS", nullptr, "true"},
    {trust, "UV_SYSTEM_CERTS", nullptr, "true"},

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

std::vector<Variable> client_environment(const EnvironmentInputs& inputs, EnvironmentParts parts) {
  std::vector<Variable> variables;
  for (const Row& row : table)
    if (wanted(row.part, parts)) variables.push_back({std::string(row.name), row.text(inputs)});
  if (parts.proxy || parts.trust)  // even an empty one makes every JVM say that it was picked up
    variables.push_back({"JAVA_TOOL_OPTIONS", java_tool_options(inputs, parts)});
  return variables;
}

std::vector<std::string_view> root_file_variables() {
  std::vector<std::string_view> names;
  for (const Row& row : table)
    if (row.value == bundle || row.value == certificate) names.push_back(row.name);
  return names;
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
