// The tables of what is secret, and how it is cut out. Errs on the side of cutting too much: a lost parameter
// is an inconvenience, a stored password an incident.
#include "attribution/redaction.h"

#include <algorithm>
#include <optional>

#include "attribution/text.h"

namespace weir {
namespace {

constexpr std::string_view kRedacted = "[redacted]";

constexpr std::string_view kSecretHeaders[] = {
    "authorization",
    "proxy-authorization",
    "cookie",
    "set-cookie",
    "set-cookie2",
    "x-api-key",
    "api-key",
    "apikey",
    "x-apikey",
    "x-auth-token",
    "x-access-token",
    "x-auth-key",
    "x-auth-email",
    "x-csrf-token",
    "x-xsrf-token",
    "x-amz-security-token",
    "x-goog-api-key",
    "x-goog-iam-authorization-token",
    "x-vault-token",
    "x-gitlab-token",
    "private-token",
    "job-token",
    "x-session-token",
    "x-secret-key",
    "x-functions-key",
    "ocp-apim-subscription-key",
    "authentication-info",
    "proxy-authentication-info",
    "x-forwarded-authorization",
    "x-amz-server-side-encryption-customer-key",
    "dd-api-key",
    "x-github-token",
    "x-registry-auth",
    "sec-websocket-key1",
    "x-hub-signature",
    "x-hub-signature-256",
};
constexpr std::string_view kUrlHeaders[] = {"location", "content-location", "referer", "refresh", "link"};

// A name is secret when one of its words, or two neighbouring ones, is in these tables.
constexpr std::string_view kSecretWords[] = {
    "password",    "passwd",     "passphrase", "passcode",    "pass",          "pwd",
    "pw",          "secret",     "secrets",    "token",       "apikey",        "accesskey",
    "secretkey",   "privatekey", "credential", "credentials", "signature",     "authtoken",
    "accesstoken", "sessionid",  "jwt",        "bearer",      "authorization", "authpass",
    "proxypass",   "userpass",   "otp",        "sas",         "sshpass",       "pgpassword",
};
constexpr std::string_view kSecretPairs[][2] = {
    {"api", "key"},     {"access", "key"},  {"private", "key"},      {"secret", "key"},
    {"auth", "key"},    {"account", "key"}, {"session", "id"},       {"encryption", "key"},
    {"signing", "key"}, {"shared", "key"},  {"subscription", "key"},
};
// Only as the whole name of a URL's parameter: too common a word elsewhere.
constexpr std::string_view kSecretParameters[] = {"key", "sig", "auth", "code", "hmac", "sid"};

// Options whose next argument is user:password.
constexpr std::string_view kUserOptions[] = {"-u", "-U", "--user", "--proxy-user"};

template <typename Table>
bool contains(const Table& table, std::string_view text) {
  return std::ranges::find(table, text) != std::end(table);
}

// "trustStorePassword" and "X_API-key" fall into lower-case words.
std::vector<std::string> words_of(std::string_view name) {
  std::vector<std::string> words(1);
  char previous = 0;
  for (const char c : name) {
    const bool upper = c >= 'A' && c <= 'Z';
    const bool after_lower = (previous >= 'a' && previous <= 'z') || is_digit(previous);
    const bool part = is_letter(c) || is_digit(c);
    if ((!part || (upper && after_lower)) && !words.back().empty()) words.emplace_back();
    if (part) words.back() += to_lower({&c, 1});
    previous = c;
  }
  return words;
}

bool is_secret_name(std::string_view name) {
  const std::vector<std::string> words = words_of(name);
  if (std::ranges::any_of(words, [](const auto& word) { return contains(kSecretWords, word); })) return true;
  for (std::size_t i = 0; i + 1 < words.size(); ++i) {
    const auto same = [&](const auto& pair) { return words[i] == pair[0] && words[i + 1] == pair[1]; };
    if (std::ranges::any_of(kSecretPairs, same)) return true;
  }
  return false;
}

std::string percent_decoded(std::string_view text) {
  const auto nibble = [](char c) -> int {
    if (is_digit(c)) return c - '0';
    const int letter = (c | 0x20) - 'a';
    return letter >= 0 && letter < 6 ? letter + 10 : -1;
  };
  std::string decoded;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const bool escape =
        text[i] == '%' && i + 2 < text.size() && nibble(text[i + 1]) >= 0 && nibble(text[i + 2]) >= 0;
    decoded += escape ? static_cast<char>(nibble(text[i + 1]) * 16 + nibble(text[i + 2])) : text[i];
    if (escape) i += 2;
  }
  return decoded;
}

// "name=value" with a secret name keeps its name.
std::string redact_pair(std::string_view pair, bool in_url) {
  const std::size_t equals = pair.find('=');
  if (equals == std::string_view::npos) return std::string(pair);
  const std::string name = percent_decoded(pair.substr(0, equals));
  const bool secret = is_secret_name(name) || (in_url && contains(kSecretParameters, to_lower(name)));
  return secret ? std::string(pair.substr(0, equals + 1)).append(kRedacted) : std::string(pair);
}

std::string redact_parameters(std::string_view text, bool in_url) {
  const std::string_view separators = in_url ? "?&;#" : "&";
  std::string out;
  while (true) {
    const std::size_t end = text.find_first_of(separators);
    out += redact_pair(text.substr(0, end), in_url);
    if (end == std::string_view::npos) return out;
    out += text[end];
    text.remove_prefix(end + 1);
  }
}

// "Authorization: Bearer x", also as "-HAuthorization: x" or "--header=Authorization: x".
std::optional<std::string> redact_header_argument(std::string_view argument) {
  const std::size_t colon = argument.find(':');
  if (colon == std::string_view::npos) return std::nullopt;
  const std::string_view before = argument.substr(0, colon);
  std::string_view name = before.substr(before.rfind('=') + 1);
  if (name.starts_with("-H")) name.remove_prefix(2);
  name = name.substr(std::min(name.find_first_not_of(" '\""), name.size()));
  if (!contains(kSecretHeaders, to_lower(name))) return std::nullopt;
  return std::string(before) + ": " + std::string(kRedacted);
}

std::string redact_user(std::string_view argument) {
  const std::size_t colon = argument.find(':');
  if (colon == std::string_view::npos) return std::string(argument);
  return std::string(argument.substr(0, colon + 1)).append(kRedacted);
}

bool names_secret_option(std::string_view previous) {
  return previous.starts_with('-') && previous.find('=') == std::string_view::npos &&
         is_secret_name(previous);
}

std::string redact_word(std::string_view argument, std::string_view previous) {
  if (names_secret_option(previous) && !argument.starts_with('-')) return std::string(kRedacted);
  if (contains(kUserOptions, previous)) return redact_user(argument);
  if (auto header = redact_header_argument(argument)) return *header;
  if (argument.starts_with("-u") && argument.size() > 2) return redact_user(argument);
  for (const std::string_view option : kUserOptions) {
    if (argument.starts_with(std::string(option) + "=")) return redact_user(argument);
  }
  const std::size_t scheme = argument.find("://");
  const bool plain_url = scheme != std::string_view::npos && !is_secret_name(argument.substr(0, scheme));
  return plain_url ? redact_url(argument) : redact_parameters(argument, false);
}

// One argument that is itself a command line (sh -c "curl -u me:x ..."): word by word, separators kept.
std::string redact_command(std::string_view text) {
  constexpr std::string_view kSeparators = " \t\r\n'\"`";
  std::string out;
  std::string previous;
  while (!text.empty()) {
    const std::size_t start = std::min(text.find_first_not_of(kSeparators), text.size());
    out += text.substr(0, start);
    text.remove_prefix(start);
    const std::string_view word = text.substr(0, text.find_first_of(kSeparators));
    text.remove_prefix(word.size());
    if (word.empty()) break;
    out += redact_word(word, previous);
    // The rest of the quoted text is that header's value.
    if (redact_header_argument(word)) text.remove_prefix(std::min(text.find_first_of("'\"`\n"), text.size()));
    previous = word;
  }
  return out;
}

}  // namespace

std::string redact_header(std::string_view name, std::string_view value) {
  const std::string lower = to_lower(name);
  if (contains(kSecretHeaders, lower)) return std::string(kRedacted);
  return contains(kUrlHeaders, lower) ? redact_url(value) : std::string(value);
}

std::string redact_url(std::string_view url) {
  std::string out;
  if (const std::size_t scheme = url.find("://"); scheme != std::string_view::npos) {
    const std::size_t authority = scheme + 3;
    const std::size_t end = std::min(url.find_first_of("/?#", authority), url.size());
    const std::size_t at = url.substr(0, end).rfind('@');
    out = url.substr(0, authority);
    if (at != std::string_view::npos && at >= authority) out.append(kRedacted).append("@");
    url.remove_prefix(at != std::string_view::npos && at >= authority ? at + 1 : authority);
  }
  const std::size_t query = std::min(url.find_first_of("?#"), url.size());
  return out.append(url.substr(0, query)) + redact_parameters(url.substr(query), true);
}

std::vector<std::string> redact_arguments(const std::vector<std::string>& arguments) {
  std::vector<std::string> out;
  out.reserve(arguments.size());
  std::string_view previous;
  for (const std::string& argument : arguments) {
    const bool whole = argument.find_first_of(" \t\n") == std::string::npos ||
                       names_secret_option(previous) || redact_header_argument(argument).has_value();
    out.push_back(whole ? redact_word(argument, previous) : redact_command(argument));
    previous = argument;
  }
  return out;
}

}  // namespace weir
