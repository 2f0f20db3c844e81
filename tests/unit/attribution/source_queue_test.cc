#include "attribution/source_queue.h"

#include <gtest/gtest.h>

namespace weir::test {
namespace {

TEST(SourceQueue, GivesBackTheRoomOfABurst) {
  SourceQueue queue(100'000, 1 << 20);
  std::vector<Event> batch;
  for (int i = 0; i < 10'000; ++i) queue.push(ProcessEvent{});
  queue.take(batch);
  ASSERT_EQ(batch.size(), 10'000U);
  // Two vectors take turns as the queue and as the batch.
  for (int i = 0; i < 4; ++i) {
    batch.clear();
    queue.take(batch);
    if (i >= 2) {
      EXPECT_EQ(batch.capacity(), 0U);
    }
  }
}

TEST(SourceQueue, KeepsSomeRoomWhileEventsCome) {
  SourceQueue queue(100'000, 1 << 20);
  std::vector<Event> batch;
  for (int i = 0; i < 10; ++i) {
    queue.push(ProcessEvent{});
    batch.clear();
    queue.take(batch);
    EXPECT_EQ(batch.size(), 1U);
    EXPECT_GT(batch.capacity(), 0U);
  }
}

}  // namespace
}  // namespace weir::test
