// Who is passed through, from when and until when.
#include "proxy/rejections.h"

#include <gtest/gtest.h>

namespace weir::proxy {
namespace {

using namespace std::chrono_literals;

const Rejections::Who kPinned{"/usr/bin/pinned", "", "bank.test"};
const Rejections::Clock::time_point kNow{1000s};

Rejections make() {
  return Rejections({.most = 3, .passed_for = 60s, .entries = 2});
}

void reject(Rejections& rejections, const Rejections::Who& who, int times) {
  for (int i = 0; i < times; ++i) rejections.rejected(who, kNow);
}

TEST(Rejections, PassedThroughAfterThreeAndForAWhile) {
  Rejections rejections = make();
  reject(rejections, kPinned, 2);
  EXPECT_FALSE(rejections.passed_until(kPinned, kNow));
  rejections.rejected(kPinned, kNow);
  EXPECT_EQ(rejections.passed_until(kPinned, kNow + 59s), kNow + 60s);
  ASSERT_EQ(rejections.passed(kNow).size(), 1u);
  EXPECT_EQ(rejections.passed(kNow)[0].who, kPinned);
  EXPECT_FALSE(rejections.passed_until(kPinned, kNow + 60s));
  rejections.rejected(kPinned, kNow + 61s);
  EXPECT_FALSE(rejections.passed_until(kPinned, kNow + 62s)) << "it starts afresh";
}

TEST(Rejections, OnlyThatProgramThereAndThatName) {
  Rejections rejections = make();
  reject(rejections, kPinned, 3);
  for (auto change :
       {&Rejections::Who::executable_path, &Rejections::Who::container_id, &Rejections::Who::server_name}) {
    Rejections::Who other = kPinned;
    other.*change += "x";
    EXPECT_FALSE(rejections.passed_until(other, kNow));
  }
}

TEST(Rejections, OneThatTakesItCountsAnew) {
  Rejections rejections = make();
  reject(rejections, kPinned, 2);
  rejections.taken(kPinned);
  reject(rejections, kPinned, 2);
  EXPECT_FALSE(rejections.passed_until(kPinned, kNow));
}

TEST(Rejections, NobodyKnownIsPassedThrough) {
  Rejections rejections = make();
  const Rejections::Who unknown{"", "", "bank.test"};
  reject(rejections, unknown, 5);
  EXPECT_FALSE(rejections.passed_until(unknown, kNow));
  Rejections never({.most = 0});
  reject(never, kPinned, 5);
  EXPECT_FALSE(never.passed_until(kPinned, kNow));
}

TEST(Rejections, TheLeastRecentlyHeardOfIsForgotten) {
  Rejections rejections = make();
  reject(rejections, kPinned, 3);
  rejections.rejected({"/a", "", "x"}, kNow);
  EXPECT_TRUE(rejections.passed_until(kPinned, kNow));
  rejections.rejected({"/b", "", "x"}, kNow);
  EXPECT_TRUE(rejections.passed_until(kPinned, kNow));
  rejections.rejected({"/c", "", "x"}, kNow);
  rejections.rejected({"/d", "", "x"}, kNow);
  EXPECT_FALSE(rejections.passed_until(kPinned, kNow));
}

}  // namespace
}  // namespace weir::proxy
