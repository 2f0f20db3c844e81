#include <gtest/gtest.h>

#include "attribution/connection.h"

namespace weir {
namespace {

using std::chrono::seconds;

constexpr Time start{seconds(1'700'000'000)};

TEST(ConnectionTable, RemembersAnEndForAMinute) {
  ConnectionTable table(10);
  table.insert({1}, start);
  table.end({1}, Time::max(), start);
  EXPECT_EQ(table.find({1}), nullptr);
  table.forget_ended(start + seconds(59));
  EXPECT_TRUE(table.ended({1}));
  table.forget_ended(start + seconds(60));
  EXPECT_FALSE(table.ended({1}));
}

TEST(ConnectionTable, RemembersNoMoreThanItsLimitOfEnds) {
  ConnectionTable table(10);
  for (std::uint64_t cookie = 1; cookie <= 70'000; ++cookie) table.end({cookie}, Time::max(), start);
  EXPECT_FALSE(table.ended({1}));
  EXPECT_TRUE(table.ended({70'000}));
}

}  // namespace
}  // namespace weir
