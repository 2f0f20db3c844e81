// What lies in some directories of the host, remembered so that it can be brought back: each link's target,
// each file's content by its SHA-256. Copies of contents are kept in a directory under that name.
#pragma once

#include <sys/types.h>

#include <expected>
#include <filesystem>
#include <map>
#include <span>
#include <string>

#include "agent/error.h"

namespace weir::agent {

struct HostFile {
  bool is_link = false;
  std::string content;  // a link's target, or the SHA-256 in hex
  mode_t mode = 0;
  uid_t user = 0;
  gid_t group = 0;
  bool operator==(const HostFile&) const = default;
};
using HostFiles = std::map<std::string, HostFile>;  // by absolute path

// Regular files (up to 16 MiB each, 128 MiB in all) and links under `places`, which are directories or files;
// what is missing is passed over. Contents that `copies` has not are copied there, unless that is empty.
std::expected<HostFiles, Error> look_at_host_files(std::span<const std::filesystem::path> places,
                                                   const std::filesystem::path& copies);

// A file that is only copied may be anybody's.
std::expected<std::string, Error> read_host_file(const std::filesystem::path& file);
// One that is taken apart must be the caller's or root's, and nobody else's to write.
std::expected<std::string, Error> read_own_host_file(const std::filesystem::path& file);

// Puts it at `path`, with its mode and owner, whole or not at all; what is there is replaced.
std::expected<void, Error> put_back(const std::filesystem::path& path, const HostFile& file,
                                    const std::filesystem::path& copies);
std::expected<void, Error> write_host_file(const std::filesystem::path& path, const HostFile& like,
                                           std::string_view content);

}  // namespace weir::agent
