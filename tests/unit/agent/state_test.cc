// The state directory: whose it is, and what an earlier worker left in it.
#include "agent/state.h"

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>

namespace weir::agent {
namespace {

class StateDirectory : public testing::Test {
 protected:
  void SetUp() override {
    if (::geteuid() != 0) GTEST_SKIP() << "only root gives files to others";
    char name[] = "/tmp/weir-state-XXXXXX";
    ASSERT_NE(::mkdtemp(name), nullptr);
    state_.path = name;
  }
  void TearDown() override {
    if (!state_.path.empty()) std::filesystem::remove_all(state_.path);
  }

  // As an earlier worker of that user would have left it.
  void leave(const std::filesystem::path& file, uid_t user) {
    std::ofstream(file) << "kept";
    ASSERT_EQ(::chown(file.c_str(), user, user), 0);
  }
  static uid_t owner_of(const std::filesystem::path& file) {
    struct stat status{};
    EXPECT_EQ(::lstat(file.c_str(), &status), 0);
    return status.st_uid;
  }

  StateDir state_;
  const WorkerUser earlier_{61200, 61200};
  const WorkerUser later_{61201, 61201};
};

TEST_F(StateDirectory, AnotherWorkerUserGetsWhatTheEarlierOneMade) {
  {
    ASSERT_TRUE(open_state(state_, earlier_));
  }
  leave(state_.database(), earlier_.uid);
  leave(state_.api_token(), earlier_.uid);
  ASSERT_TRUE(open_state(state_, later_));
  EXPECT_EQ(owner_of(state_.database()), later_.uid);
  EXPECT_EQ(owner_of(state_.api_token()), later_.uid);
  std::string content;
  std::ifstream(state_.database()) >> content;
  EXPECT_EQ(content, "kept");
}

TEST_F(StateDirectory, OnlyAnEarlierWorkersOwnFilesAreGiven) {
  {
    ASSERT_TRUE(open_state(state_, earlier_));
  }
  const auto elsewhere = state_.path / "elsewhere";
  leave(elsewhere, earlier_.uid);
  std::filesystem::create_hard_link(elsewhere, state_.database());
  const auto linked = open_state(state_, later_);
  ASSERT_FALSE(linked);
  EXPECT_NE(linked.error().what.find("weir.db"), std::string::npos) << linked.error().what;
  EXPECT_EQ(owner_of(elsewhere), earlier_.uid);

  std::filesystem::remove(state_.database());
  leave(state_.database(), 1000);
  EXPECT_FALSE(open_state(state_, later_));
  EXPECT_EQ(owner_of(state_.database()), 1000u);

  // root's own: a link to a larger disk, for one.
  std::filesystem::remove(state_.database());
  std::filesystem::create_symlink(elsewhere, state_.database());
  EXPECT_TRUE(open_state(state_, later_));
  EXPECT_EQ(owner_of(state_.database()), 0u);
}

TEST_F(StateDirectory, NobodyElseCanHoldItsLock) {
  {
    ASSERT_TRUE(open_state(state_, earlier_));
  }
  EXPECT_EQ(std::filesystem::status(state_.lock()).permissions(), std::filesystem::perms(0600));
}

TEST_F(StateDirectory, AnAgentThatRunsKeepsAnotherAway) {
  const auto held = open_state(state_, earlier_);
  ASSERT_TRUE(held);
  const auto second = open_state(state_, earlier_);
  ASSERT_FALSE(second);
  EXPECT_NE(second.error().what.find("pid " + std::to_string(::getpid())), std::string::npos)
      << second.error().what;
}

// What it was about to start holds the lock for longer than an agent that runs is waited for.
TEST_F(StateDirectory, AnAgentThatWasKilledIsWaitedFor) {
  const pid_t killed = ::fork();
  if (killed == 0) {
    const auto held = open_state(state_, earlier_);
    if (held && ::fork() == 0) ::poll(nullptr, 0, 500);
    ::_exit(held ? 0 : 1);
  }
  int status = -1;
  ASSERT_EQ(::waitpid(killed, &status, 0), killed);
  ASSERT_EQ(status, 0);
  EXPECT_TRUE(open_state(state_, earlier_));
}

}  // namespace
}  // namespace weir::agent
