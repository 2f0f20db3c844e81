// The store, written and read: what replaces what, which files are refused and left alone, and that each
// filter selects in SQL exactly what RecordFilter::matches() selects.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sqlite3.h>
#include <sys/stat.h>

#include <fstream>
#include <sstream>

#include "sinks/sqlite.h"
#include "sinks/store_reader.h"
#include "tests/unit/sinks/support.h"

namespace weir::sinks {
namespace {

using test::at_second;
using test::make_record;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

class Store : public testing::Test {
 protected:
  std::unique_ptr<Sink> open() {
    auto sink = make_sqlite_sink({.path = path_});
    if (!sink) ADD_FAILURE() << to_string(sink.error());
    return sink ? std::move(*sink) : nullptr;
  }

  static void write(Sink& sink, std::vector<RecordPtr> batch) {
    const auto result = sink.write(batch);
    ASSERT_TRUE(result) << to_string(result.error());
  }

  std::vector<std::string> lines(const StoreQuery& query = {}) {
    std::vector<std::string> found;
    auto cursor = StoreCursor::open(path_, query);
    if (!cursor) {
      ADD_FAILURE() << to_string(cursor.error());
      return found;
    }
    for (auto line = cursor->next(); line && *line; line = cursor->next()) found.emplace_back(**line);
    return found;
  }

  void run_sql(const char* sql) {
    sqlite3* database = nullptr;
    ASSERT_EQ(sqlite3_open(path_.c_str(), &database), SQLITE_OK);
    EXPECT_EQ(sqlite3_exec(database, sql, nullptr, nullptr, nullptr), SQLITE_OK) << sqlite3_errmsg(database);
    sqlite3_close(database);
  }

  std::string bytes() {
    std::ifstream file(path_);
    std::stringstream text;
    text << file.rdbuf();
    return text.str();
  }

  // Both the writer and the reader refuse the file, say so alike, and leave it and its directory as they
  // were.
  void expect_refused(const std::string& what) {
    const auto before = bytes();
    const auto sink = make_sqlite_sink({.path = path_});
    ASSERT_FALSE(sink);
    EXPECT_THAT(to_string(sink.error()), HasSubstr(what));
    EXPECT_THAT(sink.error().remedy, HasSubstr("move it away"));
    auto cursor = StoreCursor::open(path_, {});
    ASSERT_FALSE(cursor);
    EXPECT_THAT(cursor.error().remedy, HasSubstr("move it away"));
    EXPECT_EQ(bytes(), before);
    EXPECT_EQ(std::distance(std::filesystem::directory_iterator(directory_.path()), {}), 1);
  }

  const test::TemporaryDirectory directory_;
  const std::filesystem::path path_ = directory_.path() / "weir.db";
};

TEST_F(Store, KeepsRecordsOverARestartInAPrivateFile) {
  const auto first = make_record({.id = "a", .second = 1});
  const auto second = make_record({.id = "b", .second = 2});
  write(*open(), {second});
  write(*open(), {first});
  EXPECT_THAT(lines(), ElementsAre(to_json(*first), to_json(*second)));
  struct stat status{};
  ASSERT_EQ(::stat(path_.c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0600u);
}

TEST_F(Store, ALaterRecordReplacesAnInterimOneButNeverAFinalOne) {
  const auto sink = open();
  const auto interim = make_record({.id = "a", .final = false});
  const auto newer = make_record({.id = "a", .final = false, .status = 101});
  const auto final = make_record({.id = "a", .status = 200});
  write(*sink, {interim});
  write(*sink, {newer});
  EXPECT_THAT(lines(), ElementsAre(to_json(*newer)));
  write(*sink, {final, interim});
  EXPECT_THAT(lines(), ElementsAre(to_json(*final)));
}

TEST_F(Store, AReaderAndTheWriterDontDisturbEachOther) {
  const auto sink = open();
  write(*sink, {make_record({.id = "a"}), make_record({.id = "b"})});
  auto cursor = StoreCursor::open(path_, {});
  ASSERT_TRUE(cursor);
  ASSERT_TRUE(cursor->next());
  write(*sink, {make_record({.id = "c"})});
  ASSERT_TRUE(*cursor->next());
  EXPECT_FALSE(*cursor->next()) << "a cursor sees the store as it was when it began";
  EXPECT_EQ(lines().size(), 3u);
}

TEST_F(Store, TheOldestMakeRoomBeyondTheLimit) {
  auto sink = make_sqlite_sink({.path = path_, .max_bytes = 400'000});
  ASSERT_TRUE(sink);
  for (int i = 1; i <= 200; ++i) {
    write(**sink, {make_record({.id = std::to_string(i), .second = i, .url = std::string(10'000, 'x')})});
  }
  const auto kept = lines();
  EXPECT_LT(kept.size(), 45u);
  EXPECT_GT(kept.size(), 10u);
  EXPECT_THAT(kept.back(), HasSubstr("\"200\""));
}

TEST_F(Store, RefusesAFileThatIsNoDatabase) {
  std::ofstream(path_) << "a shopping list, long enough to hold a header" << std::string(200, '.');
  expect_refused("");
}

TEST_F(Store, RefusesAnotherProgramsDatabase) {
  run_sql("CREATE TABLE theirs(x); INSERT INTO theirs VALUES(1)");
  expect_refused("not a store of weir's");
}

TEST_F(Store, RefusesANewerSchema) {
  open();
  run_sql("PRAGMA journal_mode = DELETE; PRAGMA user_version = 2");
  expect_refused("written by a newer weir (schema 2, this one knows 1)");
}

TEST_F(Store, ReportsACorruptFileWithAdvice) {
  write(*open(), {make_record({.id = "a"})});
  run_sql("PRAGMA journal_mode = DELETE");
  {
    std::fstream file(path_, std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(100);
    file << std::string(3'000, '\xff');
  }
  const auto sink = make_sqlite_sink({.path = path_});
  ASSERT_FALSE(sink);
  EXPECT_THAT(to_string(sink.error()), HasSubstr("malformed"));
  EXPECT_THAT(sink.error().remedy, HasSubstr("move it away"));
}

TEST_F(Store, AnEmptyFileHoldsNoRecordsAndAMissingOneIsAnError) {
  EXPECT_FALSE(StoreCursor::open(path_, {}));
  std::ofstream(path_).flush();
  EXPECT_THAT(lines(), IsEmpty());
}

struct FilterCase {
  const char* name;
  StoreQuery query;
  std::vector<std::string> ids;
};
void PrintTo(const FilterCase& test_case, std::ostream* out) {
  *out << test_case.name;
}

class StoreFilter : public Store, public testing::WithParamInterface<FilterCase> {};

TEST_P(StoreFilter, SelectsWhatTheFilterMatches) {
  const std::vector<RecordPtr> records = {
      make_record(
          {.id = "curl", .second = 1, .pid = 7, .process = "curl", .host = "example.com", .status = 200}),
      make_record(
          {.id = "java", .second = 2, .pid = 8, .process = "java", .host = "api.Example.com", .status = 404}),
      make_record(
          {.id = "bad", .second = 3, .pid = 8, .process = "java", .host = "badexample.com", .status = 499}),
      make_record({.id = "opaque", .kind = RecordKind::connection, .second = 4, .pid = 7, .opaque = "quic"}),
      make_record(
          {.id = "read", .kind = RecordKind::connection, .second = 5, .pid = 7, .host = "example.com"}),
      make_record({.id = "exec", .kind = RecordKind::process, .second = 6, .pid = 9, .process = "sh"}),
  };
  write(*open(), records);
  const auto& [name, query, ids] = GetParam();
  std::vector<std::string> expected;
  for (const auto& record : records) {
    const bool wanted = std::ranges::find(ids, record->id) != ids.end();
    if (wanted) expected.push_back(to_json(*record));
    if (query.limit == 0) {
      EXPECT_EQ(query.matches(*record), wanted) << record->id;
    }
  }
  EXPECT_EQ(lines(query), expected);
}

struct FilterSpec {
  std::vector<RecordKind> kinds = {};
  std::string process = "";
  std::uint32_t pid = 0;
  std::string host = "";
  std::string status = "";
  std::optional<Time> since = std::nullopt;
};

StoreQuery of(FilterSpec spec, std::size_t limit = 0) {
  return {.filter = {spec.kinds, spec.process, spec.pid, spec.host, spec.status, spec.since}, .limit = limit};
}

INSTANTIATE_TEST_SUITE_P(
    All, StoreFilter,
    testing::Values(
        FilterCase{"none", {}, {"curl", "java", "bad", "opaque", "read", "exec"}},
        FilterCase{
            "kind", of({.kinds = {RecordKind::connection, RecordKind::process}}), {"opaque", "read", "exec"}},
        FilterCase{"process", of({.process = "java"}), {"java", "bad"}},
        FilterCase{"pid", of({.pid = 7}), {"curl", "opaque", "read"}},
        FilterCase{"host", of({.host = "Example.com"}), {"curl", "read"}},
        FilterCase{"subdomains", of({.host = "*.example.com"}), {"java"}},
        FilterCase{"suffix", of({.host = ".EXAMPLE.com"}), {"java"}},
        FilterCase{"injection", of({.host = "' OR 1=1 --"}), {}},
        FilterCase{"status", of({.status = "404"}), {"java"}},
        FilterCase{"status_class", of({.status = "4xx"}), {"java", "bad"}},
        FilterCase{"since", of({.since = at_second(4)}), {"opaque", "read", "exec"}},
        FilterCase{"together", of({.pid = 7, .host = "example.com", .since = at_second(2)}), {"read"}},
        FilterCase{"hidden", {.hide_readable_connections = true}, {"curl", "java", "bad", "opaque", "exec"}},
        FilterCase{"limit", of({.pid = 7}, 2), {"opaque", "read"}}),
    [](const auto& each) { return std::string(each.param.name); });

}  // namespace
}  // namespace weir::sinks
