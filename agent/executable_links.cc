// See executable_links.h. Reads the names of files, never the files.
#include "agent/executable_links.h"

namespace weir::agent {
namespace {

void add_if_linked(const std::string& where, const std::string& path, std::vector<std::string>& lines) {
  if (const auto real = real_path_behind(path))
    lines.push_back(where + ": " + path + " is a link on this host and matches no process of it: write " +
                    real->string());
}

}  // namespace

std::optional<std::filesystem::path> real_path_behind(const std::string& path) {
  if (!path.starts_with('/')) return std::nullopt;
  std::error_code absent;
  auto real = std::filesystem::canonical(path, absent);
  if (absent) return std::nullopt;
  // A rule's directory ends in a slash.
  if (path.ends_with('/')) real /= "";
  return real == path ? std::nullopt : std::optional(real);
}

std::vector<std::string> linked_executables(const Policy& policy, const std::string& file) {
  std::vector<std::string> lines;
  for (const PolicyRule& rule : policy.rules) {
    if (!rule.containers.empty() || !rule.namespaces.empty()) continue;  // not of this host's processes
    const std::string where = file + ":" + std::to_string(rule.line) + ": " +
                              std::string(name_of(rule.action)) + " '" + rule.name + "': executable";
    for (const TextPattern& executable : rule.executables) add_if_linked(where, executable.text, lines);
  }
  return lines;
}

std::vector<std::string> linked_executables(const Config& config) {
  struct Setting {
    const char* name;
    std::vector<bpf::FilterRule> filters;
  };
  const auto filters = filters_of(config);
  std::vector<std::string> lines;
  for (const auto& [name, rules] : {Setting{"native.only", filters.only},
                                    {"native.except", filters.except},
                                    {"transparent.processes", filters.redirect}})
    for (const bpf::FilterRule& rule : rules)
      if (rule.kind == bpf::FilterRule::Kind::process)
        add_if_linked(std::string(name) + ": process", rule.text, lines);
  return lines;
}

}  // namespace weir::agent
