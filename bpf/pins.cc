// Directories, links and tables under /sys/fs/bpf. The lock is on the directory itself: it ends with its
// holder, however that ends.
#include "bpf/pins.h"

#include <bpf/bpf.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <optional>
#include <vector>

namespace weir::bpf {
namespace {

namespace fs = std::filesystem;

constexpr const char* kFileSystem = "/sys/fs/bpf";
constexpr const char* kPins = "/sys/fs/bpf/weir";
constexpr long kMagic = 0xcafe4a11;

Error errno_error(const std::string& what, const std::string& remedy = "") {
  return {what + ": " + std::strerror(errno), remedy};
}

std::optional<unsigned> number_of(const fs::path& directory) {
  const std::string name = directory.filename();
  unsigned number = 0;
  const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), number);
  if (error != std::errc() || end != name.data() + name.size()) return std::nullopt;
  return number;
}

// Where the file system is everybody's to write in, others may have been there first, with links to
// elsewhere.
bool is_roots_own(const fs::path& directory) {
  struct stat found{};
  return ::lstat(directory.c_str(), &found) == 0 && S_ISDIR(found.st_mode) && found.st_uid == 0 &&
         (found.st_mode & (S_IWGRP | S_IWOTH)) == 0;
}

std::vector<fs::path> entries_of(const fs::path& directory) {
  std::vector<fs::path> found;
  std::error_code error;
  for (fs::directory_iterator each(directory, error), end; !error && each != end; each.increment(error))
    found.push_back(each->path());
  return found;
}

// Of one owner's agents, the latest one first. Nothing else is ever touched.
std::vector<fs::path> pinned_in(const fs::path& place) {
  if (!is_roots_own(kPins) || !is_roots_own(place)) return {};
  std::vector<fs::path> found = entries_of(place);
  std::erase_if(found, [](const fs::path& path) { return !number_of(path) || !is_roots_own(path); });
  std::ranges::sort(found, std::greater(), [](const fs::path& path) { return *number_of(path); });
  return found;
}

void remove_directory(const fs::path& directory) {
  std::error_code ignored;
  for (const fs::path& file : entries_of(directory)) fs::remove(file, ignored);
  fs::remove(directory, ignored);
}

}  // namespace

bool Pins::are_there(const std::string& owner) {
  return !pinned_in(fs::path(kPins) / owner).empty();
}

std::expected<Pins, Error> Pins::take(const std::string& owner) {
  struct statfs mounted{};
  if (::statfs(kFileSystem, &mounted) != 0 || mounted.f_type != kMagic)
    return std::unexpected(Error{std::string("the kernel's file system for BPF is not at ") + kFileSystem,
                                 "mount -t bpf -o mode=0700 bpf /sys/fs/bpf"});
  const fs::path place = fs::path(kPins) / owner;
  for (const fs::path& directory : {fs::path(kPins), place}) {
    if (::mkdir(directory.c_str(), 0700) != 0 && errno != EEXIST)
      return std::unexpected(errno_error(directory));
    if (!is_roots_own(directory))
      return std::unexpected(
          Error{directory.string() + " is not root's own", "see who made it, and remove it"});
  }
  Descriptor lock(::open(place.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (lock.get() < 0) return std::unexpected(errno_error(place));
  if (::flock(lock.get(), LOCK_EX | LOCK_NB) != 0)
    return std::unexpected(Error{place.string() + " is held by another agent", "stop that one"});
  const auto earlier = pinned_in(place);
  const unsigned number = earlier.empty() ? 1 : *number_of(earlier.front()) + 1;
  return Pins(std::move(lock), place / std::to_string(number));
}

// Without anything pinned the directories go, too.
Pins::~Pins() {
  if (lock_.get() < 0) return;
  if (made_ && !kept_) remove_directory(own_);
  if (!pinned_in(own_.parent_path()).empty()) return;
  ::rmdir(own_.parent_path().c_str());
  ::rmdir(kPins);
}

Descriptor Pins::earlier_table(const char* name, std::uint32_t key_size, std::uint32_t value_size) const {
  for (const fs::path& directory : pinned_in(own_.parent_path())) {
    Descriptor table(bpf_obj_get((directory / name).c_str()));
    bpf_map_info info{};
    __u32 size = sizeof info;
    if (table.get() < 0 || bpf_map_get_info_by_fd(table.get(), &info, &size) != 0) continue;
    if (info.key_size == key_size && info.value_size == value_size) return table;
  }
  return Descriptor();
}

std::expected<void, Error> Pins::pin(const char* name, int descriptor) {
  if (!made_ && ::mkdir(own_.c_str(), 0700) != 0)
    return std::unexpected(errno_error("cannot pin " + own_.string()));
  made_ = true;
  if (bpf_obj_pin(descriptor, (own_ / name).c_str()) != 0)
    return std::unexpected(errno_error("cannot pin " + (own_ / name).string()));
  return {};
}

void Pins::remove_earlier() {
  for (const fs::path& directory : pinned_in(own_.parent_path()))
    if (directory != own_) remove_directory(directory);
}

namespace {

void release(const fs::path& directory) {
  const Descriptor released(bpf_obj_get((directory / "released").c_str()));
  const std::uint32_t zero = 0;
  const std::uint32_t yes = 1;
  if (released.get() >= 0) bpf_map_update_elem(released.get(), &zero, &yes, BPF_ANY);
  remove_directory(directory);
}

}  // namespace

std::vector<PinnedPlace> pinned_places() {
  std::vector<PinnedPlace> found;
  for (const fs::path& place : entries_of(kPins)) {
    if (pinned_in(place).empty()) continue;
    const Descriptor lock(::open(place.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    found.push_back({place, lock.get() >= 0 && ::flock(lock.get(), LOCK_EX | LOCK_NB) != 0});
  }
  return found;
}

std::expected<bool, Error> release_pins() {
  bool any = false;
  struct stat there{};
  if (::lstat(kPins, &there) == 0 && !is_roots_own(kPins))
    return std::unexpected(
        Error{std::string(kPins) + " is not root's own", "see who made it, and remove it"});
  for (const fs::path& place : entries_of(kPins)) {
    for (const fs::path& directory : pinned_in(place)) {
      any = true;
      release(directory);
    }
    if (::rmdir(place.c_str()) != 0) return std::unexpected(errno_error(place));
  }
  ::rmdir(kPins);
  return any;
}

}  // namespace weir::bpf
