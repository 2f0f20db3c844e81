// Looking and putting back. Never follows a link.
#include "agent/host_files.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <system_error>

#include "ca/files.h"

namespace weir::agent {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t largest_file = std::size_t{16} << 20;
constexpr std::size_t most_bytes = std::size_t{128} << 20;
constexpr std::size_t most_files = 20'000;

std::unexpected<Error> failed(const fs::path& file, const std::string& why, const std::string& remedy = "") {
  return std::unexpected(Error{file.string() + ": " + why, remedy});
}

std::expected<std::string, Error> read(const fs::path& file, const ca::ReadRules& rules) {
  auto content = ca::read_checked(file, rules);
  if (!content) return std::unexpected(to_error(content.error()));
  return std::move(*content);
}

class Look {
 public:
  explicit Look(const fs::path& copies) : copies_(copies) {}

  std::expected<void, Error> at(const fs::path& path) {
    struct stat status{};
    if (::lstat(path.c_str(), &status) != 0) return {};
    if (S_ISDIR(status.st_mode)) return at_all_in(path);
    if (found_.size() >= most_files) return failed(path, "one of too many files to be remembered");
    HostFile file{S_ISLNK(status.st_mode), "", status.st_mode & 07777, status.st_uid, status.st_gid};
    if (file.is_link) {
      std::error_code error;
      file.content = fs::read_symlink(path, error);
    } else if (S_ISREG(status.st_mode)) {
      auto content = read_host_file(path);
      if (!content) return std::unexpected(content.error());
      if ((bytes_ += content->size()) > most_bytes) return failed(path, "too much to be remembered");
      file.content = ca::sha256_hex(*content);
      if (auto kept = keep(file.content, *content); !kept) return kept;
    } else {
      return {};
    }
    found_.emplace(path.string(), std::move(file));
    return {};
  }

  HostFiles take() { return std::move(found_); }

 private:
  std::expected<void, Error> at_all_in(const fs::path& directory) {
    std::error_code error;
    for (fs::directory_iterator entry(directory, error), end; !error && entry != end; entry.increment(error))
      if (auto done = at(entry->path()); !done) return done;
    if (error) return failed(directory, error.message());
    return {};
  }

  std::expected<void, Error> keep(const std::string& name, const std::string& content) const {
    if (copies_.empty() || ca::is_present(copies_ / name)) return {};
    auto written = ca::publish(copies_ / name, content, 0600, ca::Existing::replace);
    if (!written) return std::unexpected(to_error(written.error()));
    return {};
  }

  const fs::path& copies_;
  HostFiles found_;
  std::size_t bytes_ = 0;
};

}  // namespace

std::expected<HostFiles, Error> look_at_host_files(std::span<const fs::path> places, const fs::path& copies) {
  Look look(copies);
  for (const fs::path& place : places)
    if (auto done = look.at(place); !done) return std::unexpected(done.error());
  return look.take();
}

std::expected<std::string, Error> read_host_file(const fs::path& file) {
  return read(file, {.limit = largest_file, .forbidden_bits = 0, .anyone_may_own = true});
}

std::expected<std::string, Error> read_own_host_file(const fs::path& file) {
  return read(file, {.limit = largest_file, .forbidden_bits = 0022, .root_may_own = true});
}

std::expected<void, Error> write_host_file(const fs::path& path, const HostFile& like,
                                           std::string_view content) {
  auto written = ca::publish(path, content, like.mode, ca::Existing::replace);
  if (!written) return std::unexpected(to_error(written.error()));
  if (like.user == ::geteuid() && like.group == ::getegid()) return {};
  // The directory may be another's, who could have put something else there by now.
  const ca::Descriptor fd(::open(path.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
  struct stat status{};
  if (fd.get() < 0 || ::fstat(fd.get(), &status) != 0 || !S_ISREG(status.st_mode) || status.st_nlink != 1 ||
      ::fchown(fd.get(), like.user, like.group) != 0 || ::fchmod(fd.get(), like.mode) != 0)
    return failed(path, "can't be given its owner back");
  return {};
}

std::expected<void, Error> put_back(const fs::path& path, const HostFile& file, const fs::path& copies) {
  if (!file.is_link) {
    auto content = read_host_file(copies / file.content);
    if (!content) return std::unexpected(content.error());
    return write_host_file(path, file, *content);
  }
  std::error_code error;
  fs::remove(path, error);
  fs::create_symlink(file.content, path, error);
  if (error) return failed(path, error.message());
  return {};
}

}  // namespace weir::agent
