// Names become hashes here just as bpf/programs/policy.bpf.c makes them of what it walks over.
#include "bpf/policy_table.h"

#include <algorithm>
#include <cstring>
#include <set>
#include <string_view>

namespace weir::bpf {
namespace {

constexpr std::size_t kMostLists = std::size_t{64} * WIRE_POLICY_LIST_WORDS;

std::uint64_t name_hash(std::string_view name) {
  std::uint64_t hash = WIRE_HASH_START;
  for (const char letter : name) hash = wire_hash_byte(hash, static_cast<unsigned char>(letter));
  return hash;
}

// Of "/a/b" or "/a/b/".
std::uint64_t path_hash(std::string_view path) {
  std::uint64_t hash = WIRE_HASH_START;
  for (std::size_t at = 1; at < path.size();) {
    const std::size_t end = std::min(path.find('/', at), path.size());
    hash = wire_hash_join(hash, name_hash(path.substr(at, end - at)));
    at = end + 1;
  }
  return hash;
}

using Pattern = std::pair<std::uint32_t, std::uint64_t>;
using Patterns = std::set<Pattern>;

Pattern executable_pattern(const TextPattern& executable) {
  const std::string& text = executable.text;
  if (!text.starts_with('/')) return {WIRE_POLICY_EXECUTABLE_NAME, name_hash(text)};
  return {executable.prefix ? WIRE_POLICY_EXECUTABLE_BELOW : WIRE_POLICY_EXECUTABLE, path_hash(text)};
}

class Maker {
 public:
  std::expected<PolicyTable, std::string> make(const Policy& policy) {
    table_.fallback = static_cast<std::uint32_t>(policy.fallback);
    for (const PolicyRule& rule : policy.rules) {
      add(rule);
      if (table_.rules.size() > kPolicyEntries)
        return beyond("addresses times ports of all rules", kPolicyEntries);
      if (known_lists_.size() > kMostLists)
        return beyond("different lists of executables, users and cgroups", kMostLists);
    }
    if (table_.lists.size() > kPolicyPatterns)
      return beyond("different executables, users and cgroups", kPolicyPatterns);
    return std::move(table_);
  }

 private:
  static std::unexpected<std::string> beyond(const char* what, std::size_t limit) {
    return std::unexpected(std::string(what) + ": more than the " + std::to_string(limit) +
                           " that the kernel side holds");
  }

  void add(const PolicyRule& rule) {
    wire_policy_rule entry{};
    entry.action = static_cast<__u8>(rule.action);
    entry.flags = rule.needs_proxy() ? WIRE_POLICY_MAYBE : 0;
    std::memcpy(entry.name, rule.name.data(), std::min(rule.name.size(), sizeof entry.name - 1));
    Patterns executables, users, cgroups;
    for (const TextPattern& each : rule.executables) executables.insert(executable_pattern(each));
    for (const std::uint32_t each : rule.users) users.insert({WIRE_POLICY_USER, each});
    for (const std::string& each : rule.cgroups) cgroups.insert({WIRE_POLICY_CGROUP, path_hash(each)});
    entry.executables = number_of(executables);
    entry.users = number_of(users);
    entry.cgroups = number_of(cgroups);
    entry.port_last = 65'535;
    if (rule.addresses.empty()) return add_ports(rule, entry);
    for (const AddressRange& range : rule.addresses) {
      if (table_.rules.size() > kPolicyEntries) return;
      set_address(entry, range);
      add_ports(rule, entry);
    }
  }

  void add_ports(const PolicyRule& rule, wire_policy_rule entry) {
    if (rule.ports.empty()) table_.rules.push_back(entry);
    for (const PortRange& range : rule.ports) {
      entry.port_first = range.first;
      entry.port_last = range.last;
      table_.rules.push_back(entry);
    }
  }

  static void set_address(wire_policy_rule& entry, const AddressRange& range) {
    entry.family = range.address.family == IpAddress::Family::v4 ? 4 : 6;
    std::memcpy(entry.address, range.address.bytes.data(), sizeof entry.address);
    std::array<std::uint8_t, 16> mask{};
    for (unsigned i = 0; i < mask.size(); ++i) {
      const unsigned kept = range.bits > i * 8 ? std::min(range.bits - i * 8, 8u) : 0;
      mask[i] = static_cast<std::uint8_t>(0xff00u >> kept);
    }
    std::memcpy(entry.mask, mask.data(), sizeof entry.mask);
  }

  // 0: anyone. Rules with the same list share its number.
  __u16 number_of(const Patterns& patterns) {
    if (patterns.empty()) return 0;
    const auto [known, is_new] = known_lists_.try_emplace(patterns, known_lists_.size());
    const std::size_t bit = known->second;
    if (is_new && bit < kMostLists)
      for (const Pattern& pattern : patterns)
        table_.lists[pattern].bits[bit / 64] |= std::uint64_t{1} << (bit % 64);
    return static_cast<__u16>(bit + 1);
  }

  PolicyTable table_;
  std::map<Patterns, std::size_t> known_lists_;
};

}  // namespace

std::expected<PolicyTable, std::string> make_policy_table(const Policy& policy) {
  return Maker().make(policy);
}

}  // namespace weir::bpf
