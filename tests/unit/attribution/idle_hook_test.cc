#include "attribution/idle_hook.h"

#include <gtest/gtest.h>

#include <unordered_map>

#include "attribution/sparse_table.h"

namespace weir::test {
namespace {

using std::chrono::milliseconds;

TEST(IdleHook, IsCalledFromTimeToTimeWhileThereIsNothingToDo) {
  int calls = 0;
  IdleHook idle([&] { ++calls; });
  const auto start = IdleHook::Clock::now();
  idle.turn(true, start);
  idle.turn(false, start + IdleHook::kAfter - milliseconds(1));
  EXPECT_EQ(calls, 0);
  idle.turn(false, start + IdleHook::kAfter);
  idle.turn(false, start + IdleHook::kAfter + milliseconds(1));
  EXPECT_EQ(calls, 1);
  idle.turn(false, start + 2 * IdleHook::kAfter);
  EXPECT_EQ(calls, 2);
}

TEST(IdleHook, WorkPutsItOff) {
  int calls = 0;
  IdleHook idle([&] { ++calls; });
  const auto start = IdleHook::Clock::now();
  for (int i = 0; i < 100; ++i) idle.turn(i % 10 == 0, start + i * IdleHook::kAfter / 20);
  EXPECT_EQ(calls, 0);
}

TEST(SparseTable, AnEmptiedTableGivesItsBucketsBackAndKeepsItsEntries) {
  std::unordered_map<int, int> table;
  for (int i = 0; i < 100'000; ++i) table[i] = i;
  for (int i = 10; i < 100'000; ++i) {
    table.erase(i);
    shrink_if_sparse(table);
  }
  EXPECT_LE(table.bucket_count(), 1'200U);
  ASSERT_EQ(table.size(), 10U);
  for (int i = 0; i < 10; ++i) EXPECT_EQ(table.at(i), i);
}

}  // namespace
}  // namespace weir::test
