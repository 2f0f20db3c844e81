// What is remembered of a file serves a copy of it, and nothing else.
#include "bpf/probes/library_cache.h"

#include <gtest/gtest.h>

#include <tuple>

#include "tests/unit/bpf/probe_files.h"

namespace weir::bpf {
namespace {

std::vector<std::tuple<std::uint32_t, std::uint64_t, std::uint64_t>> sites_in(
    const std::vector<FoundLibrary>& libraries) {
  std::vector<std::tuple<std::uint32_t, std::uint64_t, std::uint64_t>> sites;
  for (const FoundLibrary& library : libraries)
    for (const ProbeSite& site : library.sites) sites.emplace_back(site.program, site.offset, site.cookie);
  return sites;
}

class LibraryCacheTest : public ::testing::Test {
 protected:
  // Whether it was spared a search; its answer is the search's either way.
  bool is_hit(const std::string& contents) {
    const MemoryFile file(contents);
    const auto before = cache_.hits();
    const auto libraries = cache_.find(file.get());
    EXPECT_TRUE(libraries);
    EXPECT_EQ(sites_in(*libraries), sites_in(libraries_of(contents)));
    return cache_.hits() != before;
  }

  LibraryCache cache_{2};
  const std::string ssl_ = contents_of("/usr/lib/x86_64-linux-gnu/libssl.so.3");
  const std::string ls_ = contents_of("/bin/ls");
};

TEST_F(LibraryCacheTest, ACopyIsNotSearchedAgain) {
  EXPECT_FALSE(is_hit(ssl_));
  EXPECT_TRUE(is_hit(ssl_));
  EXPECT_FALSE(is_hit(ls_));
  EXPECT_TRUE(is_hit(ls_));
}

TEST_F(LibraryCacheTest, OneThatWasPatchedWhereItIsProbedIs) {
  EXPECT_FALSE(is_hit(ssl_));
  const auto libraries = libraries_of(ssl_);
  for (const ProbeSite& site : libraries.front().sites) {
    std::string patched = ssl_;
    patched[site.offset] = static_cast<char>(patched[site.offset] ^ 1);
    EXPECT_FALSE(is_hit(patched)) << site.offset;
    (void)is_hit(ssl_);  // the answer must not be the patched one's
  }
}

TEST_F(LibraryCacheTest, OneOfAnotherLengthOrWithOtherHeadersIs) {
  EXPECT_FALSE(is_hit(ssl_));
  EXPECT_FALSE(is_hit(ssl_ + '\0'));
  std::string other = ssl_;
  other[0x30] = '\x01';  // e_flags
  EXPECT_FALSE(is_hit(other));
}

TEST_F(LibraryCacheTest, GoHasIdsOfItsOwn) {
  const std::string hello = contents_of(probe_target("hello-1.21"));
  EXPECT_FALSE(is_hit(hello));
  EXPECT_TRUE(is_hit(hello));
  EXPECT_FALSE(is_hit(contents_of(probe_target("hello-stripped-1.21"))));
}

TEST_F(LibraryCacheTest, WithoutAnIdItIsSearchedEachTime) {
  std::string nameless = ssl_;
  const auto note = nameless.find(std::string("\x04\0\0\0\x14\0\0\0\x03\0\0\0GNU\0", 16));
  ASSERT_NE(note, std::string::npos);
  nameless[note + 8] = '\x7f';
  EXPECT_FALSE(is_hit(nameless));
  EXPECT_FALSE(is_hit(nameless));
  EXPECT_EQ(cache_.size(), 0u);
}

TEST_F(LibraryCacheTest, TheOneNotUsedForLongestMakesRoom) {
  const std::string cat = contents_of("/bin/cat");
  EXPECT_FALSE(is_hit(ssl_));
  EXPECT_FALSE(is_hit(ls_));
  EXPECT_TRUE(is_hit(ssl_));
  EXPECT_FALSE(is_hit(cat));
  EXPECT_EQ(cache_.size(), 2u);
  EXPECT_TRUE(is_hit(ssl_));
  EXPECT_FALSE(is_hit(ls_));
}

TEST_F(LibraryCacheTest, WhatIsNoProgramIsRefused) {
  const MemoryFile script("#!/bin/sh\n");
  EXPECT_FALSE(cache_.find(script.get()));
}

}  // namespace
}  // namespace weir::bpf
