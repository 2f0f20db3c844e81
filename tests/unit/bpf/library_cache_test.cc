// What is remembered of a file serves that file as long as nobody has written to it, and nothing else.
#include "bpf/probes/library_cache.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <set>
#include <tuple>

#include "tests/unit/bpf/probe_files.h"

namespace weir::bpf {
namespace {

std::set<std::tuple<std::uint32_t, std::uint64_t, std::uint64_t>> sites_in(
    const std::vector<FoundLibrary>& libraries) {
  std::set<std::tuple<std::uint32_t, std::uint64_t, std::uint64_t>> sites;
  for (const FoundLibrary& library : libraries)
    for (const ProbeSite& site : library.sites) sites.emplace(site.program, site.offset, site.cookie);
  return sites;
}

class LibraryCacheTest : public ::testing::Test {
 protected:
  // Whether it was spared a search; its answer is the search's either way.
  bool is_hit(const MemoryFile& file) {
    const auto before = cache_.hits();
    const auto libraries = cache_.find(file.get());
    const auto searched = find_tls_libraries(file.get());
    EXPECT_TRUE(libraries && searched);
    EXPECT_EQ(sites_in(*libraries), sites_in(*searched));
    return cache_.hits() != before;
  }

  LibraryCache cache_{2};
  const std::string contents_ = contents_of("/usr/lib/x86_64-linux-gnu/libssl.so.3");
};

TEST_F(LibraryCacheTest, AFileIsSearchedOnce) {
  const MemoryFile ssl(contents_);
  const MemoryFile ls(contents_of("/bin/ls"));
  EXPECT_FALSE(is_hit(ssl));
  EXPECT_TRUE(is_hit(ssl));
  EXPECT_FALSE(is_hit(ls));
  EXPECT_TRUE(is_hit(ls));
}

// A copy may have been made to be taken for it.
TEST_F(LibraryCacheTest, ACopyIsAnotherFile) {
  const MemoryFile ssl(contents_);
  const MemoryFile copy(contents_);
  EXPECT_FALSE(is_hit(ssl));
  EXPECT_FALSE(is_hit(copy));
}

TEST_F(LibraryCacheTest, OneThatWasWrittenToIsSearchedAgain) {
  const MemoryFile ssl(contents_);
  EXPECT_FALSE(is_hit(ssl));
  // The name of a function that is probed, wherever it stands.
  for (std::size_t at = 0; (at = contents_.find("SSL_write_ex", at)) != std::string::npos; ++at)
    ASSERT_EQ(::pwrite(ssl.get(), "X", 1, static_cast<off_t>(at)), 1);
  EXPECT_FALSE(is_hit(ssl));
}

TEST_F(LibraryCacheTest, TheOneNotUsedForLongestMakesRoom) {
  const MemoryFile ssl(contents_);
  const MemoryFile ls(contents_of("/bin/ls"));
  const MemoryFile cat(contents_of("/bin/cat"));
  EXPECT_FALSE(is_hit(ssl));
  EXPECT_FALSE(is_hit(ls));
  EXPECT_TRUE(is_hit(ssl));
  EXPECT_FALSE(is_hit(cat));
  EXPECT_EQ(cache_.size(), 2u);
  EXPECT_TRUE(is_hit(ssl));
  EXPECT_FALSE(is_hit(ls));
}

TEST_F(LibraryCacheTest, WhatIsNoProgramIsRefused) {
  const MemoryFile script("#!/bin/sh\n");
  EXPECT_FALSE(cache_.find(script.get()));
  EXPECT_EQ(cache_.size(), 0u);
}

}  // namespace
}  // namespace weir::bpf
