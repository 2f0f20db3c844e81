// The words of the filters: a table of kinds. What they mean to the kernel side is in filter_table.cc.
#include "bpf/filters.h"

#include <algorithm>
#include <array>
#include <charconv>

#include "attribution/names.h"

namespace weir::bpf {
namespace {

constexpr std::size_t kLongestName = 255;  // NAME_MAX; longer ones are no file's
constexpr std::size_t kLongestPath = 1024;

using Parsed = std::expected<FilterRule, std::string>;

template <std::uint64_t least, std::uint64_t most>
bool read_number(std::string_view text, std::uint64_t& number) {
  const auto [end, failed] = std::from_chars(text.data(), text.data() + text.size(), number);
  return failed == std::errc() && end == text.data() + text.size() && number >= least && number <= most;
}

bool is_path(std::string_view text) {
  if (!text.starts_with('/') || text.size() > kLongestPath) return false;
  for (std::size_t at = 1; at < text.size();) {
    const std::size_t end = std::min(text.find('/', at), text.size());
    const std::string_view name = text.substr(at, end - at);
    if (name.empty() || name == "." || name == ".." || name.size() > kLongestName) return false;
    at = end + 1;
  }
  return text.size() == 1 || !text.ends_with('/');
}

Parsed read_pid(std::string_view value) {
  FilterRule rule{.kind = FilterRule::Kind::pid};
  if (!read_number<1, INT32_MAX>(value, rule.number)) return std::unexpected("a pid is a number from 1");
  return rule;
}

Parsed read_process(std::string_view value) {
  const bool is_name = !value.empty() && value.size() <= kLongestName && value.find('/') == value.npos;
  if (!is_name && (!is_path(value) || value == "/")) {
    return std::unexpected("a process is the name of its executable, or its absolute path");
  }
  return FilterRule{.kind = FilterRule::Kind::process, .text = std::string(value)};
}

Parsed read_cgroup(std::string_view value) {
  FilterRule rule{.kind = FilterRule::Kind::cgroup};
  if (read_number<1, UINT64_MAX>(value, rule.number)) return rule;
  rule.number = 0;
  if (!is_path(value)) {
    return std::unexpected(
        "a cgroup is its path below the root of cgroup v2, as in /proc/PID/cgroup behind \"0::\", or its "
        "number");
  }
  rule.text = value;
  return rule;
}

Parsed read_port(std::string_view value) {
  FilterRule rule{.kind = FilterRule::Kind::port};
  if (!read_number<1, 65'535>(value, rule.number))
    return std::unexpected("a port is a number from 1 to 65535");
  return rule;
}

Parsed read_library(std::string_view value) {
  std::string known;
  for (const TlsLibrary library : {TlsLibrary::openssl, TlsLibrary::boringssl, TlsLibrary::gnutls,
                                   TlsLibrary::nss, TlsLibrary::go, TlsLibrary::none}) {
    if (name_of(library) == value) return FilterRule{.kind = FilterRule::Kind::library, .library = library};
    known += (known.empty() ? "" : ", ") + std::string(name_of(library));
  }
  return std::unexpected("a library is one of " + known);
}

struct Word {
  std::string_view name;
  Parsed (*read)(std::string_view value);
};
constexpr std::array kWords{Word{"pid", read_pid}, Word{"process", read_process}, Word{"cgroup", read_cgroup},
                            Word{"port", read_port}, Word{"library", read_library}};

bool names(const std::vector<FilterRule>& rules, TlsLibrary library) {
  return std::ranges::any_of(rules, [&](const FilterRule& rule) {
    return rule.kind == FilterRule::Kind::library && rule.library == library;
  });
}

}  // namespace

Parsed parse_filter(std::string_view text) {
  const auto colon = text.find(':');
  const auto word = std::ranges::find(kWords, text.substr(0, colon), &Word::name);
  if (colon == text.npos || word == kWords.end()) {
    return std::unexpected("a filter begins with pid:, process:, cgroup:, port: or library:");
  }
  return word->read(text.substr(colon + 1));
}

bool Filters::wants(TlsLibrary library) const {
  if (names(except, library)) return false;
  const bool chosen = std::ranges::any_of(
      only, [](const FilterRule& rule) { return rule.kind == FilterRule::Kind::library; });
  return !chosen || names(only, library);
}

}  // namespace weir::bpf
