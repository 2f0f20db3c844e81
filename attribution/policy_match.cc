// Each kind of match is one function that answers for one alternative; what is common stands once, in
// check().
#include "attribution/policy_match.h"

#include <algorithm>

#include "attribution/text.h"

namespace weir {
namespace {

int hex_value(char c) {
  if (is_digit(c)) return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

// What makes a difference to how the rest is read.
bool is_structural(char c) {
  return std::string_view("/\\.;%?#").contains(c) || static_cast<unsigned char>(c) < 0x20 || c == 0x7f;
}

enum class Escapes : std::uint8_t { all, ordinary };  // ordinary: but for those of structural characters

std::string percent_decoded(std::string_view text, Escapes which) {
  std::string out;
  out.reserve(text.size());
  for (std::size_t i = 0; i < text.size(); ++i) {
    const bool escape = text[i] == '%' && i + 2 < text.size();
    const int high = escape ? hex_value(text[i + 1]) : -1;
    const int low = escape ? hex_value(text[i + 2]) : -1;
    const char c = high >= 0 && low >= 0 ? static_cast<char>(high * 16 + low) : '%';
    const bool decodes = high >= 0 && low >= 0 && (which == Escapes::all || !is_structural(c));
    out += decodes ? c : text[i];
    if (decodes) i += 2;
  }
  return out;
}

// Of origin-form or absolute-form.
std::string_view raw_path(std::string_view target) {
  target = target.substr(0, target.find_first_of("?#"));
  if (target.starts_with('/') || target == "*") return target;
  const auto scheme = target.find("://");
  if (scheme == std::string_view::npos) return target;
  const auto path = target.find('/', scheme + 3);
  return path == std::string_view::npos ? "/" : target.substr(path);
}

// What servers do to a path, or leave, each for itself.
enum Rewrite : unsigned {
  kBackslashes = 1,  // are slashes
  kParameters = 2,   // behind ';' are cut off
  kDotSegments = 4,  // are resolved
  kEmptySegments = 8,
  kAllRewrites = 15
};

// `path` begins with "/".
std::string rewritten(std::string_view path, unsigned rewrites) {
  const std::string_view separators = (rewrites & kBackslashes) != 0 ? "/\\" : "/";
  std::vector<std::string_view> kept;
  bool last_dropped = false;
  for (std::size_t at = 1; at <= path.size();) {
    const std::size_t end = std::min(path.find_first_of(separators, at), path.size());
    std::string_view segment = path.substr(at, end - at);
    if ((rewrites & kParameters) != 0) segment = segment.substr(0, segment.find(';'));
    const bool dots = (rewrites & kDotSegments) != 0 && (segment == "." || segment == "..");
    if (dots && segment == ".." && !kept.empty()) kept.pop_back();
    last_dropped = dots || ((rewrites & kEmptySegments) != 0 && segment.empty());
    if (!last_dropped) kept.push_back(segment);
    at = end + 1;
  }
  std::string out;
  for (const std::string_view segment : kept) out.append("/").append(segment);
  return last_dropped ? out + "/" : out;
}

// Those that change anything of it, or may once it is decoded or another is done.
unsigned useful_rewrites(std::string_view path) {
  const bool dots = path.contains("/.") || path.contains("\\.");
  return (path.contains('\\') ? kBackslashes : 0u) | (path.contains(';') ? kParameters : 0u) |
         (dots ? kDotSegments : 0u) |
         (path.contains("//") || path.contains('\\') || path.contains(';') || dots ? kEmptySegments : 0u);
}

bool is_plain(std::string_view path) {
  return !path.starts_with('/') || (path.find('%') == path.npos && useful_rewrites(path) == 0);
}

bool begins_with_path(std::string_view path, std::string_view above) {
  if (above == "/") return true;
  return path.starts_with(above) && (path.size() == above.size() || path[above.size()] == '/');
}

bool matches(const TextPattern& pattern, std::string_view text) {
  return pattern.prefix ? text.starts_with(pattern.text) : text == pattern.text;
}

bool matches_header(const HeaderPattern& wanted, const RequestSummary& request) {
  const bool has_authority = !request.authority.empty() && wanted.name == "host";
  if (has_authority && (!wanted.value || request.authority == *wanted.value)) return true;
  const http::Fields* const fields = request.fields;
  return fields != nullptr && std::ranges::any_of(*fields, [&](const http::Field& field) {
           return http::equals_ignoring_case(field.name, wanted.name) &&
                  (!wanted.value || field.value == *wanted.value);
         });
}

// Who allows by a path must be sure of it.
bool matches_path(const PolicyRule& rule, const std::vector<std::string>& readings) {
  const auto covered = [&](const std::string& path) {
    return std::ranges::any_of(rule.paths, [&](const TextPattern& one) { return matches(one, path); });
  };
  return rule.action == PolicyAction::allow ? std::ranges::all_of(readings, covered)
                                            : std::ranges::any_of(readings, covered);
}

// Goes through the kinds of one rule; the first that doesn't match ends it.
class Matcher {
 public:
  explicit Matcher(std::string* why) : why_(why) {}

  // `known`: what it is to be held against is. `one` answers for one alternative.
  template <class List, class One>
  bool check(const char* kind, const List& list, bool known, std::string_view shown, Answer unknown,
             One one) {
    return check_all(kind, !list.empty(), known, shown, unknown,
                     [&] { return std::ranges::any_of(list, one); });
  }

  // `matches` answers for all alternatives of a kind that is asked for.
  template <class Matches>
  bool check_all(const char* kind, bool asked, bool known, std::string_view shown, Answer unknown,
                 Matches matches) {
    if (!asked) return true;
    if (!known) return take_unknown(kind, unknown);
    if (matches()) return true;
    match_.answer = Answer::no;
    if (why_ != nullptr) *why_ = std::string(kind) + " is " + (shown.empty() ? "none" : std::string(shown));
    return false;
  }
  void needs_request() { match_.needs_request = match_.answer == Answer::maybe; }
  Answer answer() const { return match_.answer; }
  RuleMatch result() const { return match_; }

 private:
  bool take_unknown(const char* kind, Answer unknown) {
    if (why_ != nullptr) *why_ += (why_->empty() ? "" : ", ") + std::string(kind) + " is not known";
    if (unknown == Answer::yes) return true;
    match_.answer = unknown;
    return unknown == Answer::maybe;
  }

  std::string* why_;
  RuleMatch match_;
};

bool has_trait(const HelloFacts& hello, HelloTrait trait) {
  return trait == HelloTrait::encrypted ? hello.has_encrypted : hello.is_tls && !hello.has_server_name;
}

std::string describe(const HelloFacts& hello) {
  if (!hello.is_tls) return "none";
  return std::string(hello.has_server_name ? "one with a server name" : "one without a server name") +
         (hello.has_encrypted ? " and an encrypted one" : "");
}

bool matches_id(const ContainerPattern& pattern, const ClientFacts& client) {
  return !pattern.is_name && client.container_id.starts_with(pattern.text);
}

// Whether the rule's containers can be held against the client's: names matter only where no id matches.
bool can_tell_container(const PolicyRule& rule, const ClientFacts& client) {
  if (client.container_names_known()) return true;
  const auto& containers = rule.containers;
  return client.container_known() &&
         (std::ranges::none_of(containers, &ContainerPattern::is_name) ||
          std::ranges::any_of(containers, [&](const auto& one) { return matches_id(one, client); }));
}

}  // namespace

std::string_view name_of(PolicyAction action) {
  static constexpr std::string_view kNames[] = {"allow", "deny", "log"};
  return kNames[static_cast<std::size_t>(action)];
}

bool AddressRange::contains(const IpAddress& other) const {
  if (other.family != address.family) return false;
  const unsigned whole = bits / 8;
  if (!std::equal(address.bytes.begin(), address.bytes.begin() + whole, other.bytes.begin())) return false;
  const unsigned rest = bits % 8;
  return rest == 0 || ((address.bytes[whole] ^ other.bytes[whole]) >> (8 - rest)) == 0;
}

std::string AddressRange::to_string() const {
  return address.to_string() + "/" + std::to_string(bits);
}

std::string normalized_path(std::string_view target) {
  const std::string_view raw = raw_path(target);
  if (!raw.starts_with('/')) return std::string(raw);
  return rewritten(percent_decoded(raw, Escapes::all), kAllRewrites);
}

std::vector<std::string> path_readings(std::string_view target) {
  const std::string_view raw = raw_path(target);
  std::vector<std::string> readings = {normalized_path(target)};
  const auto add = [&](std::string reading) {
    if (std::ranges::find(readings, reading) == readings.end()) readings.push_back(std::move(reading));
  };
  if (is_plain(raw)) return readings;
  // No server tells "%61" from "a", so the escapes of what is not structural are no reading of their own.
  const std::string as_sent = percent_decoded(raw, Escapes::ordinary);
  const std::string decoded = percent_decoded(raw, Escapes::all);
  const unsigned useful = useful_rewrites(as_sent) | useful_rewrites(decoded);
  for (unsigned rewrites = 0; rewrites <= kAllRewrites; ++rewrites) {
    if ((rewrites & ~useful) != 0) continue;
    const std::string first = rewritten(as_sent, rewrites);
    add(percent_decoded(first, Escapes::all));
    add(first);
    add(rewritten(decoded, rewrites));
  }
  return readings;
}

const std::vector<std::string>& PolicyQuestion::paths() const {
  if (paths_.empty()) paths_ = path_readings(subject_.request->target);
  return paths_;
}

std::string_view file_name(std::string_view path) {
  return path.substr(path.rfind('/') + 1);
}

bool covers_host(std::string_view pattern, std::string_view name) {
  if (!pattern.starts_with('.')) return name == pattern;
  return name == pattern.substr(1) || name.ends_with(pattern);
}

// What is cheap to tell apart comes first. A client of whom a fact is missing is refused where that fact
// would be reason to, and gets nothing by it.
RuleMatch match(const PolicyRule& rule, const PolicyQuestion& question, std::string* why) {
  const PolicySubject& subject = question.subject();
  const Destination& to = subject.destination;
  const Answer who = rule.action == PolicyAction::deny ? Answer::yes : Answer::no;
  static const ClientFacts kNobody;
  const ClientFacts& client = subject.client != nullptr ? *subject.client : kNobody;
  static const ContainerNames kNoNames;
  const ContainerNames& names = client.container ? *client.container : kNoNames;
  const HelloFacts hello = subject.hello.value_or(HelloFacts());
  Matcher matcher(why);
  const auto shown = [why](auto make) { return why == nullptr ? std::string() : make(); };

  bool goes_on =
      matcher.check(
          "port", rule.ports, true, shown([&] { return std::to_string(to.port); }), Answer::no,
          [&](const PortRange& range) { return range.first <= to.port && to.port <= range.last; }) &&
      matcher.check("user", rule.users, client.uid.has_value(),
                    shown([&] { return std::to_string(client.uid.value_or(0)); }), who,
                    [&](std::uint32_t uid) { return uid == *client.uid; }) &&
      matcher.check(
          "executable", rule.executables, !client.executable_path.empty(), client.executable_path, who,
          [&](const TextPattern& pattern) {
            const bool path = pattern.text.starts_with('/');
            return matches(pattern, path ? client.executable_path : file_name(client.executable_path));
          }) &&
      matcher.check("container", rule.containers, can_tell_container(rule, client),
                    names.name.empty() ? client.container_id : names.name, who,
                    [&](const ContainerPattern& pattern) {
                      if (!pattern.is_name) return matches_id(pattern, client);
                      return names.name == pattern.text || names.k8s_container == pattern.text;
                    }) &&
      matcher.check("namespace", rule.namespaces, client.container_names_known(), names.k8s_namespace, who,
                    [&](const std::string& name) { return names.k8s_namespace == name; }) &&
      matcher.check("cgroup", rule.cgroups, client.cgroup_known, client.cgroup_path, who,
                    [&](const std::string& path) { return begins_with_path(client.cgroup_path, path); }) &&
      matcher.check("host", rule.hosts, !to.name.empty(), to.name, Answer::maybe,
                    [&](const std::string& host) { return covers_host(host, to.name); }) &&
      matcher.check("address", rule.addresses, to.address.family != IpAddress::Family::unknown,
                    shown([&] { return to.address.to_string(); }), Answer::maybe,
                    [&](const AddressRange& range) { return range.contains(to.address); }) &&
      matcher.check("hello", rule.hellos, subject.hello.has_value() || subject.request != nullptr,
                    shown([&] { return describe(hello); }), Answer::maybe,
                    [&](HelloTrait trait) { return has_trait(hello, trait); });
  if (!goes_on) return matcher.result();

  const RequestSummary* request = subject.request;
  const bool known = request != nullptr;
  goes_on = matcher.check("method", rule.methods, known, known ? request->method : "", Answer::maybe,
                          [&](const std::string& method) {
                            return http::equals_ignoring_case(method, request->method);
                          }) &&
            matcher.check_all("path", !rule.paths.empty(), known,
                              known && why != nullptr ? std::string_view(question.paths().front()) : "",
                              Answer::maybe, [&] { return matches_path(rule, question.paths()); }) &&
            matcher.check("header", rule.headers, known, known ? "not there, or another" : "", Answer::maybe,
                          [&](const HeaderPattern& header) { return matches_header(header, *request); });
  if (goes_on && !known && rule.asks_request()) matcher.needs_request();
  return matcher.result();
}

}  // namespace weir
