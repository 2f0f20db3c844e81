// Names become hashes here just as bpf/programs/filters.bpf.c makes them of what it walks over.
#include "bpf/filter_table.h"

#include <algorithm>
#include <string_view>
#include <vector>

#include "bpf/wire.h"

namespace weir::bpf {
namespace {

std::uint64_t hash_of(const std::vector<std::string_view>& components) {
  std::uint64_t hash = WIRE_HASH_START;
  for (const std::string_view component : components) {
    for (const char letter : component) hash = wire_hash_byte(hash, static_cast<unsigned char>(letter));
    hash = wire_hash_byte(hash, 0);
  }
  return hash;
}

std::vector<std::string_view> components_of(std::string_view path) {
  std::vector<std::string_view> components;
  for (std::size_t at = 1; at < path.size();) {
    const std::size_t end = std::min(path.find('/', at), path.size());
    components.push_back(path.substr(at, end - at));
    at = end + 1;
  }
  return components;
}

struct Entry {
  std::uint32_t kind;
  std::uint64_t value;
  std::uint32_t group;
};

Entry process_entry(const std::string& text) {
  if (!text.starts_with('/')) return {WIRE_FILTER_NAME, hash_of({text}), WIRE_FILTER_PROCESSES};
  auto components = components_of(text);
  std::ranges::reverse(components);
  return {WIRE_FILTER_PATH, hash_of(components), WIRE_FILTER_PROCESSES};
}

Entry entry_of(const FilterRule& rule) {
  switch (rule.kind) {
    case FilterRule::Kind::pid:
      return {WIRE_FILTER_PID, rule.number, WIRE_FILTER_PROCESSES};
    case FilterRule::Kind::process:
      return process_entry(rule.text);
    case FilterRule::Kind::cgroup:
      if (rule.text.empty()) return {WIRE_FILTER_CGROUP_ID, rule.number, WIRE_FILTER_CGROUPS};
      return {WIRE_FILTER_CGROUP, hash_of(components_of(rule.text)), WIRE_FILTER_CGROUPS};
    case FilterRule::Kind::port:
      return {WIRE_FILTER_PORT, rule.number, WIRE_FILTER_PORTS};
    case FilterRule::Kind::library:
      break;
  }
  return {};
}

}  // namespace

FilterTable make_filter_table(const Filters& filters) {
  FilterTable table;
  const auto add = [&table](const std::vector<FilterRule>& rules, std::uint32_t effect) {
    for (const FilterRule& rule : rules) {
      const Entry entry = entry_of(rule);
      if (entry.group == 0) continue;
      table.rules[{entry.kind, entry.value}] |= effect;
      (effect == WIRE_FILTER_REDIRECT ? table.redirect_groups : table.groups) |= entry.group;
      if (effect == WIRE_FILTER_ONLY) table.only_groups |= entry.group;
    }
  };
  add(filters.only, WIRE_FILTER_ONLY);
  add(filters.except, WIRE_FILTER_EXCEPT);
  add(filters.redirect, WIRE_FILTER_REDIRECT);
  return table;
}

}  // namespace weir::bpf
