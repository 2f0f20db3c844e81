// Resolving probe sites: on the system's libssl against what the loader says, and on damaged copies of it.
#include "bpf/probes/tls_probes.h"

#include <dlfcn.h>
#include <elf.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <link.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iterator>
#include <set>

#include "bpf/probes/machine_code.h"
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
    if (handle_ == nullptr) FAIL() << "no libssl.so.3: run scripts/setup";
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

// Where in its file the code at an address stands, as the kernel says. (The code itself may differ from the
// file: an agent may have its probes there.)
std::uint64_t mapped_offset(const void* code) {
  const auto address = reinterpret_cast<std::uintptr_t>(code);
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) {
    unsigned long start = 0, end = 0, offset = 0;
    if (std::sscanf(line.c_str(), "%lx-%lx %*s %lx", &start, &end, &offset) != 3) continue;
    if (start <= address && address < end) return address - start + offset;
  }
  return 0;
}

TEST_F(Libssl, SitesAreWhereTheLoaderPutsTheFunctions) {
  const auto sites = resolve(contents_);
  ASSERT_TRUE(sites) << sites.error();
  for (const auto& point : probes_for_file_name("libssl.so.3")->points) {
    const auto* code = ::dlsym(handle_, std::string(point.symbol).c_str());
    ASSERT_NE(code, nullptr);
    const std::uint64_t entry = mapped_offset(code);
    const auto found = std::ranges::find_if(*sites, [&](const ProbeSite& site) {
      return site.program == point.program && site.cookie == point.cookie;
    });
    ASSERT_NE(found, sites->end()) << point.symbol;
    if (point.program != WIRE_TLS_RETURN) {
      EXPECT_EQ(found->offset, entry) << point.symbol;
      continue;
    }
    EXPECT_GT(found->offset, entry) << point.symbol;
    EXPECT_EQ(static_cast<unsigned char>(contents_[found->offset]), 0xc3) << point.symbol;
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

TEST(MachineCode, FindsReturnsAndRefusesOtherWaysOut) {
  using Code = std::vector<std::uint8_t>;
  // test edi,edi; je +1; ret; xor eax,eax; ret
  EXPECT_EQ(find_returns(Code{0x85, 0xff, 0x74, 0x01, 0xc3, 0x31, 0xc0, 0xc3}),
            (std::vector<std::uint64_t>{4, 7}));
  // 0xc3 inside an immediate is no return: mov eax,0xc3c3c3c3; ret
  EXPECT_EQ(find_returns(Code{0xb8, 0xc3, 0xc3, 0xc3, 0xc3, 0xc3}), (std::vector<std::uint64_t>{5}));
  EXPECT_FALSE(find_returns(Code{0xff, 0xe0, 0xc3}));                    // jmp rax
  EXPECT_FALSE(find_returns(Code{0xe9, 0x00, 0x10, 0x00, 0x00, 0xc3}));  // jmp elsewhere
  EXPECT_TRUE(find_returns(Code{0xeb, 0x00, 0xc3}));                     // jmp inside
  EXPECT_FALSE(find_returns(Code{0x90}));
  EXPECT_FALSE(find_returns(Code{0x0f}));  // cut short
  EXPECT_FALSE(find_returns(Code{}));
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
