// The copies lie on a file system in memory that has no name: it is mounted over /tmp for the moment in which
// they are put over the files.
#include "agent/trust_mount.h"

#include <fcntl.h>
#include <linux/capability.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "agent/descriptor.h"
#include "ca/files.h"
#include "ca/truststore.h"

namespace weir::agent {
namespace {

namespace fs = std::filesystem;

constexpr const char* staging = "/tmp";
constexpr std::size_t largest_store = std::size_t{16} << 20;
// A keystore is taken apart, which is nothing for root to do with what others wrote; to a text ours are
// added.
constexpr ca::ReadRules keystore_rules{.limit = largest_store, .forbidden_bits = 0022, .root_may_own = true};
constexpr const char* other_way = "use --inject env";

std::unexpected<Error> failed(const std::string& what, const std::string& remedy = other_way) {
  const std::string why = std::strerror(errno);
  return std::unexpected(Error{what + ": " + why, remedy});
}

struct Cover {
  fs::path file;
  std::string content;
  Descriptor place;  // the file itself, whatever is mounted over the way to it
};

std::vector<Cover> merge(std::span<const fs::path> files, std::string_view roots_pem, TrustMounts& result) {
  std::vector<Cover> covers;
  for (const fs::path& file : files) {
    auto content =
        ca::read_checked(file, {.limit = largest_store, .forbidden_bits = 0, .anyone_may_own = true});
    if (content && !ca::is_pem(*content)) content = ca::read_checked(file, keystore_rules);
    if (!content) {
      result.skipped.push_back(content.error().what);
      continue;
    }
    auto merged = ca::with_roots(*content, roots_pem);
    if (merged) {
      covers.push_back({file, std::move(*merged), Descriptor()});
    } else {
      result.skipped.push_back(file.string() + ": " + merged.error());
    }
  }
  return covers;
}

bool write_all(int file, std::string_view text) {
  while (!text.empty()) {
    const ssize_t size = ::write(file, text.data(), text.size());
    if (size < 0 && errno != EINTR) return false;
    if (size > 0) text.remove_prefix(static_cast<std::size_t>(size));
  }
  return true;
}

bool write_file(const std::string& path, std::string_view text, int flags) {
  const Descriptor file(::open(path.c_str(), O_WRONLY | O_CLOEXEC | flags, 0644));
  return file && write_all(file.get(), text) && (flags == 0 || ::fchmod(file.get(), 0644) == 0);
}

// A process in a user namespace of its own has all capabilities in it, and could get back there what its
// bounding set has lost outside.
std::vector<int> missing_in_bounding_set() {
  std::vector<int> missing;
  for (int capability = 0; capability <= CAP_LAST_CAP; ++capability)
    if (::prctl(PR_CAPBSET_READ, capability) == 0) missing.push_back(capability);
  return missing;
}

bool drop_capabilities(const std::vector<int>& from_bounding_set) {
  for (const int capability : from_bounding_set)
    if (::prctl(PR_CAPBSET_DROP, capability) != 0) return false;
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct none[2]{};
  return ::syscall(SYS_capset, &header, none) == 0;
}

std::expected<void, Error> enter_user_namespace() {
  const uid_t user = ::geteuid();
  const gid_t group = ::getegid();
  const auto same = [](auto id) { return std::to_string(id) + " " + std::to_string(id) + " 1\n"; };
  if (::unshare(CLONE_NEWUSER | CLONE_NEWNS) != 0) {
    return failed(
        "a private mount namespace",
        "allow user namespaces (sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone), "
        "run as root, or use --inject env");
  }
  if (!write_file("/proc/self/setgroups", "deny", 0) || !write_file("/proc/self/uid_map", same(user), 0) ||
      !write_file("/proc/self/gid_map", same(group), 0))
    return failed("a user namespace of this user's");
  return {};
}

std::expected<void, Error> mount_all(std::vector<Cover>& covers) {
  constexpr const char* remedy =
      "a security module may forbid it (see dmesg): run as root, or use --inject env";
  if (::mount(nullptr, "/", nullptr, MS_REC | MS_SLAVE, nullptr) != 0)
    return failed("a private mount namespace", remedy);
  for (Cover& cover : covers) {
    cover.place = Descriptor(::open(cover.file.c_str(), O_PATH | O_CLOEXEC | O_NOFOLLOW));
    if (!cover.place) return failed(cover.file.string());
  }
  constexpr unsigned long harmless = MS_NOSUID | MS_NODEV | MS_NOEXEC;
  if (::mount("weir-trust", staging, "tmpfs", harmless, "mode=0755,size=256m") != 0)
    return failed("a file system in memory", remedy);
  for (std::size_t i = 0; i < covers.size(); ++i) {
    if (!write_file(staging + ("/" + std::to_string(i)), covers[i].content, O_CREAT | O_EXCL))
      return failed("a copy of " + covers[i].file.string());
  }
  if (::mount(nullptr, staging, nullptr, MS_REMOUNT | MS_RDONLY | harmless, nullptr) != 0)
    return failed("a file system in memory", remedy);
  for (std::size_t i = 0; i < covers.size(); ++i) {
    const std::string copy = staging + ("/" + std::to_string(i));
    const std::string place = "/proc/self/fd/" + std::to_string(covers[i].place.get());
    if (::mount(copy.c_str(), place.c_str(), nullptr, MS_BIND, nullptr) != 0)
      return failed("covering " + covers[i].file.string(), remedy);
  }
  if (::umount2(staging, MNT_DETACH) != 0) return failed("a file system in memory");
  return {};
}

}  // namespace

std::expected<TrustMounts, Error> cover_trust_stores(std::span<const fs::path> files,
                                                     std::string_view roots_pem) {
  TrustMounts result;
  auto covers = merge(files, roots_pem, result);
  const auto lost = missing_in_bounding_set();
  bool own_user_namespace = false;
  if (::unshare(CLONE_NEWNS) != 0) {
    if (errno != EPERM || ::geteuid() == 0)
      return failed("a private mount namespace", "it needs CAP_SYS_ADMIN: use --inject env");
    if (auto entered = enter_user_namespace(); !entered) return std::unexpected(entered.error());
    own_user_namespace = true;
  }
  if (auto mounted = mount_all(covers); !mounted) return std::unexpected(mounted.error());
  if (own_user_namespace && !drop_capabilities(lost)) return failed("giving up capabilities");
  result.covered = covers.size();
  return result;
}

}  // namespace weir::agent
