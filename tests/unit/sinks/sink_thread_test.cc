// The queue's promises: nothing waits for the sink, and each record is counted once, as written or as
// dropped.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <future>
#include <mutex>
#include <thread>
#include <vector>

#include "sinks/sink.h"
#include "tests/unit/sinks/support.h"

namespace weir::sinks {
namespace {

using test::make_record;
using testing::ElementsAre;

// What the sink saw, kept by the test because the sink belongs to its thread.
struct Seen {
  std::mutex mutex;
  std::vector<std::string> ids;
  std::promise<void> entered;     // the first write has begun
  std::shared_future<void> gate;  // no write ends before it opens, if it is there
  bool fails = false;
  std::chrono::milliseconds delay{0};
  int steps = 0;              // of upkeep that there are to do, each removes a record
  std::promise<void> tidied;  // there is none left
  bool tidy_fails = false;
};

class FakeSink : public Sink {
 public:
  explicit FakeSink(Seen& seen) : seen_(seen) {}
  std::string name() const override { return "fake"; }
  std::chrono::milliseconds batch_delay() const override { return seen_.delay; }

  std::expected<void, Error> write(std::span<const RecordPtr> batch) override {
    if (!entered_) seen_.entered.set_value();
    entered_ = true;
    if (seen_.gate.valid()) seen_.gate.wait();
    const std::lock_guard lock(seen_.mutex);
    if (seen_.fails) return std::unexpected(Error{"the disk is full", "free some space"});
    for (const auto& record : batch) seen_.ids.push_back(record->id);
    return {};
  }

  std::uint64_t removed() const override { return removed_; }

  std::expected<std::chrono::milliseconds, Error> tidy() override {
    const std::lock_guard lock(seen_.mutex);
    if (seen_.tidy_fails) return std::unexpected(Error{"the page is damaged", ""});
    if (seen_.steps == 0) {
      if (!tidied_) seen_.tidied.set_value();
      tidied_ = true;
      return kTidyInterval;
    }
    --seen_.steps;
    ++removed_;
    return std::chrono::milliseconds(0);
  }

 private:
  Seen& seen_;
  bool entered_ = false;
  bool tidied_ = false;
  std::uint64_t removed_ = 0;
};

TEST(SinkThread, WritesInOrderAndDrains) {
  Seen seen;
  seen.delay = std::chrono::hours(1);  // drain() must not wait for it
  SinkThread thread(std::make_unique<FakeSink>(seen));
  for (const auto* id : {"a", "b", "c"}) thread.submit(make_record({.id = id}));
  thread.drain();
  EXPECT_THAT(seen.ids, ElementsAre("a", "b", "c"));
  EXPECT_EQ(thread.counters().written, 3u);
  EXPECT_EQ(thread.counters().dropped, 0u);
}

TEST(SinkThread, AFullQueueDropsAndCountsWithoutWaiting) {
  Seen seen;
  std::promise<void> open;
  seen.gate = open.get_future().share();
  SinkThread thread(std::make_unique<FakeSink>(seen), {.records = 2});
  thread.submit(make_record({.id = "first"}));
  seen.entered.get_future().wait();
  for (const auto* id : {"a", "b", "c", "d"}) thread.submit(make_record({.id = id}));
  EXPECT_EQ(thread.counters().dropped, 2u);
  EXPECT_EQ(thread.counters().queued, 3u);
  EXPECT_EQ(thread.counters().last_error, "2 records came faster than they could be written");
  open.set_value();
  thread.drain();
  EXPECT_EQ(thread.counters().queued, 0u);
  EXPECT_THAT(seen.ids, ElementsAre("first", "a", "b"));
  EXPECT_EQ(thread.counters().written, 3u);
}

TEST(SinkThread, TheQueueIsBoundedInBytesToo) {
  Seen seen;
  std::promise<void> open;
  seen.gate = open.get_future().share();
  SinkThread thread(std::make_unique<FakeSink>(seen), {.bytes = 100'000});
  thread.submit(make_record({.id = "first"}));
  seen.entered.get_future().wait();
  for (const auto* id : {"a", "b", "c"})
    thread.submit(make_record({.id = id, .url = std::string(45'000, 'x')}));
  EXPECT_EQ(thread.counters().dropped, 1u);
  open.set_value();
}

TEST(SinkThread, AFailedBatchIsCountedAndReportedOnce) {
  Seen seen;
  seen.fails = true;
  std::vector<std::string> reports;
  SinkThread thread(std::make_unique<FakeSink>(seen), {}, [&](const std::string& sink, const Error& error) {
    reports.push_back(sink + ": " + to_string(error));
  });
  thread.submit(make_record({.id = "a"}));
  thread.drain();
  thread.submit(make_record({.id = "b"}));
  thread.drain();
  EXPECT_EQ(thread.counters().dropped, 2u);
  EXPECT_EQ(thread.counters().last_error, "the disk is full: free some space");
  {
    const std::lock_guard lock(seen.mutex);
    seen.fails = false;
  }
  thread.submit(make_record({.id = "c"}));
  thread.stop();
  EXPECT_EQ(thread.counters().written, 1u);
  EXPECT_EQ(thread.counters().last_error, "");
  EXPECT_THAT(reports, ElementsAre("fake: the disk is full: free some space"));
}

TEST(SinkThread, TidiesStepAfterStepWithoutAnyRecord) {
  Seen seen;
  seen.steps = 5;
  SinkThread thread(std::make_unique<FakeSink>(seen));
  seen.tidied.get_future().wait();
  EXPECT_EQ(thread.counters().removed, 5u);
}

TEST(SinkThread, ARecordDoesNotWaitForTheEndOfTheUpkeep) {
  Seen seen;
  seen.steps = 1'000'000'000;
  SinkThread thread(std::make_unique<FakeSink>(seen));
  thread.submit(make_record({.id = "a"}));
  thread.drain();
  EXPECT_THAT(seen.ids, ElementsAre("a"));
  thread.stop();
  EXPECT_GT(seen.steps, 0);
}

TEST(SinkThread, AFailedStepIsReportedAndRecordsStillGoThrough) {
  Seen seen;
  seen.tidy_fails = true;
  std::promise<std::string> report;
  SinkThread thread(std::make_unique<FakeSink>(seen), {},
                    [&](const std::string&, const Error& error) { report.set_value(to_string(error)); });
  EXPECT_EQ(report.get_future().get(), "the page is damaged");
  thread.submit(make_record({.id = "a"}));
  thread.drain();
  EXPECT_EQ(thread.counters().written, 1u);
  EXPECT_EQ(thread.counters().dropped, 0u);
  EXPECT_EQ(thread.counters().last_error, "the page is damaged");
}

TEST(SinkThread, SaysOnItsOwnThreadThatItHasNothingToDo) {
  Seen seen;
  std::promise<std::thread::id> idle;
  std::once_flag first;
  SinkThread thread(std::make_unique<FakeSink>(seen), {}, {},
                    [&] { std::call_once(first, [&] { idle.set_value(std::this_thread::get_id()); }); });
  auto told = idle.get_future();
  ASSERT_EQ(told.wait_for(std::chrono::seconds(60)), std::future_status::ready);
  EXPECT_NE(told.get(), std::this_thread::get_id());
}

TEST(SinkThread, StopWritesWhatIsQueuedAndDropsWhatComesLater) {
  Seen seen;
  SinkThread thread(std::make_unique<FakeSink>(seen));
  thread.submit(make_record({.id = "a"}));
  thread.stop();
  thread.submit(make_record({.id = "late"}));
  thread.drain();
  EXPECT_THAT(seen.ids, ElementsAre("a"));
  EXPECT_EQ(thread.counters().dropped, 1u);
}

TEST(SinkThread, CountsEachRecordOnceFromManyThreads) {
  Seen seen;
  SinkThread thread(std::make_unique<FakeSink>(seen), {.records = 100});
  std::vector<std::jthread> submitters;
  for (int i = 0; i < 4; ++i) {
    submitters.emplace_back([&] {
      for (int n = 0; n < 5'000; ++n) thread.submit(make_record({.id = "x"}));
    });
  }
  submitters.clear();
  thread.stop();
  EXPECT_EQ(thread.counters().written + thread.counters().dropped, 20'000u);
  EXPECT_EQ(seen.ids.size(), thread.counters().written);
}

}  // namespace
}  // namespace weir::sinks
