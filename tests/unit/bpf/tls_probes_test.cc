// Resolving probe sites: on the system's libssl against what the loader says, and on damaged copies of it.
#include "bpf/probes/tls_probes.h"

#include <dlfcn.h>
#include <elf.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <link.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <fstream>
#include <iterator>
#include <set>

#include "bpf/wire.h"

namespace weir::bpf {
namespace {

// An anonymous file with these contents.
class File {
 public:
  explicit File(const std::string& contents) : descriptor_(::memfd_create("elf", MFD_CLOEXEC)) {
    EXPECT_EQ(::write(descriptor_, contents.data(), contents.size()), static_cast<ssize_t>(contents.size()));
  }
  ~File() { ::close(descriptor_); }
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  int get() const { return descriptor_; }

 private:
  int descriptor_;
};

class Libssl : public ::testing::Test {
 protected:
  void SetUp() override {
    handle_ = ::dlopen("libssl.so.3", RTLD_NOW | RTLD_LOCAL);
    if (handle_ == nullptr) GTEST_SKIP() << "no libssl.so.3 here";
    link_map* map = nullptr;
    ASSERT_EQ(::dlinfo(handle_, RTLD_DI_LINKMAP, &map), 0);
    base_ = map->l_addr;
    std::ifstream file(map->l_name, std::ios::binary);
    contents_.assign(std::istreambuf_iterator<char>(file), {});
    ASSERT_FALSE(contents_.empty());
  }
  void TearDown() override {
    if (handle_ != nullptr) ::dlclose(handle_);
  }
  static std::expected<std::vector<ProbeSite>, std::string> resolve(const std::string& contents) {
    const File file(contents);
    return resolve_sites(file.get(), *probes_for_file_name("libssl.so.3"));
  }

  void* handle_ = nullptr;
  std::uintptr_t base_ = 0;
  std::string contents_;
};

TEST_F(Libssl, SitesAreWhereTheLoaderPutsTheFunctions) {
  const auto sites = resolve(contents_);
  ASSERT_TRUE(sites) << sites.error();
  const auto points = probes_for_file_name("libssl.so.3")->points;
  ASSERT_EQ(sites->size(), points.size());
  for (std::size_t i = 0; i < points.size(); ++i) {
    const auto* code = static_cast<const char*>(::dlsym(handle_, std::string(points[i].symbol).c_str()));
    ASSERT_NE(code, nullptr);
    EXPECT_EQ((*sites)[i].program, points[i].program);
    EXPECT_EQ((*sites)[i].cookie, points[i].cookie);
    ASSERT_LT((*sites)[i].offset + 16, contents_.size());
    EXPECT_EQ(std::memcmp(code, contents_.data() + (*sites)[i].offset, 16), 0) << points[i].symbol;
  }
}

TEST_F(Libssl, FilesCutShortAreRefused) {
  for (std::size_t size = 0; size < contents_.size(); size += contents_.size() / 97)
    EXPECT_FALSE(resolve(contents_.substr(0, size))) << size;
}

// Each damaged copy gives an error or sites; it must not crash, hang or allocate without bound.
TEST_F(Libssl, DamagedHeadersDoNoHarm) {
  const auto* header = reinterpret_cast<const Elf64_Ehdr*>(contents_.data());
  const std::pair<std::size_t, std::size_t> regions[] = {
      {0, sizeof(Elf64_Ehdr)},
      {header->e_phoff, header->e_phnum * sizeof(Elf64_Phdr)},
      {header->e_shoff, header->e_shnum * sizeof(Elf64_Shdr)},
  };
  for (const auto& [start, length] : regions) {
    for (std::size_t at = start; at < start + length; at += 3) {
      for (const char value : {'\0', '\x7f', '\xff'}) {
        const char kept = std::exchange(contents_[at], value);
        (void)resolve(contents_);
        contents_[at] = kept;
      }
    }
  }
}

TEST_F(Libssl, AMissingFunctionIsNamed) {
  for (std::size_t at = 0; (at = contents_.find(std::string("\0SSL_write\0", 11), at)) != std::string::npos;)
    contents_[at + 1] = 'X';
  const auto sites = resolve(contents_);
  ASSERT_FALSE(sites);
  EXPECT_EQ(sites.error(), "no function SSL_write");
}

TEST(TlsProbes, OtherFilesAreRefused) {
  for (const auto& contents : {std::string(), std::string("#!/bin/sh\n"), std::string(5000, '\0')}) {
    const File file(contents);
    EXPECT_FALSE(resolve_sites(file.get(), library_probes()[0]));
  }
  EXPECT_EQ(probes_for_file_name("libcrypto.so.3"), nullptr);
  EXPECT_NE(probes_for_file_name("libssl.so.3"), nullptr);
}

TEST(TlsProbes, EveryCallWithAReturnHasBothProbes) {
  for (const auto& library : library_probes()) {
    std::multiset<std::string_view> entered, returned;
    for (const auto& point : library.points) {
      EXPECT_LT(point.program, static_cast<std::uint32_t>(WIRE_UPROBE_PROGRAMS));
      if (point.program == WIRE_TLS_ENTER) entered.insert(point.symbol);
      if (point.program == WIRE_TLS_RETURN) returned.insert(point.symbol);
    }
    EXPECT_EQ(entered, returned);
  }
}

}  // namespace
}  // namespace weir::bpf
