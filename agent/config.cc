// The configuration file: a table of keys, each with its type and bounds. Must name file and line of each
// error, and must not half-apply a file.
#include "agent/config.h"

#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <bit>
#include <charconv>
#include <functional>
#include <set>
#include <variant>

#include "agent/files.h"
#include "agent/host_pattern.h"
#include "agent/yaml_document.h"
#include "attribution/text.h"
#include "bpf/filters.h"
#include "proxy/upstream_proxy.h"

namespace weir::agent {
namespace {

// Where a key's value goes, and which values it may have.
struct Size {
  std::uint64_t Config::* member;
  std::uint64_t least;
  std::uint64_t most;
};
struct Count {
  std::uint32_t Config::* member;
  std::uint32_t most;
  std::uint32_t least = 0;
};
struct PowerOfTwo {
  std::uint64_t Config::* member;
  std::uint64_t least;
  std::uint64_t most;
};
struct FilterList {
  std::vector<std::string> Config::* member;
  bool only_processes = false;  // nor libraries nor ports
};
struct ProxyUrl {
  std::string Config::* member;
};
struct HostList {
  std::vector<std::string> Config::* member;
};
struct DirectoryList {
  std::vector<std::string> Config::* member;
};
// Each "NAME=FILE".
struct NamedFiles {
  std::vector<std::string> Config::* member;
};
using Place = std::variant<bool Config::*, std::string Config::*, std::vector<std::string> Config::*,
                           Endpoint Config::*, Size, Count, PowerOfTwo, FilterList, HostList, DirectoryList,
                           ProxyUrl, NamedFiles>;

struct Key {
  const char* section;  // "" at the top
  const char* name;
  Place place;
};

constexpr std::uint64_t mib = 1024 * 1024;
constexpr std::size_t kLargestFile = mib;

const Key keys[] = {
    {"", "state_dir", &Config::state_dir},
    {"", "bodies", &Config::bodies},
    {"", "redact", &Config::redact},
    {"", "ingress", &Config::ingress},
    {"", "jsonl", &Config::jsonl},
    {"", "record", &Config::record},
    {"", "store", &Config::store},
    {"", "policy", &Config::policy},
    {"", "container_state", DirectoryList{&Config::container_state}},
    {"retention", "max_age_hours", Size{&Config::store_max_age_hours, 0, 1'000'000}},
    {"retention", "max_bytes", Size{&Config::store_max_bytes, mib, mib* mib}},
    {"native", "enabled", &Config::native},
    {"native", "ring_bytes", PowerOfTwo{&Config::ring_bytes, mib, 1024 * mib}},
    {"native", "socket_events", &Config::socket_events},
    {"native", "uprobe_multi", &Config::uprobe_multi},
    {"native", "hold_execs", &Config::hold_execs},
    {"native", "only", FilterList{&Config::native_only}},
    {"native", "except", FilterList{&Config::native_except}},
    {"transparent", "processes", FilterList{&Config::transparent_processes, true}},
    {"transparent", "refuse_quic", &Config::refuse_quic},
    {"transparent", "steer", &Config::steer},
    {"transparent", "fail_closed", &Config::fail_closed},
    {"proxy", "enabled", &Config::proxy},
    {"proxy", "listen", &Config::proxy_listen},
    {"proxy", "threads", Count{&Config::proxy_threads, 1024}},
    {"proxy", "connections", Size{&Config::proxy_connections, 1, 1'000'000}},
    {"proxy", "memory_bytes", Size{&Config::proxy_memory_bytes, 64 * mib, mib* mib}},
    {"proxy", "passthrough", HostList{&Config::passthrough}},
    {"proxy", "passthrough_after", Count{&Config::passthrough_after, 1000}},
    {"proxy", "passthrough_seconds", Count{&Config::passthrough_seconds, 31'536'000}},
    {"proxy", "open_mutual_tls", &Config::open_mutual_tls},
    {"proxy", "upstream_ca", &Config::upstream_ca},
    {"proxy", "client_certificates", NamedFiles{&Config::client_certificates}},
    {"proxy", "upstream", ProxyUrl{&Config::upstream_proxy}},
    {"api", "listen", &Config::api_listen},
    {"engine", "shards", Count{&Config::shards, 256, 1}},
    {"engine", "connections", Size{&Config::connections, 1, 100'000'000}},
    {"engine", "body_bytes", Size{&Config::body_bytes, 0, 1024 * mib}},
    {"engine", "queue_bytes", Size{&Config::queue_bytes, mib, 16 * 1024 * mib}},
    {"engine", "queue_events", Size{&Config::queue_events, 16, 100'000'000}},
};

const Key* find_key(std::string_view section, std::string_view name) {
  for (const Key& key : keys) {
    if (key.section == section && key.name == name) return &key;
  }
  return nullptr;
}

bool is_section(std::string_view name) {
  for (const Key& key : keys) {
    if (*key.section != '\0' && key.section == name) return true;
  }
  return false;
}

std::string known_names(std::string_view section) {
  std::string names;
  std::string_view last_section;
  for (const Key& key : keys) {
    std::string_view name;
    if (key.section == section) name = key.name;
    if (section.empty() && *key.section != '\0' && key.section != last_section) {
      name = last_section = key.section;
    }
    if (name.empty()) continue;
    if (!names.empty()) names += ", ";
    names += name;
  }
  return names;
}

// No path and no name has a control character. The emitter replaces some others (Unicode's noncharacters),
// and the worker, which reads what the broker emits, would then have another configuration.
bool is_text(const std::string& text) {
  if (std::ranges::any_of(text, [](unsigned char c) { return c < 0x20 || c == 0x7f; })) return false;
  YAML::Emitter out;
  out << YAML::DoubleQuoted << text;
  return YAML::Load(out.c_str()).Scalar() == text;
}
constexpr const char* no_text = " holds a character that a text can't have";

bool names_processes(const bpf::FilterRule& rule) {
  return rule.kind != bpf::FilterRule::Kind::port && rule.kind != bpf::FilterRule::Kind::library;
}

class Reader {
 public:
  Reader(std::string name, Config& config) : name_(std::move(name)), config_(config) {}

  std::expected<void, Error> read(const YAML::Node& root) {
    if (root.IsNull()) return {};
    if (!root.IsMap()) return wrong(root, "expected a map of settings");
    std::set<std::string> seen;
    for (const auto& item : root) {
      const std::string name = item.first.Scalar();
      if (!seen.insert(name).second) return wrong(item.first, "'" + name + "' is there twice");
      const auto done =
          is_section(name) ? read_section(name, item.second) : read_key("", item.first, item.second);
      if (!done) return done;
    }
    return {};
  }

 private:
  std::expected<void, Error> read_section(const std::string& section, const YAML::Node& node) {
    if (node.IsNull()) return {};
    if (!node.IsMap()) return wrong(node, "'" + section + "' holds a map of settings");
    std::set<std::string> seen;
    for (const auto& item : node) {
      if (!seen.insert(item.first.Scalar()).second)
        return wrong(item.first, "'" + section + "." + item.first.Scalar() + "' is there twice");
      if (auto done = read_key(section, item.first, item.second); !done) return done;
    }
    return {};
  }

  std::expected<void, Error> read_key(std::string_view section, const YAML::Node& name,
                                      const YAML::Node& value) {
    const Key* key = find_key(section, name.Scalar());
    const std::string full = section.empty() ? name.Scalar() : std::string(section) + "." + name.Scalar();
    if (key == nullptr) {
      return wrong(name, "unknown setting '" + full + "'", "known here: " + known_names(section));
    }
    return std::visit([&](auto place) { return store(place, full, value); }, key->place);
  }

  std::expected<void, Error> store(bool Config::* member, const std::string& key, const YAML::Node& value) {
    if (!value.IsScalar() || !YAML::convert<bool>::decode(value, config_.*member)) {
      return wrong(value, key + " is true or false (or on, off)");
    }
    return {};
  }

  std::expected<void, Error> store(std::string Config::* member, const std::string& key,
                                   const YAML::Node& value) {
    if (!value.IsScalar()) return wrong(value, key + " is a text");
    if (!is_text(value.Scalar())) return wrong(value, key + no_text);
    config_.*member = value.Scalar();
    return {};
  }

  std::expected<void, Error> store(std::vector<std::string> Config::* member, const std::string& key,
                                   const YAML::Node& value) {
    if (!value.IsSequence()) return wrong(value, key + " is a list");
    std::vector<std::string> items;
    for (const auto& item : value) {
      if (!item.IsScalar() || item.Scalar().empty()) return wrong(item, key + " is a list of texts");
      if (!is_text(item.Scalar())) return wrong(item, key + no_text);
      items.push_back(item.Scalar());
    }
    config_.*member = std::move(items);
    return {};
  }

  std::expected<void, Error> store(Endpoint Config::* member, const std::string& key,
                                   const YAML::Node& value) {
    if (!value.IsScalar()) return wrong(value, key + " is an address and a port");
    auto endpoint = parse_endpoint(value.Scalar());
    if (!endpoint) return wrong(value, key + ": " + endpoint.error().what);
    config_.*member = *endpoint;
    return {};
  }

  std::expected<void, Error> store(Size size, const std::string& key, const YAML::Node& value) {
    auto number = read_number(key, value, size.least, size.most);
    if (!number) return std::unexpected(number.error());
    config_.*size.member = *number;
    return {};
  }

  std::expected<void, Error> store(Count count, const std::string& key, const YAML::Node& value) {
    auto number = read_number(key, value, count.least, count.most);
    if (!number) return std::unexpected(number.error());
    config_.*count.member = static_cast<std::uint32_t>(*number);
    return {};
  }

  std::expected<void, Error> store(PowerOfTwo size, const std::string& key, const YAML::Node& value) {
    auto number = read_number(key, value, size.least, size.most);
    if (!number) return std::unexpected(number.error());
    if (!std::has_single_bit(*number)) {
      return wrong(value, key + " is a power of two",
                   "the nearest are " + std::to_string(std::bit_floor(*number)) + " and " +
                       std::to_string(std::bit_ceil(*number)));
    }
    config_.*size.member = *number;
    return {};
  }

  std::expected<void, Error> store(FilterList list, const std::string& key, const YAML::Node& value) {
    if (auto stored = store(list.member, key, value); !stored) return stored;
    const auto& filters = config_.*list.member;
    if (filters.size() > bpf::kMostFilterRules) {
      return wrong(value, key + " has more than " + std::to_string(bpf::kMostFilterRules) + " filters");
    }
    for (std::size_t i = 0; i < filters.size(); ++i) {
      const auto rule = bpf::parse_filter(filters[i]);
      const std::string shown = key + ": '" + filters[i] + "': ";
      if (!rule) return wrong(value[i], shown + rule.error(), "see docs/configuration.md");
      if (list.only_processes && !names_processes(*rule))
        return wrong(value[i], shown + "this names no process", "use process:, pid: or cgroup:");
    }
    return {};
  }

  std::expected<void, Error> store(HostList list, const std::string& key, const YAML::Node& value) {
    if (auto stored = store(list.member, key, value); !stored) return stored;
    const auto& hosts = config_.*list.member;
    for (std::size_t i = 0; i < hosts.size(); ++i) {
      // Connections to an address go by it as it is commonly written.
      const std::string address = parse_ip_address(hosts[i]).to_string();
      if (address.empty() ? is_host_pattern(hosts[i]) : hosts[i] == address) continue;
      return wrong(value[i], key + ": '" + hosts[i] + "' can be the name of no host",
                   !address.empty() ? "write it " + address
                                    : "write example.org, or .example.org for it and all below it");
    }
    return {};
  }

  std::expected<void, Error> store(DirectoryList list, const std::string& key, const YAML::Node& value) {
    if (auto stored = store(list.member, key, value); !stored) return stored;
    const auto& directories = config_.*list.member;
    for (std::size_t i = 0; i < directories.size(); ++i)
      if (!directories[i].starts_with('/'))
        return wrong(value[i], key + ": '" + directories[i] + "' is no absolute path", "begin it with /");
    return {};
  }

  std::expected<void, Error> store(NamedFiles list, const std::string& key, const YAML::Node& value) {
    if (auto stored = store(list.member, key, value); !stored) return stored;
    const auto& entries = config_.*list.member;
    for (std::size_t i = 0; i < entries.size(); ++i) {
      const auto at = entries[i].find('=');
      if (at == 0 || at == std::string::npos || at + 1 == entries[i].size())
        return wrong(value[i], key + ": '" + entries[i] + "' is not NAME=FILE");
    }
    return {};
  }

  // What is wrong is told without the text: it may hold a password.
  std::expected<void, Error> store(ProxyUrl url, const std::string& key, const YAML::Node& value) {
    std::string Config::* const member = url.member;
    if (auto stored = store(member, key, value); !stored || (config_.*member).empty()) return stored;
    if (auto proxy = proxy::parse_upstream_proxy(config_.*member); !proxy)
      return wrong(value, key + ": " + proxy.error());
    return {};
  }

  std::expected<std::uint64_t, Error> read_number(const std::string& key, const YAML::Node& value,
                                                  std::uint64_t least, std::uint64_t most) {
    const std::string bounds =
        key + " is a whole number from " + std::to_string(least) + " to " + std::to_string(most);
    if (!value.IsScalar()) return std::unexpected(at(value, bounds));
    const std::string& text = value.Scalar();
    std::uint64_t number = 0;
    const auto [end, failed] = std::from_chars(text.data(), text.data() + text.size(), number);
    if (failed != std::errc() || end != text.data() + text.size() || number < least || number > most) {
      return std::unexpected(at(value, bounds));
    }
    return number;
  }

  Error at(const YAML::Node& node, const std::string& what, const std::string& remedy = "") const {
    return {name_ + ":" + std::to_string(line_of(node)) + ": " + what, remedy};
  }
  std::unexpected<Error> wrong(const YAML::Node& node, const std::string& what,
                               const std::string& remedy = "") const {
    return std::unexpected(at(node, what, remedy));
  }

  std::string name_;
  Config& config_;
};

void emit(YAML::Emitter& out, const Config& config, const Place& place) {
  if (const auto* flag = std::get_if<bool Config::*>(&place)) {
    out << config.**flag;
  } else if (const auto* text = std::get_if<std::string Config::*>(&place)) {
    out << YAML::DoubleQuoted << config.**text;
  } else if (const auto* list = std::get_if<std::vector<std::string> Config::*>(&place)) {
    out << YAML::BeginSeq;
    for (const std::string& item : config.**list) out << YAML::DoubleQuoted << item;
    out << YAML::EndSeq;
  } else if (const auto* endpoint = std::get_if<Endpoint Config::*>(&place)) {
    out << YAML::DoubleQuoted << (config.**endpoint).to_string();
  } else if (const auto* size = std::get_if<Size>(&place)) {
    out << config.*size->member;
  } else if (const auto* power = std::get_if<PowerOfTwo>(&place)) {
    out << config.*power->member;
  } else if (const auto* count = std::get_if<Count>(&place)) {
    out << config.*count->member;
  } else if (const auto* filters = std::get_if<FilterList>(&place)) {
    emit(out, config, filters->member);
  } else if (const auto* hosts = std::get_if<HostList>(&place)) {
    emit(out, config, hosts->member);
  } else if (const auto* directories = std::get_if<DirectoryList>(&place)) {
    emit(out, config, directories->member);
  } else if (const auto* files = std::get_if<NamedFiles>(&place)) {
    emit(out, config, files->member);
  } else if (const auto* url = std::get_if<ProxyUrl>(&place)) {
    emit(out, config, url->member);
  }
}

// Where the first byte stands that is not UTF-8: the emitter would replace it, and the worker would then have
// another configuration than the broker.
std::size_t end_of_utf8(std::string_view text) {
  std::size_t end = 0;
  while (end < text.size()) {
    const std::size_t length = utf8_length(text.substr(end));
    if (length == 0) return end;
    end += length;
  }
  return end;
}

}  // namespace

Config default_config() {
  Config config;
  config.state_dir = default_state_dir().path.string();
  config.proxy_listen = {parse_ip_address("127.0.0.1"), 7443};
  config.api_listen = {parse_ip_address("127.0.0.1"), 7480};
  return config;
}

std::expected<void, Error> read_config_text(std::string_view text, const std::string& name, Config& config) {
  if (const auto end = end_of_utf8(text); end < text.size()) {
    const auto line = std::count(text.begin(), text.begin() + static_cast<std::ptrdiff_t>(end), '\n') + 1;
    return std::unexpected(Error{name + ":" + std::to_string(line) + ": not UTF-8", ""});
  }
  const auto root = load_document(text, name);
  if (!root) return std::unexpected(root.error());
  Config read = config;
  auto done = Reader(name, read).read(*root);
  if (done) config = std::move(read);
  return done;
}

std::expected<void, Error> read_config_file(const std::filesystem::path& file, Config& config) {
  const auto text = read_file(file, kLargestFile, "--config");
  if (!text) return std::unexpected(text.error());
  return read_config_text(*text, file.string(), config);
}

std::string to_yaml(const Config& config) {
  YAML::Emitter out;
  out << YAML::BeginMap;
  std::string_view section;
  for (const Key& key : keys) {
    if (section != key.section) {
      if (!section.empty()) out << YAML::EndMap;
      section = key.section;
      out << YAML::Key << key.section << YAML::Value << YAML::BeginMap;
    }
    out << YAML::Key << key.name << YAML::Value;
    emit(out, config, key.place);
  }
  if (!section.empty()) out << YAML::EndMap;
  out << YAML::EndMap;
  return out.c_str();
}

bpf::Filters filters_of(const Config& config) {
  bpf::Filters filters;
  const auto add = [](const std::vector<std::string>& texts, std::vector<bpf::FilterRule>& rules) {
    for (const std::string& text : texts)
      if (auto rule = bpf::parse_filter(text)) rules.push_back(*std::move(rule));
  };
  add(config.native_only, filters.only);
  add(config.native_except, filters.except);
  add(config.transparent_processes, filters.redirect);
  return filters;
}

std::expected<Endpoint, Error> parse_endpoint(std::string_view text) {
  const Error malformed{"'" + std::string(text) + "' is not an address and a port",
                        "write it like 127.0.0.1:7443 or [::1]:7443"};
  const auto colon = text.rfind(':');
  if (colon == std::string_view::npos) return std::unexpected(malformed);
  std::string_view host = text.substr(0, colon);
  const std::string_view port_text = text.substr(colon + 1);
  if (host.size() > 2 && host.front() == '[' && host.back() == ']') {
    host = host.substr(1, host.size() - 2);
  } else if (host.find(':') != std::string_view::npos) {
    return std::unexpected(malformed);
  }
  Endpoint endpoint;
  endpoint.address = parse_ip_address(host == "localhost" ? "127.0.0.1" : std::string(host));
  const auto [end, failed] =
      std::from_chars(port_text.data(), port_text.data() + port_text.size(), endpoint.port);
  if (failed != std::errc() || end != port_text.data() + port_text.size() ||
      endpoint.address.family == IpAddress::Family::unknown) {
    return std::unexpected(malformed);
  }
  return endpoint;
}

}  // namespace weir::agent
