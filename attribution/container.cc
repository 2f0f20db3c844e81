// Reads container runtimes' and systemd's naming of cgroups. It never asks a runtime: what the name doesn't
// say stays empty.
#include "attribution/container.h"

#include <algorithm>

#include "attribution/text.h"

namespace weir {
namespace {

constexpr std::size_t kUuidLength = 36;
constexpr std::size_t kLongestContainerName = 253;

bool is_lower_hex(char c) {
  return is_digit(c) || (c >= 'a' && c <= 'f');
}

// docker-ID.scope, /docker/ID, libpod-ID.scope, cri-containerd-ID.scope, crio-ID.scope,
// kubepods...:cri-containerd:ID and /kubepods/.../podUID/ID have in common: 64 hex digits that stand alone.
// conmon is the monitor, not the container.
std::string container_id_in(std::string_view segment) {
  std::size_t begin = 0;
  while (begin < segment.size()) {
    const auto first =
        std::find_if(segment.begin() + static_cast<std::ptrdiff_t>(begin), segment.end(), is_lower_hex);
    const auto last = std::find_if_not(first, segment.end(), is_lower_hex);
    const auto at = static_cast<std::size_t>(first - segment.begin());
    if (last - first == kContainerIdLength) {
      const bool monitor = segment.substr(0, at).ends_with("conmon-");
      return monitor ? std::string() : std::string(first, last);
    }
    begin = static_cast<std::size_t>(last - segment.begin()) + 1;
  }
  return {};
}

bool is_uuid(std::string_view text) {
  for (std::size_t i = 0; i < text.size(); ++i) {
    const bool dash = i == 8 || i == 13 || i == 18 || i == 23;
    if (dash ? text[i] != '-' : !is_lower_hex(text[i])) return false;
  }
  return text.size() == kUuidLength;
}

// "pod<uid>", or "kubepods-burstable-pod<uid with underscores>.slice". Static pods have 32 hex digits.
std::string pod_uid_in(std::string_view segment) {
  const std::size_t at = segment.rfind("pod");
  if (at == std::string_view::npos) return {};
  std::string uid(segment.substr(at + 3));
  uid.resize(std::min(uid.size(), std::min(uid.find(".slice"), uid.find(':'))));
  std::ranges::replace(uid, '_', '-');
  const bool static_pod = uid.size() == 32 && std::ranges::all_of(uid, is_lower_hex);
  return is_uuid(uid) || static_pod ? uid : std::string();
}

bool is_unit(std::string_view segment) {
  static constexpr std::string_view kSuffixes[] = {".service", ".scope", ".socket", ".mount", ".swap"};
  return std::ranges::any_of(kSuffixes, [&](auto suffix) { return segment.ends_with(suffix); });
}

// What systemd lets a user who isn't root arrange.
bool is_users_own(std::string_view segment) {
  if (segment.starts_with("user@")) return segment != "user@0.service";
  return segment.starts_with("user-") && segment.ends_with(".slice") && segment != "user-0.slice";
}

// Inner segments overrule outer ones: what runs inside is what the process belongs to.
void read_path(std::string_view path, bool systemd, ContainerFacts& facts) {
  const bool kubernetes = path.find("kubepods") != std::string_view::npos;
  bool users_own = false;
  while (!path.empty()) {
    const std::size_t slash = std::min(path.find('/'), path.size());
    const std::string_view segment = path.substr(0, slash);
    path.remove_prefix(std::min(slash + 1, path.size()));
    users_own = users_own || is_users_own(segment);
    if (auto id = container_id_in(segment); !id.empty()) {
      facts.claimed = facts.claimed || users_own || (!facts.container_id.empty() && facts.container_id != id);
      facts.container_id = std::move(id);
    }
    if (auto uid = kubernetes ? pod_uid_in(segment) : std::string(); !uid.empty())
      facts.pod_uid = std::move(uid);
    if (systemd && is_unit(segment)) facts.systemd_unit = segment;
  }
}

// Paths that systemd gives to what runs on the host itself. Another slice may be a container runtime's
// parent.
bool is_host_path(std::string_view path) {
  static constexpr std::string_view kHostRoots[] = {"init.scope", "user.slice", "system.slice"};
  if (path == "/") return true;
  if (!path.starts_with('/') || path.find("kubepods") != std::string_view::npos) return false;
  const std::string_view first = path.substr(1, path.find('/', 1) - 1);
  if (std::ranges::find(kHostRoots, first) != std::end(kHostRoots)) return true;
  return first.ends_with(".slice") && first != "machine.slice" &&
         (path.ends_with(".service") || path.ends_with(".scope"));
}

}  // namespace

bool begins_container_id(std::string_view text) {
  return text.size() <= kContainerIdLength && std::ranges::all_of(text, is_lower_hex);
}

bool is_container_name(std::string_view text) {
  return !text.empty() && text.size() <= kLongestContainerName && std::ranges::all_of(text, [](char c) {
    return is_letter(c) || is_digit(c) || c == '-' || c == '_' || c == '.';
  });
}

ImageName split_image(std::string_view image) {
  const std::string_view name = image.substr(0, image.find('@'));
  const auto colon = name.rfind(':');
  const auto slash = name.rfind('/');
  if (colon == std::string_view::npos || (slash != std::string_view::npos && colon < slash))
    return {name, {}};
  return {name.substr(0, colon), name.substr(colon + 1)};
}

ContainerFacts container_facts(std::string_view cgroup_text) {
  ContainerFacts facts;
  bool all_host = true;
  bool any = false;
  while (!cgroup_text.empty()) {
    const std::size_t end = std::min(cgroup_text.find('\n'), cgroup_text.size());
    const std::string_view line = cgroup_text.substr(0, end);
    cgroup_text.remove_prefix(std::min(end + 1, cgroup_text.size()));
    const std::size_t first = line.find(':');
    const std::size_t second = first == std::string_view::npos ? first : line.find(':', first + 1);
    if (second == std::string_view::npos) continue;
    const std::string_view controllers = line.substr(first + 1, second - first - 1);
    any = true;
    all_host = all_host && is_host_path(line.substr(second + 1));
    read_path(line.substr(second + 1), controllers.empty() || controllers == "name=systemd", facts);
  }
  facts.host = any && all_host && facts.container_id.empty();
  return facts;
}

}  // namespace weir
