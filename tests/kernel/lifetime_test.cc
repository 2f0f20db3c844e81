// Nothing of ours outlives its holder: detaching takes the probes down, and the end of the process takes all.
#include <bpf/bpf.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/perf_event.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <set>
#include <stdexcept>
#include <string>
#include <thread>

#include "bpf/self_test.h"
#include "tests/kernel/support.h"

namespace weir::test {
namespace {

// The ids of the BPF links that a process holds, as its descriptors tell.
std::set<std::uint32_t> links_of(const std::string& pid) {
  std::set<std::uint32_t> ids;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/" + pid + "/fdinfo")) {
    std::ifstream file(entry.path());
    for (std::string word; file >> word;)
      if (std::uint32_t id = 0; word == "link_id:" && file >> id) ids.insert(id);
  }
  return ids;
}

bool exists(std::uint32_t link) {
  const int descriptor = bpf_link_get_fd_by_id(link);
  if (descriptor < 0) return errno != ENOENT;
  ::close(descriptor);
  return true;
}

TEST(Lifetime, DetachingTakesTheProbesDown) {
  Tap tap;
  const PrivateLibssl libssl;
  const auto before = links_of("self");
  const int file = libssl.open();
  const auto target = tap.kernel().attach(file, libssl.sites());
  ::close(file);
  ASSERT_TRUE(target) << target.error().what;
  const std::size_t links = default_options().uprobe_multi ? 3 : libssl.sites().size();
  EXPECT_EQ(links_of("self").size(), before.size() + links);
  auto links_now = links_of("self");
  tap.kernel().detach(*target);
  EXPECT_EQ(links_of("self"), before);
  tap.kernel().finish_detaching();
  for (const auto& link : links_now) {
    if (!before.contains(link)) {
      EXPECT_FALSE(exists(link));
    }
  }
}

TEST(Lifetime, AttachingIsAllOrNothing) {
  Tap tap;
  const PrivateLibssl libssl;
  const auto before = links_of("self");
  auto sites = libssl.sites();
  sites.front().offset = std::uint64_t{1} << 40;
  const int file = libssl.open();
  EXPECT_FALSE(tap.kernel().attach(file, sites));
  EXPECT_FALSE(tap.kernel().attach(file, {}));
  ::close(file);
  EXPECT_EQ(links_of("self"), before);
}

TEST(Lifetime, AKilledHolderLeavesNothing) {
  const PrivateLibssl libssl;
  int ready[2];
  ASSERT_EQ(::pipe2(ready, O_CLOEXEC), 0);
  const pid_t holder = ::fork();
  ASSERT_GE(holder, 0);
  if (holder == 0) {
    Tap tap;
    if (!tap.kernel().attach(libssl.open(), libssl.sites())) ::_exit(1);
    if (::write(ready[1], "x", 1) != 1) ::_exit(1);
    ::pause();
  }
  ::close(ready[1]);
  char byte;
  ASSERT_EQ(::read(ready[0], &byte, 1), 1);
  ::close(ready[0]);
  const auto links = links_of(std::to_string(holder));
  EXPECT_GE(links.size(), 10u);
  ::kill(holder, SIGKILL);
  ::waitpid(holder, nullptr, 0);
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(2);
  for (const auto link : links) {
    while (exists(link) && std::chrono::steady_clock::now() < deadline) ::usleep(10'000);
    EXPECT_FALSE(exists(link)) << link;
  }
}

// On weir's own file, for every process; by perf alone, without a program.
class PerfProbe {
 public:
  explicit PerfProbe(std::uint64_t offset) {
    perf_event_attr attributes{};
    attributes.size = sizeof attributes;
    std::ifstream("/sys/bus/event_source/devices/uprobe/type") >> attributes.type;
    attributes.uprobe_path = reinterpret_cast<std::uintptr_t>("/proc/self/exe");
    attributes.probe_offset = offset;
    event_ = static_cast<int>(::syscall(SYS_perf_event_open, &attributes, -1, 0, -1, PERF_FLAG_FD_CLOEXEC));
    if (event_ < 0) throw std::runtime_error(std::string("perf_event_open: ") + std::strerror(errno));
  }
  ~PerfProbe() { ::close(event_); }
  PerfProbe(const PerfProbe&) = delete;
  PerfProbe& operator=(const PerfProbe&) = delete;

 private:
  int event_;
};

TEST(SelfTest, PassesOnAProgramThatIsLeftAsItIs) {
  EXPECT_TRUE(bpf::run_probed_child());
}

TEST(SelfTest, IsNotDisturbedByAnotherAgents) {
  std::jthread another([](const std::stop_token& stop) {
    while (!stop.stop_requested()) EXPECT_TRUE(bpf::run_probed_child());
  });
  for (int i = 0; i < 3; ++i) EXPECT_NO_THROW(Tap());
}

// Only where the kernel is such a one: elsewhere the probe does no harm, and the test says nothing.
TEST(SelfTest, SeesAProbeThatDamages) {
  const auto nop = bpf::self_test_nop();
  ASSERT_TRUE(nop);
  const PerfProbe probe(*nop);
  const auto result = bpf::run_probed_child();
  if (result) GTEST_SKIP() << "this kernel's probes on a 5-byte nop do no harm";
  EXPECT_EQ(result.error(), "a probed function gives wrong results");
}

}  // namespace
}  // namespace weir::test
