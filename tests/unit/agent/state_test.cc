// The state directory: whose it is, and what an earlier worker left in it.
#include "agent/state.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
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

TEST_F(StateDirectory, WhatStandsForSomethingElsewhereIsNotGiven) {
  {
    ASSERT_TRUE(open_state(state_, earlier_));
  }
  const auto elsewhere = state_.path / "roots-own";
  leave(elsewhere, 0);
  std::filesystem::create_symlink(elsewhere, state_.database());
  const auto through_link = open_state(state_, later_);
  ASSERT_FALSE(through_link);
  EXPECT_NE(through_link.error().what.find("weir.db"), std::string::npos) << through_link.error().what;
  std::filesystem::remove(state_.database());
  std::filesystem::create_hard_link(elsewhere, state_.database());
  EXPECT_FALSE(open_state(state_, later_));
  EXPECT_EQ(owner_of(elsewhere), 0u);
}

}  // namespace
}  // namespace weir::agent
