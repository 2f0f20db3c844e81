// Files that others must not have had their hands in: read with their type, owner and mode checked on the
// open descriptor, published whole or not at all. Never follows a symbolic link unless told, never repairs a
// mode.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <expected>
#include <filesystem>
#include <string>
#include <string_view>

#include "ca/ca.h"

namespace weir::ca {

struct ReadRules {
  std::size_t limit;          // bytes
  mode_t forbidden_bits;      // any of these in the mode refuses the file
  bool follow_links = false;  // of the last component
  bool root_may_own = false;  // besides the caller
  bool anyone_may_own = false;
};

std::string sha256_hex(std::string_view content);

class Descriptor {
 public:
  explicit Descriptor(int fd = -1) : fd_(fd) {}
  Descriptor(Descriptor&& other) noexcept : fd_(other.fd_) { other.fd_ = -1; }
  Descriptor& operator=(Descriptor&&) = delete;
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  ~Descriptor();
  int get() const { return fd_; }

 private:
  int fd_;
};

enum class Existing { keep, replace };

// True also for a dangling symbolic link: something is there.
bool is_present(const std::filesystem::path& file);

std::expected<std::string, Error> read_checked(const std::filesystem::path& file, const ReadRules& rules);

// With Existing::keep a file that is already there is an error and stays as it is.
std::expected<void, Error> publish(const std::filesystem::path& file, std::string_view content, mode_t mode,
                                   Existing existing);

// Like publish(replace), but leaves a file alone that holds `content` with `mode` already.
std::expected<void, Error> publish_if_changed(const std::filesystem::path& file, std::string_view content,
                                              mode_t mode);

// Makes the directory and its parents, as far as they are missing, so that nobody else can write there,
// whatever the umask. That is the process's: for programs that have one thread yet.
std::expected<void, Error> make_directories(const std::filesystem::path& directory);

// Makes the directory (0755, parents too) if it is missing; refuses one that others own or can write.
std::expected<void, Error> prepare_directory(const std::filesystem::path& directory);

// Waits for the directory's lock; held until the descriptor is closed. The file is for the owner alone,
// because whoever can open it could hold the lock for ever.
std::expected<Descriptor, Error> lock_directory(const std::filesystem::path& directory);

}  // namespace weir::ca
