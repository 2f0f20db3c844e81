// The tables of what is secret, and how it is cut out. Errs on the side of cutting too much: a lost parameter
// is an inconvenience, a stored password an incident.
#include "attribution/redaction.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <optional>

#include "attribution/text.h"
#include "http/message.h"

namespace weir {
namespace {

using http::equals_ignoring_case;

constexpr std::string_view kRedacted = "[redacted]";

// Lower-case words, to be found in any case. Those of one length and first letter stand together: most of
// what is looked up is in no table, and shows it by these two.
template <std::size_t Size>
class WordTable {
 public:
  constexpr explicit WordTable(const std::string_view (&words)[Size]) {
    std::ranges::copy(words, words_.begin());
    std::ranges::sort(words_, {}, place);
    for (const std::string_view word : words_)
      for (std::size_t next = place(word) + 1; next < begin_.size(); ++next) ++begin_[next];
  }
  constexpr const auto& words() const { return words_; }
  constexpr bool contains(std::string_view text) const {
    return any_word(text, [&](std::string_view word) { return equals_ignoring_case(text, word); });
  }
  // `text` is in lower case.
  constexpr bool contains_lower(std::string_view text) const {
    return any_word(text, [&](std::string_view word) { return text == word; });
  }

 private:
  static constexpr std::size_t kPlaces = 256;

  static constexpr std::size_t place(std::string_view word) {
    return (word.size() * 32 + static_cast<std::size_t>(word.front() & 31)) % kPlaces;
  }
  template <typename Is>
  constexpr bool any_word(std::string_view text, Is is) const {
    if (text.empty()) return false;
    const std::size_t at = place(text);
    for (std::size_t i = begin_[at]; i < begin_[at + 1]; ++i)
      if (is(words_[i])) return true;
    return false;
  }

  std::array<std::string_view, Size> words_;
  std::array<std::uint16_t, kPlaces + 1> begin_{};  // of the words of a place
};

constexpr WordTable kSecretHeaders({
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
});
// What most fields are: neither a secret nor a URL. The rules say the same (asserted below), and
// take longer.
constexpr WordTable kPlainHeaders({
    "host",
    "user-agent",
    "accept",
    "accept-encoding",
    "accept-language",
    "connection",
    "cache-control",
    "content-type",
    "content-length",
    "content-encoding",
    "transfer-encoding",
    "te",
    "trailer",
    "upgrade",
    "date",
    "server",
    "etag",
    "expires",
    "last-modified",
    "if-none-match",
    "if-modified-since",
    "age",
    "vary",
    "via",
    "pragma",
    "range",
    "accept-ranges",
    "content-range",
    "origin",
    "x-request-id",
    "x-powered-by",
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-frame-options",
    "x-content-type-options",
    "x-xss-protection",
    "strict-transport-security",
    "content-security-policy",
    "content-disposition",
    "access-control-allow-origin",
    "access-control-allow-headers",
    "access-control-allow-methods",
    "keep-alive",
    "traceparent",
    "grpc-status",
    "grpc-encoding",
    "grpc-accept-encoding",
    "grpc-timeout",
});
constexpr WordTable kUrlHeaders({
    "location",
    "content-location",
    "referer",
    "refresh",
    "link",
    "destination",
    "x-original-url",
    "x-original-uri",
    "x-rewrite-url",
    "x-forwarded-uri",
    "x-envoy-original-path",
});
// A scheme's name, or with it a token.
constexpr WordTable kChallenges({"www-authenticate", "proxy-authenticate"});
constexpr WordTable kTokenSchemes({"negotiate", "ntlm", "kerberos"});

// A name is secret when one of its words, or two neighbouring ones, is in these tables.
constexpr WordTable kSecretWords({
    "password",   "passwd",        "passphrase", "passcode",  "pass",        "pwd",       "pw",
    "secret",     "secrets",       "token",      "apikey",    "accesskey",   "secretkey", "privatekey",
    "credential", "credentials",   "signature",  "authtoken", "accesstoken", "sessionid", "jwt",
    "bearer",     "authorization", "authpass",   "proxypass", "userpass",    "otp",       "sas",
    "sshpass",    "pgpassword",    "cookie",     "cookies",   "jsessionid",
});
constexpr std::string_view kSecretPairs[][2] = {
    {"api", "key"},     {"access", "key"},  {"private", "key"},      {"secret", "key"},
    {"auth", "key"},    {"account", "key"}, {"session", "id"},       {"encryption", "key"},
    {"signing", "key"}, {"shared", "key"},  {"subscription", "key"},
};
constexpr WordTable kPairEnds({"key", "id"});
static_assert(std::ranges::all_of(kSecretPairs,
                                  [](const auto& pair) { return kPairEnds.contains(pair[1]); }));
// Only as the whole name of a URL's parameter: too common a word elsewhere.
constexpr WordTable kSecretParameters({"key", "sig", "auth", "code", "hmac", "sid"});

// Options whose next argument is user:password; short ones are is_short_option's.
constexpr std::string_view kUserOptions[] = {"--user", "--proxy-user", "--cert", "--proxy-cert", "--auth"};
// curl's options without a value: what may stand before -u in one argument.
constexpr std::string_view kCurlFlags = "#01234679aBfgGiIjJklLMnNOpqRsSvZ";

template <typename Table>
bool contains(const Table& table, std::string_view text) {
  return std::ranges::find(table, text) != std::end(table);
}

constexpr bool is_secret_pair(std::string_view first, std::string_view second) {
  return std::ranges::any_of(kSecretPairs, [&](const auto& pair) {
    return equals_ignoring_case(second, pair[1]) && equals_ignoring_case(first, pair[0]);
  });
}

// "trustStorePassword" and "X_API-key" fall into words.
constexpr bool is_secret_name(std::string_view name) {
  std::string_view before;
  std::size_t begin = 0;
  for (std::size_t i = 0; i <= name.size(); ++i) {
    const bool part = i < name.size() && (is_letter(name[i]) || is_digit(name[i]));
    const bool begins = part && i > begin && name[i] >= 'A' && name[i] <= 'Z' &&
                        ((name[i - 1] >= 'a' && name[i - 1] <= 'z') || is_digit(name[i - 1]));
    if (part && !begins) continue;
    const std::string_view word = name.substr(begin, i - begin);
    begin = part ? i : i + 1;
    if (word.empty()) continue;
    if (kSecretWords.contains(word)) return true;
    if (kPairEnds.contains(word) && is_secret_pair(before, word)) return true;
    before = word;
  }
  return false;
}

constexpr bool is_secret_header(std::string_view name) {
  return kSecretHeaders.contains(name) || is_secret_name(name);
}
static_assert(std::ranges::none_of(kPlainHeaders.words(), [](std::string_view name) {
  return is_secret_header(name) || kUrlHeaders.contains(name) || kChallenges.contains(name) ||
         name == "sec-websocket-protocol";
}));

// Where the first of these characters stands, or npos.
template <char... kAny>
std::size_t find_any(std::string_view text, std::size_t from = 0) {
  for (std::size_t i = from; i < text.size(); ++i) {
    if (((text[i] == kAny) || ...)) return i;
  }
  return std::string_view::npos;
}

std::string percent_decoded(std::string_view text) {
  const auto nibble = [](char c) -> int {
    if (is_digit(c)) return c - '0';
    const int letter = (c | 0x20) - 'a';
    return letter >= 0 && letter < 6 ? letter + 10 : -1;
  };
  if (text.find('%') == std::string_view::npos) return std::string(text);
  std::string decoded;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const bool escape =
        text[i] == '%' && i + 2 < text.size() && nibble(text[i + 1]) >= 0 && nibble(text[i + 2]) >= 0;
    decoded += escape ? static_cast<char>(nibble(text[i + 1]) * 16 + nibble(text[i + 2])) : text[i];
    if (escape) i += 2;
  }
  return decoded;
}

// Of each URL in the text: one may stand in another's path or parameters.
std::string cut_userinfo(std::string_view text) {
  std::string out;
  out.reserve(text.size() + kRedacted.size() + 1);
  for (std::size_t scheme = text.find("://"); scheme != text.npos; scheme = text.find("://")) {
    const std::size_t authority = scheme + 3;
    const std::size_t end = std::min(find_any<'/', '?', '#'>(text, authority), text.size());
    const std::size_t at = text.substr(0, end).rfind('@');
    const bool user = at != std::string_view::npos && at >= authority;
    out += text.substr(0, authority);
    if (user) out.append(kRedacted).append("@");
    text.remove_prefix(user ? at + 1 : authority);
  }
  return out.append(text);
}

// How often a URL may be written with escapes, in another and that in a third, before it is cut unread.
constexpr int kMostEscaped = 4;

std::string redact_parts(std::string_view url, bool look_into_values);

// A URL in a parameter, written with escapes.
bool hides_secret(std::string_view value) {
  if (value.find('%') == std::string_view::npos) return false;
  std::string text(value);
  for (int times = 0; times < kMostEscaped; ++times) {
    std::string decoded = percent_decoded(text);
    if (decoded == text) return false;
    if (redact_parts(decoded, false) != decoded) return true;
    text = std::move(decoded);
  }
  return percent_decoded(text) != text;
}

// "name=value" of a URL; a secret one keeps its name.
void append_pair(std::string& out, std::string_view pair, bool look_into_value) {
  const std::size_t equals = pair.find('=');
  if (equals == std::string_view::npos) {
    out += pair;
    return;
  }
  std::string decoded;
  std::string_view name = pair.substr(0, equals);
  if (name.find('%') != std::string_view::npos) name = decoded = percent_decoded(name);
  const bool secret = is_secret_name(name) || kSecretParameters.contains(name) ||
                      (look_into_value && hides_secret(pair.substr(equals + 1)));
  if (secret) {
    out.append(pair.substr(0, equals + 1)).append(kRedacted);
  } else {
    out += pair;
  }
}

void append_parameters(std::string& out, std::string_view text, bool look_into_values) {
  while (true) {
    const std::size_t end = find_any<'?', '&', ';', '#'>(text);
    append_pair(out, text.substr(0, end), look_into_values);
    if (end == std::string_view::npos) return;
    out += text[end];
    text.remove_prefix(end + 1);
  }
}

// Parameters of the path count, too: "/a;name=value".
std::string redact_parts(std::string_view url, bool look_into_values) {
  std::string cut;
  if (url.find('@') != std::string_view::npos) url = cut = cut_userinfo(url);
  const std::size_t first = find_any<'?', ';', '#'>(url);
  if (first == std::string_view::npos) return std::string(url);
  std::string out;
  out.reserve(url.size() + kRedacted.size());
  out.append(url.substr(0, first));
  append_parameters(out, url.substr(first), look_into_values);
  return out;
}

// "Negotiate" is no secret, "Negotiate TOKEN" has one.
std::optional<std::string> redact_challenge(std::string_view value) {
  const std::size_t end = value.find(' ');
  if (end == std::string_view::npos || !kTokenSchemes.contains(value.substr(0, end))) return std::nullopt;
  return std::string(value.substr(0, end + 1)).append(kRedacted);
}

// Also "-Dpassword" and its like, where a letter stands before the name.
bool is_secret_variable(std::string_view name) {
  const bool after_letter = name.size() > 2 && name[0] == '-' && name[1] != '-';
  return is_secret_name(name) || (after_letter && is_secret_name(name.substr(2)));
}

// Outside of a URL nobody knows where a value ends: all that follows a secret name and '=' goes, as in
// "--set=db.password=x" or "user=me&password=x&y".
std::string redact_assignments(std::string_view text) {
  for (std::size_t equals = text.find('='); equals != text.npos; equals = text.find('=', equals + 1)) {
    const std::size_t before = text.substr(0, equals).find_last_of("=&;,?# \t'\"");
    const std::size_t start = before == text.npos ? 0 : before + 1;
    if (is_secret_variable(percent_decoded(text.substr(start, equals - start))))
      return std::string(text.substr(0, equals + 1)).append(kRedacted);
  }
  return std::string(text);
}

// "-u", and "-sSu" with flags before it.
bool is_short_option(std::string_view argument, std::string_view letters) {
  return argument.size() >= 2 && argument.front() == '-' && letters.find(argument.back()) != letters.npos &&
         std::ranges::all_of(argument.substr(1), is_letter);
}

// "Authorization: Bearer x", also as "-HAuthorization: x" or "--header=Authorization: x".
std::optional<std::string> redact_header_argument(std::string_view argument) {
  const std::size_t colon = argument.find(':');
  if (colon == std::string_view::npos) return std::nullopt;
  const std::string_view before = argument.substr(0, colon);
  if (redact_assignments(before) != before) return std::nullopt;  // "--password=a.token:b" is no header
  std::string_view name = before.substr(before.rfind('=') + 1);
  if (name.starts_with("-H")) name.remove_prefix(2);
  name = name.substr(std::min(name.find_first_not_of(" '\""), name.size()));
  const std::string_view value = argument.substr(colon + 1);
  const std::string kept(value.substr(std::min(value.find_first_not_of(' '), value.size())));
  const bool token = std::ranges::all_of(
      name, [](char c) { return is_letter(c) || is_digit(c) || c == '-' || c == '_' || c == '.'; });
  const std::string redacted = token ? redact_header(name, kept) : kept;
  if (redacted == kept && !(token && is_secret_header(name))) return std::nullopt;
  return std::string(before) + ": " + redacted;
}

std::string redact_user(std::string_view argument) {
  std::string text = redact_assignments(argument);  // what looks like a user's name may be one
  const std::size_t colon = text.find(':');
  if (colon == std::string::npos) return text;
  return text.substr(0, colon + 1).append(kRedacted);
}

// "-ume:x", "-sSume:x", "-bname=x": where the value begins, or npos.
std::size_t attached_value(std::string_view argument, std::string_view letters) {
  if (!argument.starts_with('-')) return std::string_view::npos;
  const std::size_t option = argument.find_first_not_of(kCurlFlags, 1);
  if (option == std::string_view::npos || option + 1 >= argument.size()) return std::string_view::npos;
  return letters.find(argument[option]) != letters.npos ? option + 1 : std::string_view::npos;
}

bool has_attached_secret(std::string_view argument) {
  if (attached_value(argument, "uUb") != std::string_view::npos) return true;
  const std::size_t equals = argument.find('=');
  const std::string_view name = argument.substr(0, equals);
  return equals != std::string_view::npos && name.starts_with('-') &&
         (is_secret_variable(name) || contains(kUserOptions, name));
}

// "PASSWORD=x", "--set=db.password=x": a name up to the sign, and no blank in it.
bool assigns_secret(std::string_view argument) {
  const std::string_view word = argument.substr(0, argument.find_first_of(" \t\n'\"`"));
  return redact_assignments(word) != word ||
         (word.ends_with('=') && is_secret_variable(word.substr(0, word.size() - 1)));
}

// "sh -c", "bash -lc": the next argument is a command line.
bool takes_command(std::string_view previous) {
  return is_short_option(previous, "c");
}

bool is_user_option(std::string_view argument) {
  return is_short_option(argument, "uU") || contains(kUserOptions, argument);
}

// "me:x@host:1" without a scheme. A password may hold an @, a host can't.
std::string redact_userinfo(std::string_view text) {
  const std::size_t colon = text.find(':');
  const std::size_t at = text.rfind('@');
  const bool both = colon != std::string_view::npos && at != std::string_view::npos && colon + 1 < at;
  if (!both) return std::string(text);
  return std::string(text.substr(0, colon + 1)).append(kRedacted).append(text.substr(at));
}

// "bearer.x" and Kubernetes' "base64url.bearer.authorization.k8s.io.x".
std::optional<std::string> redact_bearer_protocol(std::string_view token) {
  const std::string lower = to_lower(token);
  if (!lower.starts_with("bearer.") && lower.find("base64url.bearer.") == std::string::npos)
    return std::nullopt;
  return std::string(kRedacted);
}

// A list of protocols; after one named like a token comes the token.
std::string redact_protocols(std::string_view value) {
  std::string out;
  bool token_follows = false;
  while (true) {
    const std::size_t start = std::min(value.find_first_not_of(" \t"), value.size());
    const std::size_t end = std::min(value.find(','), value.size());
    const std::string_view token = value.substr(std::min(start, end), end - std::min(start, end));
    out += value.substr(0, std::min(start, end));
    const auto bearer = redact_bearer_protocol(token);
    out += bearer ? *bearer : token_follows && !token.empty() ? std::string(kRedacted) : std::string(token);
    token_follows = token_follows || (!bearer && is_secret_name(token));
    if (end == value.size()) return out;
    out += ',';
    value.remove_prefix(end + 1);
  }
}

// The end of the JSON string whose first character is at `at`; `escaped`: its quotes are written \".
std::size_t json_string_end(std::string_view text, std::size_t at, bool escaped) {
  for (; at < text.size(); ++at) {
    const bool escape = text[at] == '\\' && at + 1 < text.size();
    if (escaped && escape && text[at + 1] == '"') return at;
    if (!escaped && text[at] == '"') return at;
    if (escape) ++at;
  }
  return text.size();
}

// The end of the JSON value at `at`, its quotes apart. An object or a list: all that follows, rather too
// much.
std::size_t json_value_end(std::string_view text, std::size_t at) {
  if (at < text.size() && (text[at] == '{' || text[at] == '[')) return text.size();
  return std::min(text.find_first_of(",}] \t\r\n", at), text.size());
}

// "name": value pairs with a secret name keep their name, whatever text is around them.
std::string redact_json(std::string_view text) {
  std::string out;
  std::size_t done = 0;
  for (std::size_t colon = text.find(':'); colon != text.npos; colon = text.find(':', colon + 1)) {
    const std::size_t close = colon == 0 ? text.npos : text.find_last_not_of(" \t\r\n", colon - 1);
    if (colon < done || close == text.npos || close == 0 || text[close] != '"') continue;
    const bool escaped = text[close - 1] == '\\';
    const std::size_t name_end = escaped ? close - 1 : close;
    const std::size_t open = name_end == 0 ? text.npos : text.rfind('"', name_end - 1);
    if (open == text.npos || !is_secret_name(text.substr(open + 1, name_end - open - 1))) continue;
    std::size_t begin = std::min(text.find_first_not_of(" \t\r\n", colon + 1), text.size());
    const std::string_view quote = escaped ? "\\\"" : "\"";
    const bool string = text.substr(begin).starts_with(quote);
    if (string) begin += quote.size();
    const std::size_t end = string ? json_string_end(text, begin, escaped) : json_value_end(text, begin);
    out.append(text.substr(done, begin - done)).append(kRedacted);
    done = end;
  }
  return out.append(text.substr(done));
}

bool names_secret_option(std::string_view previous) {
  return previous.starts_with('-') && previous.find('=') == std::string_view::npos &&
         is_secret_name(previous);
}

std::string redact_word(std::string_view argument, std::string_view previous) {
  if (names_secret_option(previous) && !argument.starts_with('-')) return std::string(kRedacted);
  if (is_user_option(previous) && argument.find(':') != std::string_view::npos) return redact_user(argument);
  if (is_short_option(previous, "b") && argument.find('=') != std::string_view::npos)
    return std::string(kRedacted);
  if (auto header = redact_header_argument(argument)) return *header;
  if (auto bearer = redact_bearer_protocol(argument)) return *bearer;
  if (attached_value(argument, "uU") != std::string_view::npos) return redact_user(argument);
  if (const std::size_t value = attached_value(argument, "b");
      value != std::string_view::npos && argument.find('=', value) != std::string_view::npos)
    return std::string(argument.substr(0, value)).append(kRedacted);
  for (const std::string_view option : kUserOptions) {
    if (argument.starts_with(std::string(option) + "=")) return redact_user(argument);
  }
  const std::size_t scheme = argument.find("://");
  const bool plain_url = scheme != std::string_view::npos && !is_secret_name(argument.substr(0, scheme));
  return plain_url ? redact_url(argument) : redact_userinfo(redact_assignments(argument));
}

// Whether a value with blanks after this option is one value, not a command line.
bool takes_secret(std::string_view previous) {
  return names_secret_option(previous) || is_user_option(previous) || is_short_option(previous, "b");
}

// A shell's word: blanks may stand in it, in quotes or after a backslash.
std::string_view shell_word(std::string_view text) {
  char quote = 0;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (c == '\\' && quote != '\'') {
      ++i;
    } else if (quote != 0) {
      if (c == quote) quote = 0;
    } else if (c == '\'' || c == '"') {
      quote = c;
    } else if (c == ' ' || c == '\t' || c == '\n') {
      return text.substr(0, i);
    }
  }
  return text;
}

// The quotes around a shell's word stay; inside it is one value.
std::string redact_shell_word(std::string_view word, std::string_view previous) {
  const bool quoted =
      word.size() >= 2 && (word.front() == '\'' || word.front() == '"') && word.front() == word.back();
  if (!quoted) return redact_word(word, previous);
  const std::string quote(1, word.front());
  return quote + redact_word(word.substr(1, word.size() - 2), previous) + quote;
}

// One argument that is itself a command line (sh -c "curl -u me:x ..."): word by word, separators kept.
std::string redact_command(std::string_view text) {
  constexpr std::string_view kBlanks = " \t\r\n";
  constexpr std::string_view kSeparators = " \t\r\n'\"`";
  std::string out;
  std::string previous;
  while (!text.empty()) {
    const bool value = takes_secret(previous);
    const std::size_t start = std::min(text.find_first_not_of(value ? kBlanks : kSeparators), text.size());
    out += text.substr(0, start);
    text.remove_prefix(start);
    const std::string_view plain = text.substr(0, text.find_first_of(kSeparators));
    const bool whole = value || has_attached_secret(plain) || assigns_secret(plain);
    const char quote = start > 0 && whole ? out.back() : ' ';
    const bool quoted = quote == '\'' || quote == '"';
    const std::string_view word = !whole   ? plain
                                  : quoted ? text.substr(0, text.find(quote))
                                           : shell_word(text);
    text.remove_prefix(word.size());
    if (word.empty()) break;
    out += whole ? redact_shell_word(word, previous) : redact_word(word, previous);
    // The rest of the quoted text is that header's value.
    if (redact_header_argument(word)) text.remove_prefix(std::min(text.find_first_of("'\"`\n"), text.size()));
    previous = word;
  }
  return out;
}

}  // namespace

std::optional<std::string> redacted_header(std::string_view name, std::string_view value) {
  if (kPlainHeaders.contains_lower(name)) return std::nullopt;
  if (is_secret_header(name)) return std::string(kRedacted);
  if (name == "sec-websocket-protocol") return redact_protocols(value);
  if (kUrlHeaders.contains_lower(name)) return redact_url(value);
  if (kChallenges.contains_lower(name)) return redact_challenge(value);
  return std::nullopt;
}

// Case means nothing in a field's name, so it begins no word.
std::string redact_header(std::string_view name, std::string value) {
  auto shown = redacted_header(to_lower(name), value);
  return shown ? std::move(*shown) : value;
}

std::string redact_url(std::string_view url) {
  return redact_parts(url, true);
}

std::vector<std::string> redact_arguments(const std::vector<std::string>& arguments) {
  std::vector<std::string> out;
  out.reserve(arguments.size());
  std::string_view previous;
  for (const std::string& argument : arguments) {
    const bool whole = argument.find_first_of(" \t\n") == std::string::npos || takes_secret(previous) ||
                       has_attached_secret(argument) || redact_header_argument(argument).has_value() ||
                       (assigns_secret(argument) && !takes_command(previous));
    const std::string text = redact_json(argument);
    out.push_back(whole ? redact_word(text, previous) : redact_command(text));
    previous = argument;
  }
  return out;
}

}  // namespace weir
