// What the tests of this room share: a directory of their own, a fresh key, and a program's output.
#pragma once

#include <gtest/gtest.h>
#include <openssl/core_names.h>
#include <openssl/ec.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <array>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>

#include "ca/ca.h"
#include "ca/openssl.h"

namespace weir::ca::test {

namespace fs = std::filesystem;

class TemporaryDirectory {
 public:
  TemporaryDirectory() {
    std::string pattern = (fs::temp_directory_path() / "weir-ca-XXXXXX").string();
    path_ = mkdtemp(pattern.data());
  }
  TemporaryDirectory(const TemporaryDirectory&) = delete;
  TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;
  ~TemporaryDirectory() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  const fs::path& path() const { return path_; }

 private:
  fs::path path_;
};

inline std::string read_file(const fs::path& file) {
  std::ifstream in(file, std::ios::binary);
  std::ostringstream out;
  out << in.rdbuf();
  return out.str();
}

inline void write_file(const fs::path& file, std::string_view content, mode_t mode = 0644) {
  std::ofstream(file, std::ios::binary) << content;
  chmod(file.c_str(), mode);
}

inline mode_t mode_of(const fs::path& file) {
  struct stat status{};
  return lstat(file.c_str(), &status) == 0 ? status.st_mode & 07777 : 0;
}

struct Output {
  int status = -1;
  std::string text;
};

// Standard output alone.
inline Output run(const std::string& command) {
  FILE* pipe = popen(command.c_str(), "r");
  Output output;
  std::array<char, 4096> buffer{};
  for (std::size_t got; (got = fread(buffer.data(), 1, buffer.size(), pipe)) > 0;)
    output.text.append(buffer.data(), got);
  const int status = pclose(pipe);
  output.status = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  return output;
}

inline KeyPtr new_key() {
  return KeyPtr(EVP_EC_gen("P-256"));
}

inline PublicPoint point_of(EVP_PKEY* key) {
  PublicPoint point{};
  std::size_t size = 0;
  EXPECT_EQ(EVP_PKEY_get_octet_string_param(key, OSSL_PKEY_PARAM_PUB_KEY, point.data(), point.size(), &size),
            1);
  EXPECT_EQ(size, point.size());
  return point;
}

}  // namespace weir::ca::test
