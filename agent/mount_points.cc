#include "agent/mount_points.h"

#include <algorithm>
#include <charconv>
#include <set>
#include <sstream>
#include <string_view>

namespace weir::agent {
namespace {

bool may_hold_programs(const std::string& type) {
  static const std::set<std::string> none = {
      "proc",    "sysfs",  "cgroup",   "cgroup2",    "devpts",    "mqueue",      "debugfs",
      "tracefs", "bpf",    "pstore",   "configfs",   "hugetlbfs", "binfmt_misc", "efivarfs",
      "nsfs",    "autofs", "nfs",      "nfs4",       "cifs",      "smb3",        "9p",
      "ceph",    "afs",    "virtiofs", "securityfs", "fusectl"};
  return !none.contains(type) && !type.starts_with("fuse");
}

// A blank in a name is written in three octal digits behind a backslash, and so is that itself.
std::string unescaped(std::string_view name) {
  std::string plain;
  for (std::size_t i = 0; i < name.size(); ++i) {
    const std::string_view digits = name[i] == '\\' ? name.substr(i + 1, 3) : "";
    const char* end = digits.data() + digits.size();
    unsigned value = 0;
    const bool escape = digits.size() == 3 && std::from_chars(digits.data(), end, value, 8).ptr == end;
    plain += escape ? static_cast<char>(value) : name[i];
    if (escape) i += digits.size();
  }
  return plain;
}

}  // namespace

// Type and mount point stand around " - ".
std::vector<std::string> mount_points_with_programs(std::istream& mountinfo) {
  std::vector<std::string> found;
  for (std::string line; std::getline(mountinfo, line);) {
    std::istringstream words(line);
    std::string word, point, type;
    for (int i = 0; i < 5; ++i) words >> point;
    while (words >> word && word != "-") {
    }
    words >> type;
    if (may_hold_programs(type)) found.push_back(unescaped(point));
  }
  return found;
}

}  // namespace weir::agent
