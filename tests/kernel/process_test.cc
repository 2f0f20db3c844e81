// Processes as the tracepoints and the iterators tell them, compared with /proc. Needs root.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <memory>

#include "bpf/mappings.h"
#include "tests/kernel/support.h"

namespace weir::test {
namespace {

using What = ProcessEvent::What;

class Processes : public ::testing::Test {
 protected:
  static void SetUpTestSuite() { tap_ = new Tap; }
  static void TearDownTestSuite() { delete tap_; }

  std::vector<const ProcessEvent*> told(std::uint32_t pid, What what) {
    return tap_->events().all<ProcessEvent>(
        [=](const auto& event) { return event.process.pid == pid && event.what == what; });
  }
  static inline Tap* tap_;
};

std::string executable_of(std::uint32_t pid) {
  return std::filesystem::read_symlink("/proc/" + std::to_string(pid) + "/exe").string();
}

TEST_F(Processes, AreToldFromForkToExit) {
  Child child({"cat", "-u", "-"});
  const std::uint32_t pid = child.pid();
  ASSERT_TRUE(tap_->wait_for([&] { return !told(pid, What::execed).empty(); }));
  const std::string executable = executable_of(pid);
  child.finish();
  ASSERT_TRUE(tap_->wait_for([&] { return !told(pid, What::exited).empty(); }));

  ASSERT_EQ(told(pid, What::started).size(), 1u);
  EXPECT_EQ(told(pid, What::started)[0]->parent.pid, static_cast<std::uint32_t>(::getpid()));
  ASSERT_EQ(told(pid, What::execed).size(), 1u);
  const auto& execed = *told(pid, What::execed)[0];
  EXPECT_EQ(execed.executable_path, executable);
  EXPECT_EQ(execed.arguments, (std::vector<std::string>{"cat", "-u", "-"}));
  EXPECT_FALSE(execed.arguments_truncated);
  EXPECT_EQ(execed.uid, ::getuid());
  EXPECT_EQ(execed.inner_pid, pid);
  EXPECT_EQ(execed.cgroup_path, "0::/test");
  EXPECT_NE(execed.network_namespace_cookie, 0u);
  EXPECT_EQ(told(pid, What::started)[0]->exec_id + 1, execed.exec_id);
  EXPECT_EQ(told(pid, What::exited).size(), 1u);
  EXPECT_EQ(told(pid, What::started)[0]->process, execed.process);
  EXPECT_EQ(told(pid, What::exited)[0]->process, execed.process);
}

TEST_F(Processes, PathsCrossMountPoints) {
  const TemporaryDirectory directory;
  const std::string inside = directory.path().string() + "/a/mount";
  std::filesystem::create_directories(inside);
  // In a chroot the root is no mount point, and its propagation can't be changed.
  const bool own_root = std::system("unshare -m true 2>/dev/null") == 0;
  const std::string propagation = own_root ? "private" : "unchanged";
  Child child({"unshare", "-m", "--propagation", propagation, "sh", "-c",
               "mount -t tmpfs none " + inside + " && mkdir " + inside + "/deep && cp /bin/cat " + inside +
                   "/deep/ && exec " + inside + "/deep/cat"});
  const std::string expected = inside + "/deep/cat";
  const std::uint32_t pid = child.pid();
  EXPECT_TRUE(tap_->wait_for([&] {
    const auto execs = told(pid, What::execed);
    return !execs.empty() && execs.back()->executable_path == expected;
  }));
  // In a chroot the link may show what lies above the root, too.
  EXPECT_TRUE(executable_of(pid).ends_with(expected)) << executable_of(pid);
}

TEST_F(Processes, ArgumentsThatAreTooLongAreSaidToBeCut) {
  Child child({"true", std::string(100'000, 'x')});
  const std::uint32_t pid = child.pid();
  child.finish();
  ASSERT_TRUE(tap_->wait_for([&] { return !told(pid, What::execed).empty(); }));
  const auto& execed = *told(pid, What::execed)[0];
  EXPECT_TRUE(execed.arguments_truncated);
  ASSERT_EQ(execed.arguments.size(), 2u);
  EXPECT_EQ(execed.arguments[0], "true");
  EXPECT_GT(execed.arguments[1].size(), 2000u);
}

TEST_F(Processes, ThatWereThereBeforeAreSeen) {
  const auto iterator = tap_->kernel().open_task_iterator();
  ASSERT_TRUE(iterator) << iterator.error().what;
  const auto count = tap_->source().seed_processes(*iterator);
  ::close(*iterator);
  ASSERT_TRUE(count);
  const std::uint32_t pid = static_cast<std::uint32_t>(::getpid());
  const auto seen = told(pid, What::seen);
  ASSERT_EQ(seen.size(), 1u);
  EXPECT_EQ(seen[0]->executable_path, executable_of(pid));
  EXPECT_EQ(seen[0]->parent.pid, static_cast<std::uint32_t>(::getppid()));
  ASSERT_FALSE(seen[0]->arguments.empty());
  EXPECT_EQ(told(static_cast<std::uint32_t>(::getppid()), What::seen).size(), 1u);
}

TEST_F(Processes, MappingsNameTheFile) {
  struct stat self{};
  ASSERT_EQ(::stat("/proc/self/exe", &self), 0);
  const auto iterator = tap_->kernel().open_mapping_iterator(0);
  ASSERT_TRUE(iterator) << iterator.error().what;
  int found = 0;
  const auto address = reinterpret_cast<std::uint64_t>(&executable_of);
  ASSERT_TRUE(bpf::read_mappings(*iterator, [&](const bpf::Mapping& mapping) {
    if (mapping.pid != static_cast<std::uint32_t>(::getpid()) || mapping.file.inode != self.st_ino) return;
    EXPECT_EQ(mapping.file.device, self.st_dev);
    EXPECT_EQ(mapping.name, std::filesystem::path(executable_of(mapping.pid)).filename());
    EXPECT_LE(mapping.start, address);
    EXPECT_GT(mapping.end, address);
    ++found;
  }));
  ::close(*iterator);
  EXPECT_EQ(found, 1);
}

// Nobody reads meanwhile: the later children find no room in the ring, and are found among the tasks.
TEST(FullRing, LosesNoProcessThatLives) {
  bpf::LoadOptions small;
  small.ring_bytes = 4096;
  Tap tap(small);
  std::vector<std::unique_ptr<Child>> children;
  while (tap.source().counters().untold_processes < 10) {
    children.push_back(std::make_unique<Child>(std::vector<std::string>{"/bin/cat"}));
    ASSERT_LT(children.size(), 1000u);
  }
  ASSERT_TRUE(tap.wait_for([&] { return tap.source().counters().records > 0; }));
  const auto iterator = tap.kernel().open_task_iterator();
  ASSERT_TRUE(iterator);
  ASSERT_TRUE(tap.source().look_at_processes_again(*iterator));
  ::close(*iterator);
  while (tap.source().poll(std::chrono::milliseconds(0)) > 0) {
  }
  for (const auto& child : children) {
    const auto seen = tap.events().all<ProcessEvent>([&](const auto& event) {
      return event.process.pid == child->pid() && event.what == ProcessEvent::What::seen;
    });
    ASSERT_EQ(seen.size(), 1u);
    EXPECT_TRUE(seen[0]->executable_path.ends_with("/cat")) << seen[0]->executable_path;
  }
}

}  // namespace
}  // namespace weir::test
