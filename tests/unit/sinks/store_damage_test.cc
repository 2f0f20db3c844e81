// Files that are foreign, newer or damaged: said in one line with advice, and left byte for byte as they are.
#include "tests/unit/sinks/store_fixture.h"

namespace weir::sinks {
namespace {

using test::make_record;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;
using testing::SizeIs;

constexpr std::size_t kPage = 16'384;

class StoreDamage : public StoreTest {
 protected:
  // A store of some hundred pages, all of them in the file itself.
  void make_store() {
    const auto sink = open();
    std::vector<RecordPtr> batch;
    for (int i = 0; i < 2'000; ++i) {
      batch.push_back(make_record({.id = std::to_string(i), .second = i, .url = std::string(1'000, 'x')}));
    }
    write(*sink, batch);
  }

  void damage_all_but_the_first_page() {
    overwrite(kPage, std::string(std::filesystem::file_size(path_) - kPage, '\xa5'));
  }

  static void expect_advice(const Error& error) {
    EXPECT_THAT(error.what, HasSubstr("weir.db: "));
    EXPECT_THAT(error.remedy, HasSubstr("move it away"));
    EXPECT_THAT(to_string(error), Not(HasSubstr("\n")));
  }

  // Both the writer and the reader refuse the file, and leave it and its directory as they were.
  void expect_refused(const std::string& what) {
    const auto before = bytes();
    const auto sink = make_sqlite_sink({.path = path_});
    ASSERT_FALSE(sink);
    EXPECT_THAT(to_string(sink.error()), HasSubstr(what));
    expect_advice(sink.error());
    auto cursor = StoreCursor::open(path_, {});
    ASSERT_FALSE(cursor);
    expect_advice(cursor.error());
    EXPECT_TRUE(bytes() == before);
    EXPECT_EQ(std::distance(std::filesystem::directory_iterator(directory_.path()), {}), 1);
  }

  static void expect_failure(Sink& sink, const std::string& what) {
    const auto result = sink.write(std::vector{make_record({.id = "new"})});
    ASSERT_FALSE(result);
    EXPECT_THAT(to_string(result.error()), HasSubstr(what));
    expect_advice(result.error());
  }
};

TEST_F(StoreDamage, RefusesAFileThatIsNoDatabase) {
  std::ofstream(path_) << "a shopping list, long enough to hold a header" << std::string(200, '.');
  expect_refused("");
}

TEST_F(StoreDamage, RefusesAnotherProgramsDatabase) {
  run_sql("CREATE TABLE theirs(x); INSERT INTO theirs VALUES(1)");
  expect_refused("not a store of weir's");
}

TEST_F(StoreDamage, RefusesANewerSchema) {
  make_store();
  run_sql("PRAGMA journal_mode = DELETE; PRAGMA user_version = 5");
  expect_refused("written by a newer weir (schema 5, this one knows 4)");
}

TEST_F(StoreDamage, RefusesADamagedHeader) {
  make_store();
  run_sql("PRAGMA journal_mode = DELETE");
  overwrite(10, "\xff");
  expect_refused("not a store of weir's");
}

TEST_F(StoreDamage, RefusesADamagedListOfTables) {
  make_store();
  run_sql("PRAGMA journal_mode = DELETE");
  overwrite(100, std::string(3'000, '\xff'));
  expect_refused("malformed");
}

TEST_F(StoreDamage, RefusesATruncatedFile) {
  make_store();
  run_sql("PRAGMA journal_mode = DELETE");
  std::filesystem::resize_file(path_, std::filesystem::file_size(path_) / 2);
  expect_refused("malformed");
}

TEST_F(StoreDamage, ADamagedPageIsReportedWhenItIsMetAndTheFileThenLeftAlone) {
  make_store();
  damage_all_but_the_first_page();
  const auto before = bytes();
  {
    const auto sink = open();
    ASSERT_TRUE(sink);
    expect_failure(*sink, "malformed");
    EXPECT_FALSE(sink->tidy());
    expect_failure(*sink, "malformed");
  }
  EXPECT_TRUE(bytes() == before);
  auto cursor = StoreCursor::open(path_, {});
  ASSERT_TRUE(cursor);
  const auto line = cursor->next();
  ASSERT_FALSE(line);
  expect_advice(line.error());
}

TEST_F(StoreDamage, OnceFoundDamagedEvenWhatWouldFitIsNotWritten) {
  make_store();
  const auto page = std::stoul(run_sql("SELECT rootpage FROM sqlite_schema WHERE name = 'records_search'"));
  overwrite((page - 1) * kPage, std::string(kPage, '\xa5'));
  const auto before = bytes();
  {
    const auto sink = open();
    const auto first = sink->write(std::vector{make_record({.id = "new", .host = "a.example"})});
    ASSERT_FALSE(first);
    expect_advice(first.error());
    expect_failure(*sink, "malformed");
  }
  EXPECT_TRUE(bytes() == before);
}

// The log that a killed agent left holds what was committed: it stays beside the file, as both are evidence.
TEST_F(StoreDamage, NoCheckpointWritesToADamagedFile) {
  make_store();
  const auto log = path_.string() + "-wal";
  {
    auto writer = open();
    auto reader = StoreCursor::open(path_, {});
    ASSERT_TRUE(reader && reader->next());
    write(*writer, {make_record({.id = "in the log"})});
    writer.reset();  // the reader keeps it from a checkpoint
  }
  const auto log_size = std::filesystem::file_size(log);
  ASSERT_GT(log_size, 0u);
  damage_all_but_the_first_page();
  const auto before = bytes();
  {
    const auto sink = open({.max_bytes = 1'000'000});
    EXPECT_FALSE(sink->tidy());
  }
  EXPECT_TRUE(bytes() == before);
  EXPECT_EQ(std::filesystem::file_size(log), log_size);
}

TEST_F(StoreDamage, ANewStoreTakesItsPlaceWhenItIsMovedAway) {
  make_store();
  damage_all_but_the_first_page();
  const auto sink = open();
  expect_failure(*sink, "malformed");
  std::filesystem::rename(path_, path_.string() + ".damaged");
  write(*sink, {make_record({.id = "new"})});
  EXPECT_THAT(lines(), SizeIs(1));
}

TEST_F(StoreDamage, AStoreMovedAwayWhileItIsWellKeepsWhatItHas) {
  const auto sink = open();
  write(*sink, {make_record({.id = "early"})});
  const auto moved = path_.string() + ".old";
  std::filesystem::rename(path_, moved);
  write(*sink, {make_record({.id = "late"})});
  ASSERT_THAT(lines(), SizeIs(1));
  EXPECT_THAT(lines().front(), HasSubstr("late"));
  auto cursor = StoreCursor::open(moved, {});
  ASSERT_TRUE(cursor);
  const auto line = cursor->next();
  ASSERT_TRUE(line && *line);
  EXPECT_THAT(std::string(**line), HasSubstr("early"));
}

TEST_F(StoreDamage, OneThatIsNotRequiredIsReportedAndTriedAgain) {
  std::ofstream(path_) << std::string(200, '.');
  const auto before = bytes();
  const auto sink = open({.required = false});
  ASSERT_TRUE(sink);
  const auto tidied = sink->tidy();
  ASSERT_FALSE(tidied);
  expect_advice(tidied.error());
  expect_failure(*sink, "not a store of weir's");
  EXPECT_EQ(bytes(), before);
  std::filesystem::remove(path_);
  write(*sink, {make_record({.id = "new"})});
  EXPECT_THAT(lines(), SizeIs(1));
}

}  // namespace
}  // namespace weir::sinks
