// Opens by /proc/PID/map_files, which leads to the very file that is mapped, whatever its name means by now.
#include "agent/process_targets.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <set>
#include <sstream>

#include "agent/tls_files.h"

namespace weir::agent {
namespace {

constexpr const char* deleted = " (deleted)";

struct MapsLine {
  std::string range;  // as map_files names it
  std::string device;
  std::uint64_t inode = 0;
  std::string path;
};

// maps pads small addresses with zeros, map_files doesn't.
std::string as_map_files_has_it(const std::string& range) {
  unsigned long long start = 0;
  unsigned long long end = 0;
  if (std::sscanf(range.c_str(), "%llx-%llx", &start, &end) != 2) return "";
  std::array<char, 40> text{};
  std::snprintf(text.data(), text.size(), "%llx-%llx", start, end);
  return text.data();
}

std::optional<MapsLine> parse_code_mapping(const std::string& line) {
  std::istringstream words(line);
  MapsLine mapping;
  std::string permissions, offset;
  words >> mapping.range >> permissions >> offset >> mapping.device >> mapping.inode >> std::ws;
  std::getline(words, mapping.path);
  if (permissions.size() != 4 || permissions[2] != 'x' || mapping.inode == 0) return std::nullopt;
  mapping.range = as_map_files_has_it(mapping.range);
  if (mapping.path.ends_with(deleted)) mapping.path.resize(mapping.path.size() - std::strlen(deleted));
  return mapping;
}

std::string own_link(const std::string& directory, const char* name) {
  std::error_code failed;
  return std::filesystem::read_symlink(directory + "/" + name, failed).string();
}

// An ordinary user may not use map_files, but open what its own processes have by name.
Descriptor open_mapped(const std::string& directory, const MapsLine& mapping) {
  const int flags = O_RDONLY | O_CLOEXEC | O_NONBLOCK;
  Descriptor file(::open((directory + "/map_files/" + mapping.range).c_str(), flags));
  if (file || ::geteuid() == 0) return file;
  Descriptor named(::open(mapping.path.c_str(), flags));
  struct stat status{};
  const bool same = named && ::fstat(named.get(), &status) == 0 && status.st_ino == mapping.inode;
  if (!same) errno = EPERM;
  return same ? std::move(named) : Descriptor();
}

bool is_weir_itself(const Descriptor& file) {
  struct stat theirs{};
  struct stat own{};
  return ::fstat(file.get(), &theirs) == 0 && ::stat("/proc/self/exe", &own) == 0 &&
         theirs.st_dev == own.st_dev && theirs.st_ino == own.st_ino;
}

std::vector<std::uint32_t> running_processes() {
  std::vector<std::uint32_t> pids;
  std::error_code failed;
  for (const auto& entry : std::filesystem::directory_iterator("/proc", failed)) {
    const std::string name = entry.path().filename();
    if (std::ranges::all_of(name, [](unsigned char letter) { return std::isdigit(letter); }))
      pids.push_back(static_cast<std::uint32_t>(std::stoul(name)));
  }
  std::ranges::sort(pids);
  return pids;
}

}  // namespace

std::expected<OpenTargets, Error> OpenTargets::open(std::optional<std::uint32_t> pid) {
  allow_many_descriptors();
  OpenTargets targets;
  if (pid) {
    if (auto added = targets.add(*pid); !added) return std::unexpected(added.error());
    return targets;
  }
  for (const std::uint32_t each : running_processes()) (void)targets.add(each);
  return targets;
}

std::expected<void, Error> OpenTargets::add(std::uint32_t pid) {
  const std::string directory = "/proc/" + std::to_string(pid);
  std::ifstream maps(directory + "/maps");
  Process process{.pid = pid, .executable = own_link(directory, "exe"), .files = {}};
  std::set<FileKey> seen;
  for (std::string line; std::getline(maps, line);) {
    const auto mapping = parse_code_mapping(line);
    if (!mapping || !seen.insert({mapping->device, mapping->inode}).second) continue;
    Mapped& known = files_[{mapping->device, mapping->inode}];
    if (!known.file) {  // what one process can't show, another may
      Descriptor file = open_mapped(directory, *mapping);
      if (!file && errno == ENOENT) continue;  // the process has ended, or unmapped it
      known.error = file ? "" : std::strerror(errno);
      if (file && is_weir_itself(file)) {
        known.error = "weir itself: left alone";
        file.reset();
      }
      if (file) known.file = std::make_shared<Descriptor>(std::move(file));
    }
    process.files.push_back({mapping->path, known.error, known.file});
  }
  if (process.files.empty()) {
    const bool there = std::filesystem::exists(directory);
    return std::unexpected(there ? Error{directory + ": nothing to be seen there", "run weir doctor as root"}
                                 : Error{"no process has the pid " + std::to_string(pid), ""});
  }
  processes_.push_back(std::move(process));
  return {};
}

std::vector<ProcessTargets> OpenTargets::examine() const {
  std::map<const Descriptor*, TargetFile> known;
  bpf::LibraryCache cache;
  std::vector<ProcessTargets> all;
  for (const Process& process : processes_) {
    ProcessTargets targets{process.pid, process.executable, {}};
    for (const Mapped& mapped : process.files) {
      TargetFile file{mapped.path, {}, mapped.error};
      if (mapped.file) {
        const auto [entry, is_new] = known.try_emplace(mapped.file.get());
        if (is_new) {
          const std::string name = std::filesystem::path(mapped.path).filename();
          if (auto found = find_tls_libraries(cache, mapped.file->get(), name))
            entry->second.libraries = *std::move(found);
        }
        file.libraries = entry->second.libraries;
      }
      if (!file.libraries.empty() || !file.error.empty()) targets.files.push_back(std::move(file));
    }
    all.push_back(std::move(targets));
  }
  return all;
}

}  // namespace weir::agent
