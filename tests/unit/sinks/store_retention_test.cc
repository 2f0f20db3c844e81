// What leaves the store: the oldest first, by age and by size, in steps, with or without new records.
#include "tests/unit/sinks/store_fixture.h"

namespace weir::sinks {
namespace {

using test::make_record;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::SizeIs;

class StoreRetention : public StoreTest {
 protected:
  static std::int64_t now() {
    return std::chrono::duration_cast<std::chrono::seconds>(
               std::chrono::system_clock::now().time_since_epoch())
        .count();
  }

  // Numbered from 1, a second apart; `size` is about what each takes.
  static std::vector<RecordPtr> records(int count, std::size_t size = 0, std::int64_t first_second = 1) {
    std::vector<RecordPtr> made;
    for (int i = 1; i <= count; ++i) {
      made.push_back(
          make_record({.id = std::to_string(i), .second = first_second + i, .url = std::string(size, 'x')}));
    }
    return made;
  }

  void fill(int count, std::size_t size) { write(*open(), records(count, size)); }
};

TEST_F(StoreRetention, WhatIsTooOldGoesWithoutAnyWrite) {
  const auto sink = open({.max_age = std::chrono::hours(2)});
  write(*sink, {make_record({.id = "ancient", .second = 1}),
                make_record({.id = "old", .second = now() - 2 * 3600 - 60}),
                make_record({.id = "young", .second = now() - 2 * 3600 + 600})});
  EXPECT_THAT(lines(), SizeIs(3));
  tidy(*sink);
  ASSERT_THAT(lines(), SizeIs(1));
  EXPECT_THAT(lines().front(), HasSubstr("\"young\""));
  EXPECT_EQ(sink->removed(), 2u);
}

TEST_F(StoreRetention, NothingIsTooOldWithoutAnAge) {
  const auto sink = open();
  write(*sink, records(10));
  EXPECT_EQ(tidy(*sink), 1);
  EXPECT_THAT(lines(), SizeIs(10));
  EXPECT_EQ(sink->removed(), 0u);
}

TEST_F(StoreRetention, MuchGoesInStepsBetweenWhichIsWritten) {
  fill(60'000, 0);
  const auto sink = open({.max_age = std::chrono::hours(1)});
  const auto first = sink->tidy();
  ASSERT_TRUE(first);
  EXPECT_EQ(first->count(), 0) << "all of it in one step";
  EXPECT_GT(sink->removed(), 0u);
  EXPECT_LT(sink->removed(), 60'000u);
  EXPECT_EQ(run_sql("SELECT min(timestamp_ns) / 1000000000 FROM records"),
            std::to_string(2 + sink->removed()));
  write(*sink, {make_record({.id = "new", .second = now()})});
  tidy(*sink);
  EXPECT_THAT(lines(), SizeIs(1));
  EXPECT_EQ(sink->removed(), 60'000u);
}

TEST_F(StoreRetention, TheOldestMakeRoomBeyondTheSize) {
  const auto sink = open({.max_bytes = 400'000});
  for (int i = 1; i <= 200; ++i) {
    write(*sink, {make_record({.id = std::to_string(i), .second = i, .url = std::string(10'000, 'x')})});
  }
  const auto kept = lines();
  EXPECT_LT(kept.size(), 45u);
  ASSERT_GT(kept.size(), 10u);
  EXPECT_THAT(kept.back(), HasSubstr("\"200\""));
  EXPECT_EQ(sink->removed(), 200 - kept.size());
}

TEST_F(StoreRetention, ALargeRecordTakesNoMoreWithItThanItsRoom) {
  const auto sink = open({.max_bytes = 12'000'000});
  write(*sink, records(10, 1'000'000));
  write(*sink, {make_record({.id = "new", .second = 99, .url = std::string(3'000'000, 'x')})});
  tidy(*sink);
  EXPECT_THAT(lines(), SizeIs(testing::AllOf(testing::Ge(8u), testing::Le(9u))));
}

TEST_F(StoreRetention, ALoweredLimitIsReachedWithoutAnyWriteAndSpaceGivenBack) {
  fill(80, 1'000'000);
  EXPECT_GT(std::filesystem::file_size(path_), 80'000'000u);
  {
    const auto sink = open({.max_bytes = 3'000'000});
    EXPECT_GT(tidy(*sink), 1);
    ASSERT_THAT(lines(), SizeIs(2));
    EXPECT_THAT(lines().front(), HasSubstr("\"79\""));
  }
  EXPECT_LT(std::filesystem::file_size(path_), 3'000'000u + (std::size_t{17} << 20));
  EXPECT_EQ(run_sql("PRAGMA integrity_check"), "ok");
}

TEST_F(StoreRetention, AWriteIsNotHeldUpByALoweredLimit) {
  fill(80, 1'000'000);
  const auto sink = open({.max_bytes = 3'000'000});
  write(*sink, {make_record({.id = "new", .second = 99, .url = std::string(1'000'000, 'x')})});
  EXPECT_GE(sink->removed(), 2u) << "as much as came, and as much again";
  EXPECT_LE(sink->removed(), 3u);
}

TEST_F(StoreRetention, ARecordThatIsTooLargeLeavesAnEmptyStoreThatWorks) {
  const auto sink = open({.max_bytes = 1'000'000});
  write(*sink, {make_record({.id = "huge", .url = std::string(5'000'000, 'x')})});
  tidy(*sink);
  EXPECT_THAT(lines(), IsEmpty());
  write(*sink, {make_record({.id = "small"})});
  EXPECT_THAT(lines(), SizeIs(1));
}

}  // namespace
}  // namespace weir::sinks
