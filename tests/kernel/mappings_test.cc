// What the kernel tells of files that are mapped as code, as it happens and looked at afterwards. Needs root.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <memory>

#include "bpf/mappings.h"
#include "tests/kernel/support.h"

namespace weir::test {
namespace {

constexpr const char* kLibrary = "/usr/lib/x86_64-linux-gnu/libz.so.1";
// Loads its first argument when it is told to, says so, and maps it that many times more.
constexpr const char* kLoader =
    "import sys, ctypes, mmap\n"
    "print('there', flush=True); sys.stdin.readline()\n"
    "ctypes.CDLL(sys.argv[1])\n"
    "file = open(sys.argv[1], 'rb')\n"
    "kept = [mmap.mmap(file.fileno(), 4096, prot=mmap.PROT_READ | mmap.PROT_EXEC, flags=mmap.MAP_PRIVATE)\n"
    "        for _ in range(int(sys.argv[2]))]\n"
    "print('loaded', flush=True); sys.stdin.readline()\n";

std::vector<std::string> loader(const std::filesystem::path& library, int more = 0) {
  return {"/usr/bin/python3", "-c", kLoader, library.string(), std::to_string(more)};
}

// Each processor has a ring of its own, which says by itself what it lost.
std::vector<std::string> on_processor(int processor, std::vector<std::string> command) {
  command.insert(command.begin(), {"/usr/bin/taskset", "--cpu-list", std::to_string(processor)});
  return command;
}

class Mappings : public ::testing::Test {
 protected:
  static void SetUpTestSuite() { tap_ = new Tap; }
  static void TearDownTestSuite() { delete tap_; }

  void SetUp() override {
    std::vector<int> descriptors;
    for (long processor = 0; processor < ::sysconf(_SC_NPROCESSORS_CONF); ++processor) {
      if (const auto events = tap_->kernel().open_mapping_events(static_cast<std::uint32_t>(processor)))
        descriptors.push_back(*events);
    }
    auto watch = bpf::MappingWatch::create(std::move(descriptors));
    ASSERT_TRUE(watch) << watch.error().what;
    watch_ = std::move(*watch);
  }

  // What was told of a process since the last call.
  std::vector<bpf::FileIdentity> told(std::uint32_t pid) {
    std::vector<bpf::FileIdentity> files;
    all_told_ = watch_->read([&](const bpf::Mapped& mapped) {
      if (mapped.pid == pid) files.push_back(mapped.file);
    });
    return files;
  }

  static bpf::FileIdentity identity(const std::filesystem::path& file) {
    const int descriptor = ::open(file.c_str(), O_RDONLY | O_CLOEXEC);
    const auto found = tap_->kernel().identify(descriptor);
    ::close(descriptor);
    return found.value_or(bpf::FileIdentity{});
  }

  // As a look at the process finds it.
  static std::vector<bpf::FileIdentity> mapped(std::uint32_t pid, const std::string& name) {
    std::vector<bpf::FileIdentity> files;
    const auto iterator = tap_->kernel().open_mapping_iterator(pid);
    if (!iterator) return files;
    (void)bpf::read_mappings(*iterator, [&](const bpf::Mapping& mapping) {
      if (mapping.pid == pid && mapping.name == name) files.push_back(mapping.file);
    });
    ::close(*iterator);
    return files;
  }

  static bool contains(const std::vector<bpf::FileIdentity>& files, const bpf::FileIdentity& file) {
    return std::ranges::find(files, file) != files.end();
  }

  static inline Tap* tap_;
  std::unique_ptr<bpf::MappingWatch> watch_;
  bool all_told_ = true;
};

TEST_F(Mappings, ALibraryThatIsLoadedLaterIsTold) {
  const TemporaryDirectory directory;
  const auto library = directory.path() / "late.so";
  std::filesystem::copy_file(kLibrary, library);
  const bpf::FileIdentity file = identity(library);
  Child child(loader(library));
  child.read_line();
  EXPECT_FALSE(contains(told(child.pid()), file));
  child.write_line("load");
  ASSERT_EQ(child.read_line(), "loaded");
  EXPECT_TRUE(contains(told(child.pid()), file));
  EXPECT_TRUE(contains(mapped(child.pid(), "late.so"), file));
}

TEST_F(Mappings, AnInodesNumberThatIsUsedAgainIsAnotherFile) {
  const TemporaryDirectory directory;
  const auto library = directory.path() / "again.so";
  std::filesystem::copy_file(kLibrary, library);
  const bpf::FileIdentity first = identity(library);
  bpf::FileIdentity second;
  for (int tries = 0; tries < 100 && second.inode != first.inode; ++tries) {
    std::filesystem::remove(library);
    std::filesystem::copy_file(kLibrary, library);
    second = identity(library);
  }
  if (second.inode != first.inode) GTEST_SKIP() << "this file system doesn't use inode numbers again";
  EXPECT_NE(second.generation, first.generation);
  Child child(loader(library));
  child.read_line();
  child.write_line("load");
  ASSERT_EQ(child.read_line(), "loaded");
  const auto files = told(child.pid());
  EXPECT_TRUE(contains(files, second));
  EXPECT_FALSE(contains(files, first));
}

TEST_F(Mappings, AFileOfAnotherMountNamespaceIsTold) {
  const TemporaryDirectory directory;
  const auto library = directory.path() / "inner.so";
  const std::string prepare = "mount -t tmpfs none " + directory.path().string() + " && cp " + kLibrary +
                              " " + library.string() + " && exec \"$@\"";
  std::vector<std::string> command{"unshare", "--mount", "/bin/sh", "-c", prepare, "sh"};
  std::ranges::copy(loader(library), std::back_inserter(command));
  Child child(command);
  ASSERT_EQ(child.read_line(), "there");
  (void)told(child.pid());
  child.write_line("load");
  ASSERT_EQ(child.read_line(), "loaded");
  ASSERT_FALSE(std::filesystem::exists(library));
  const auto there = mapped(child.pid(), "inner.so");
  ASSERT_FALSE(there.empty());
  EXPECT_TRUE(contains(told(child.pid()), there.front()));
}

TEST_F(Mappings, WhatIsLostIsSaid) {
  const TemporaryDirectory directory;
  const auto library = directory.path() / "often.so";
  std::filesystem::copy_file(kLibrary, library);
  const int processor = ::sched_getcpu();
  Child child(on_processor(processor, loader(library, 4000)));
  child.read_line();
  (void)told(child.pid());
  EXPECT_TRUE(all_told_);
  child.write_line("load");
  ASSERT_EQ(child.read_line(), "loaded");
  const auto files = told(child.pid());
  EXPECT_LT(files.size(), 4000u);
  EXPECT_FALSE(all_told_);
  // The kernel says it with the next record, too; then all is well again.
  Child another(on_processor(processor, loader(library)));
  another.read_line();
  (void)told(another.pid());
  another.write_line("load");
  ASSERT_EQ(another.read_line(), "loaded");
  EXPECT_TRUE(contains(told(another.pid()), identity(library)));
  EXPECT_TRUE(all_told_);
}

}  // namespace
}  // namespace weir::test
