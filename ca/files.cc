// Checked reading and atomic publishing. Every check is made on the descriptor that is then read, so that the
// file cannot be exchanged in between.
#include "ca/files.h"

#include <fcntl.h>
#include <openssl/evp.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <system_error>
#include <utility>

namespace weir::ca {

namespace fs = std::filesystem;

namespace {

std::unexpected<Error> refuse(const fs::path& file, std::string_view why, std::string remedy = {}) {
  return std::unexpected(Error{file.string() + ": " + std::string(why), std::move(remedy)});
}

std::unexpected<Error> refuse_errno(const fs::path& file, std::string_view doing) {
  const int error = errno;
  if (error == ELOOP || (error == ENOTDIR && fs::is_symlink(fs::symlink_status(file))))
    return refuse(file, "is a symbolic link", "put the real one in its place");
  return refuse(file, std::string(doing) + ": " + std::generic_category().message(error));
}

std::string octal(mode_t mode) {
  std::array<char, 8> text{};
  std::snprintf(text.data(), text.size(), "%04o", static_cast<unsigned>(mode & 07777));
  return text.data();
}

std::expected<void, Error> check_owner(const fs::path& file, const struct stat& status, bool root_may_own) {
  const uid_t caller = ::geteuid();
  if (status.st_uid == caller || (root_may_own && status.st_uid == 0)) return {};
  return refuse(file,
                "belongs to user " + std::to_string(status.st_uid) + ", not to " + std::to_string(caller),
                status.st_uid == 0 ? "run this as root, with sudo"
                                   : "run this as that user, or choose another --state-dir");
}

std::expected<void, Error> check_mode(const fs::path& file, const struct stat& status, mode_t forbidden) {
  if ((status.st_mode & forbidden) == 0) return {};
  const char* danger = (status.st_mode & forbidden & 022) != 0 ? "write" : "read";
  const mode_t safe = status.st_mode & 07777 & ~forbidden;
  return refuse(file, "mode " + octal(status.st_mode) + " lets others " + danger + " it",
                "run: chmod " + octal(safe).substr(1) + " " + file.string());
}

bool write_all(int fd, std::string_view content) {
  while (!content.empty()) {
    const ssize_t written = ::write(fd, content.data(), content.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return false;
    content.remove_prefix(static_cast<std::size_t>(written));
  }
  return true;
}

// One byte more than the file's size is asked for, so that a file that grows meanwhile is noticed.
bool read_all(int fd, std::string& content) {
  std::size_t filled = 0;
  while (filled < content.size()) {
    const ssize_t got = ::read(fd, content.data() + filled, content.size() - filled);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return false;
    if (got == 0) break;
    filled += static_cast<std::size_t>(got);
  }
  content.resize(filled);
  return true;
}

bool put_in_place(const char* temporary, const fs::path& file, Existing existing) {
  if (existing == Existing::replace) return ::rename(temporary, file.c_str()) == 0;
  if (::link(temporary, file.c_str()) != 0) return false;
  ::unlink(temporary);
  return true;
}

void sync_directory(const fs::path& directory) {
  const Descriptor fd(::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (fd.get() >= 0) ::fsync(fd.get());
}

}  // namespace

std::string sha256_hex(std::string_view content) {
  std::array<unsigned char, EVP_MAX_MD_SIZE> digest{};
  unsigned int size = 0;
  EVP_Digest(content.data(), content.size(), digest.data(), &size, EVP_sha256(), nullptr);
  constexpr std::string_view hex = "0123456789abcdef";
  std::string text;
  for (unsigned int i = 0; i < size; ++i) text += {hex[digest[i] >> 4], hex[digest[i] & 15]};
  return text;
}

Descriptor::~Descriptor() {
  if (fd_ >= 0) ::close(fd_);
}

bool is_present(const fs::path& file) {
  struct stat status{};
  return ::lstat(file.c_str(), &status) == 0 || errno != ENOENT;
}

std::expected<std::string, Error> read_checked(const fs::path& file, const ReadRules& rules) {
  // O_NONBLOCK: a FIFO in the file's place must not hang the caller.
  const int flags = O_RDONLY | O_CLOEXEC | O_NONBLOCK | (rules.follow_links ? 0 : O_NOFOLLOW);
  const Descriptor fd(::open(file.c_str(), flags));
  if (fd.get() < 0) return refuse_errno(file, "cannot open it");
  struct stat status{};
  if (::fstat(fd.get(), &status) != 0) return refuse_errno(file, "cannot examine it");
  if (!S_ISREG(status.st_mode)) return refuse(file, "is not a regular file");
  if (auto owner = check_owner(file, status, rules.root_may_own); !owner && !rules.anyone_may_own)
    return std::unexpected(owner.error());
  if (auto mode = check_mode(file, status, rules.forbidden_bits); !mode) return std::unexpected(mode.error());
  const auto size = static_cast<std::size_t>(status.st_size);
  if (size > rules.limit) return refuse(file, "is larger than " + std::to_string(rules.limit) + " bytes");
  std::string content(size + 1, '\0');
  if (!read_all(fd.get(), content)) return refuse_errno(file, "cannot read it");
  if (content.size() != size) return refuse(file, "changed while it was read", "try again");
  return content;
}

std::expected<void, Error> publish(const fs::path& file, std::string_view content, mode_t mode,
                                   Existing existing) {
  std::string temporary = (file.parent_path() / ("." + file.filename().string() + ".XXXXXX")).string();
  const Descriptor fd(::mkostemp(temporary.data(), O_CLOEXEC));
  if (fd.get() < 0) return refuse_errno(file, "cannot write beside it");
  const bool done = write_all(fd.get(), content) && ::fchmod(fd.get(), mode) == 0 && ::fsync(fd.get()) == 0 &&
                    put_in_place(temporary.c_str(), file, existing);
  if (!done) {
    auto error = refuse_errno(file, "cannot write it");
    ::unlink(temporary.c_str());
    return error;
  }
  sync_directory(file.parent_path());
  return {};
}

std::expected<void, Error> publish_if_changed(const fs::path& file, std::string_view content, mode_t mode) {
  struct stat status{};
  const bool same_mode = ::lstat(file.c_str(), &status) == 0 && (status.st_mode & 07777) == mode;
  if (same_mode) {
    const auto present = read_checked(file, {.limit = content.size(), .forbidden_bits = 0});
    if (present && *present == content) return {};
  }
  return publish(file, content, mode, Existing::replace);
}

std::expected<void, Error> make_directories(const fs::path& directory) {
  const mode_t before = ::umask(0022);
  ::umask(before | 0022);
  std::error_code error;
  fs::create_directories(directory, error);
  ::umask(before);
  if (error) return refuse(directory, "cannot make it: " + error.message(), "choose another --state-dir");
  return {};
}

std::expected<void, Error> prepare_directory(const fs::path& directory) {
  if (!is_present(directory)) {
    if (auto made = make_directories(directory); !made) return made;
    ::chmod(directory.c_str(), 0755);
  }
  const Descriptor fd(::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  if (fd.get() < 0) return refuse_errno(directory, "cannot open it");
  struct stat status{};
  if (::fstat(fd.get(), &status) != 0) return refuse_errno(directory, "cannot examine it");
  if (auto owner = check_owner(directory, status, false); !owner) return owner;
  return check_mode(directory, status, 022);
}

std::expected<Descriptor, Error> lock_directory(const fs::path& directory) {
  const fs::path file = directory / "ca.lock";
  Descriptor fd(::open(file.c_str(), O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600));
  if (fd.get() < 0) return refuse_errno(file, "cannot open it");
  while (::flock(fd.get(), LOCK_EX) != 0)
    if (errno != EINTR) return refuse_errno(file, "cannot lock it");
  return fd;
}

}  // namespace weir::ca
