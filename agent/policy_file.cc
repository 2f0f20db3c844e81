// A table of kinds, each with the function that reads one of its alternatives. Must name file and line of
// each error, and must refuse what could match nothing: a rule that is misspelt is no rule.
#include "agent/policy_file.h"

#include <pwd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <set>

#include "agent/files.h"
#include "agent/host_pattern.h"
#include "agent/yaml_document.h"
#include "attribution/container.h"
#include "attribution/text.h"

namespace weir::agent {
namespace {

constexpr std::size_t kLargestFile = std::size_t{4} << 20;
constexpr std::size_t kLongestText = 1024;
constexpr std::size_t kMostAlternatives = 256;

// What is wrong with a value; nothing when it was taken.
using Complaint = std::optional<std::string>;

bool read_number(std::string_view text, std::uint32_t least, std::uint32_t most, std::uint32_t& number) {
  const auto [end, failed] = std::from_chars(text.data(), text.data() + text.size(), number);
  return failed == std::errc() && end == text.data() + text.size() && number >= least && number <= most;
}

bool is_absolute_path(std::string_view text) {
  if (!text.starts_with('/')) return false;
  for (std::size_t at = 1; at < text.size();) {
    const std::size_t end = std::min(text.find('/', at), text.size());
    const std::string_view name = text.substr(at, end - at);
    if (name.empty() || name == "." || name == "..") return false;
    at = end + 1;
  }
  return true;
}

Complaint read_executable(const std::string& text, PolicyRule& rule, const UserIds&) {
  const bool below = text.ends_with("/*");
  const std::string path = below ? text.substr(0, text.size() - 1) : text;
  const bool is_name = path.find('/') == std::string::npos;
  const bool good = is_name || (is_absolute_path(path) && path.ends_with('/') == below);
  if (!good || path.find('*') != std::string::npos)
    return "an executable is a name (curl), an absolute path (/usr/bin/curl), or all below one (/opt/app/*)";
  rule.executables.push_back({path, below});
  return {};
}

Complaint read_user(const std::string& text, PolicyRule& rule, const UserIds& users) {
  std::uint32_t uid = 0;
  if (!read_number(text, 0, UINT32_MAX - 1, uid)) {
    const auto known = users(text);
    if (!known) return "no user '" + text + "' on this host: write its number";
    uid = *known;
  }
  rule.users.push_back(uid);
  return {};
}

Complaint read_container(const std::string& text, PolicyRule& rule, const UserIds&) {
  if (!is_container_name(text))
    return "a container is its name, or the beginning of its id, 12 lower-case hexadecimal digits at least";
  rule.containers.push_back({text, text.size() < kShortContainerId || !begins_container_id(text)});
  return {};
}

Complaint read_namespace(const std::string& text, PolicyRule& rule, const UserIds&) {
  if (!is_container_name(text)) return "a namespace is the name of one of Kubernetes'";
  rule.namespaces.push_back(text);
  return {};
}

Complaint read_cgroup(const std::string& text, PolicyRule& rule, const UserIds&) {
  if (!is_absolute_path(text) || (text.size() > 1 && text.ends_with('/')))
    return "a cgroup is its path below the root of cgroup v2, as in /proc/PID/cgroup behind \"0::\"";
  rule.cgroups.push_back(text);
  return {};
}

Complaint read_host(const std::string& text, PolicyRule& rule, const UserIds&) {
  std::string name = to_lower(text);
  if (parse_ip_address(name).family != IpAddress::Family::unknown)
    return "'" + text + "' is an address: write it under 'address'";
  if (ends_in_number(name))
    return "'" + text + "' is no name: it ends in a number, as an address does: write that under 'address'";
  if (!is_host_pattern(name))
    return "a host is a name (example.org), or .example.org for it and all below it";
  rule.hosts.push_back(std::move(name));
  return {};
}

Complaint read_address(const std::string& text, PolicyRule& rule, const UserIds&) {
  const auto slash = text.find('/');
  const IpAddress address = parse_ip_address(text.substr(0, slash));
  const unsigned all = address.family == IpAddress::Family::v4 ? 32 : 128;
  const bool mapped = all == 32 && text.find(':') != std::string::npos;
  std::uint32_t bits = all;
  const bool good = address.family != IpAddress::Family::unknown && !(mapped && slash != std::string::npos) &&
                    (slash == std::string::npos || read_number(text.substr(slash + 1), 0, all, bits));
  if (!good) return "an address is written like 10.0.0.0/8, 192.0.2.7 or 2001:db8::/32";
  for (std::size_t i = 0; i < all / 8; ++i) {
    const unsigned kept =
        bits > i * 8 ? std::min<std::uint32_t>(bits - static_cast<std::uint32_t>(i) * 8, 8) : 0;
    if ((address.bytes[i] & (0xffu >> kept)) != 0)
      return "'" + text + "' has bits set beyond its " + std::to_string(bits) + ": they would mean nothing";
  }
  rule.addresses.push_back({address, bits});
  return {};
}

Complaint read_port(const std::string& text, PolicyRule& rule, const UserIds&) {
  const auto dash = text.find('-');
  std::uint32_t first = 0;
  std::uint32_t last = 0;
  bool good = read_number(text.substr(0, dash), 1, 65'535, first);
  last = first;
  if (dash != std::string::npos) good = good && read_number(text.substr(dash + 1), first, 65'535, last);
  if (!good) return "a port is a number from 1 to 65535, or a range like 8000-8999";
  rule.ports.push_back({static_cast<std::uint16_t>(first), static_cast<std::uint16_t>(last)});
  return {};
}

Complaint read_hello(const std::string& text, PolicyRule& rule, const UserIds&) {
  if (text != "ech" && text != "no-sni")
    return "a hello is ech (an encrypted ClientHello) or no-sni (one without a server name)";
  rule.hellos.push_back(text == "ech" ? HelloTrait::encrypted : HelloTrait::without_server_name);
  return {};
}

// RFC 9110, section 5.6.2.
bool is_token(std::string_view text) {
  constexpr std::string_view marks = "!#$%&'*+-.^_`|~";
  return !text.empty() && std::ranges::all_of(text, [&](char c) {
    return is_letter(c) || is_digit(c) || marks.find(c) != std::string_view::npos;
  });
}

Complaint read_method(const std::string& text, PolicyRule& rule, const UserIds&) {
  if (!is_token(text)) return "a method is a word like GET or DELETE";
  std::string method = text;
  for (char& c : method)
    if (c >= 'a' && c <= 'z') c = static_cast<char>(c - 'a' + 'A');
  rule.methods.push_back(std::move(method));
  return {};
}

Complaint read_path(const std::string& text, PolicyRule& rule, const UserIds&) {
  const bool begins = text.ends_with('*');
  const std::string path = begins ? text.substr(0, text.size() - 1) : text;
  const bool plain = path.find_first_of("*?#;%\\") == std::string::npos;
  if (!path.starts_with('/') || !plain || normalized_path(path) != path)
    return "a path begins with '/' and is written decoded, without '//', '.', '..', query or parameters; a "
           "final * "
           "stands for any rest";
  rule.paths.push_back({path, begins});
  return {};
}

Complaint read_header(const std::string& text, PolicyRule& rule, const UserIds&) {
  const auto colon = text.find(':');
  HeaderPattern header{to_lower(text.substr(0, colon)), {}};
  if (colon != std::string::npos) {
    const auto begin = text.find_first_not_of(" \t", colon + 1);
    if (begin != std::string::npos)
      header.value = text.substr(begin, text.find_last_not_of(" \t") - begin + 1);
  }
  if (!is_token(header.name) || (colon != std::string::npos && !header.value))
    return "a header is a name, or \"name: value\" (in quotes)";
  rule.headers.push_back(std::move(header));
  return {};
}

struct Kind {
  const char* key;
  Complaint (*read)(const std::string& text, PolicyRule& rule, const UserIds& users);
};
constexpr std::array kKinds{
    Kind{"executable", read_executable}, Kind{"user", read_user},     Kind{"container", read_container},
    Kind{"namespace", read_namespace},   Kind{"cgroup", read_cgroup}, Kind{"host", read_host},
    Kind{"address", read_address},       Kind{"port", read_port},     Kind{"hello", read_hello},
    Kind{"method", read_method},         Kind{"path", read_path},     Kind{"header", read_header},
};

std::optional<PolicyAction> action_of(std::string_view word) {
  for (const PolicyAction action : {PolicyAction::allow, PolicyAction::deny, PolicyAction::log})
    if (name_of(action) == word) return action;
  return std::nullopt;
}

bool is_line(std::string_view text) {
  return std::ranges::none_of(text, [](unsigned char c) { return c < 0x20 || c == 0x7f; });
}

class Reader {
 public:
  Reader(std::string name, const UserIds& users) : name_(std::move(name)), users_(users) {}

  std::expected<Policy, Error> read(const YAML::Node& root) {
    if (!root.IsMap()) return wrong(root, "a policy is a map with 'default' and 'rules'");
    Policy policy;
    std::set<std::string> seen;
    for (const auto& item : root) {
      const std::string key = item.first.IsScalar() ? item.first.Scalar() : "";
      if (!seen.insert(key).second) return wrong(item.first, "'" + key + "' is there twice");
      if (key == "default") {
        const auto action = item.second.IsScalar() ? action_of(item.second.Scalar()) : std::nullopt;
        if (!action || *action == PolicyAction::log) return wrong(item.second, "'default' is allow or deny");
        policy.fallback = *action;
      } else if (key == "rules") {
        if (auto done = read_rules(item.second, policy); !done) return std::unexpected(done.error());
      } else {
        return wrong(item.first, "unknown key '" + key + "'", "known here: default, rules");
      }
    }
    if (!seen.contains("default"))
      return wrong(root, "'default' is missing", "say what becomes of what no rule names: allow or deny");
    return policy;
  }

 private:
  std::expected<void, Error> read_rules(const YAML::Node& node, Policy& policy) {
    if (node.IsNull()) return {};
    if (!node.IsSequence()) return wrong(node, "'rules' is a list");
    if (node.size() > kMostPolicyRules)
      return wrong(node, "more than " + std::to_string(kMostPolicyRules) + " rules");
    for (const auto& item : node) {
      auto rule = read_rule(item);
      if (!rule) return std::unexpected(rule.error());
      policy.rules.push_back(*std::move(rule));
    }
    return {};
  }

  std::expected<PolicyRule, Error> read_rule(const YAML::Node& node) {
    if (!node.IsMap())
      return wrong(node, "a rule is a map", "for example: {deny: no-metadata, address: 169.254.169.254}");
    PolicyRule rule;
    rule.line = line_of(node);
    std::set<std::string> seen;
    for (const auto& item : node) {
      const std::string key = item.first.IsScalar() ? item.first.Scalar() : "";
      if (!seen.insert(key).second) return wrong(item.first, "'" + key + "' is there twice");
      auto done = action_of(key) ? read_action(key, item.second, rule) : read_kind(key, item, rule);
      if (!done) return std::unexpected(done.error());
    }
    if (rule.name.empty())
      return wrong(node, "the rule says neither allow, deny nor log", "for example: deny: NAME-OF-THE-RULE");
    return rule;
  }

  std::expected<void, Error> read_action(const std::string& key, const YAML::Node& value, PolicyRule& rule) {
    if (!rule.name.empty()) return wrong(value, "a rule has one of allow, deny and log");
    if (!value.IsScalar() || value.Scalar().empty() || value.Scalar().size() > kLongestRuleName ||
        !is_line(value.Scalar())) {
      return wrong(value,
                   key + " takes the rule's name, of at most " + std::to_string(kLongestRuleName) + " bytes");
    }
    rule.action = *action_of(key);
    rule.name = value.Scalar();
    const auto [place, is_new] = names_.try_emplace(rule.name, line_of(value));
    if (!is_new)
      return wrong(value, "another rule has the name '" + rule.name + "' (line " +
                              std::to_string(place->second) + ")");
    return {};
  }

  template <class Item>
  std::expected<void, Error> read_kind(const std::string& key, const Item& item, PolicyRule& rule) {
    const auto* kind = std::ranges::find_if(kKinds, [&](const Kind& each) { return each.key == key; });
    if (kind == kKinds.end())
      return wrong(item.first, "unknown key '" + key + "'", "known here: " + known_keys());
    const YAML::Node& value = item.second;
    if (value.IsScalar()) return read_alternative(*kind, value, rule);
    if (!value.IsSequence() || value.size() == 0) return wrong(value, key + " is a text, or a list of them");
    if (value.size() > kMostAlternatives)
      return wrong(value, key + " has more than " + std::to_string(kMostAlternatives) + " alternatives");
    for (const auto& each : value) {
      if (!each.IsScalar()) return wrong(each, key + " is a text, or a list of them");
      if (auto done = read_alternative(*kind, each, rule); !done) return done;
    }
    return {};
  }

  std::expected<void, Error> read_alternative(const Kind& kind, const YAML::Node& value, PolicyRule& rule) {
    const std::string& text = value.Scalar();
    if (text.empty() || text.size() > kLongestText || !is_line(text))
      return wrong(value,
                   std::string(kind.key) + ": a text of 1 to " + std::to_string(kLongestText) + " bytes");
    if (auto complaint = kind.read(text, rule, users_))
      return wrong(value, std::string(kind.key) + ": " + *complaint);
    return {};
  }

  static std::string known_keys() {
    std::string keys = "allow, deny, log";
    for (const Kind& kind : kKinds) keys += std::string(", ") + kind.key;
    return keys;
  }
  std::unexpected<Error> wrong(const YAML::Node& node, const std::string& what,
                               const std::string& remedy = "") const {
    return std::unexpected(Error{name_ + ":" + std::to_string(line_of(node)) + ": " + what, remedy});
  }

  std::string name_;
  const UserIds& users_;
  std::map<std::string, unsigned> names_;
};

}  // namespace

std::optional<std::uint32_t> user_id(const std::string& name) {
  passwd account{};
  passwd* found = nullptr;
  std::array<char, 4096> buffer{};
  if (::getpwnam_r(name.c_str(), &account, buffer.data(), buffer.size(), &found) != 0 || found == nullptr)
    return std::nullopt;
  return account.pw_uid;
}

std::expected<Policy, Error> read_policy_text(std::string_view text, const std::string& name,
                                              const UserIds& users) {
  if (!is_utf8(text)) return std::unexpected(Error{name + ":1: not UTF-8", ""});
  const auto root = load_document(text, name);
  return root ? Reader(name, users).read(*root) : std::unexpected(root.error());
}

std::expected<std::string, Error> load_policy_file(const std::filesystem::path& file) {
  return read_file(file, kLargestFile, "policy");
}

}  // namespace weir::agent
