// A store of an older schema becomes one of this schema, whole or not at all, and works meanwhile.
#include <signal.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/unit/sinks/store_fixture.h"

namespace weir::sinks {
namespace {

using test::make_record;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::SizeIs;

// As the first version made it; the second one added to it what follows.
constexpr const char* kSchema1 = R"sql(
PRAGMA page_size = 16384;
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS records(
  id TEXT NOT NULL PRIMARY KEY,
  kind TEXT NOT NULL,
  final INTEGER NOT NULL,
  timestamp_ns INTEGER NOT NULL,
  pid INTEGER,
  executable_name TEXT,
  server_address TEXT COLLATE NOCASE,
  status_code INTEGER,
  opaque_reason TEXT,
  json TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS records_by_time ON records(timestamp_ns);
CREATE INDEX IF NOT EXISTS records_by_pid ON records(pid, timestamp_ns) WHERE pid IS NOT NULL;
CREATE INDEX IF NOT EXISTS records_by_server ON records(server_address, timestamp_ns)
  WHERE server_address IS NOT NULL;
PRAGMA application_id = 0x77656972;
PRAGMA user_version = 1;
COMMIT;
PRAGMA journal_mode = WAL;
)sql";

constexpr const char* kSchema2 = R"sql(
ALTER TABLE records ADD COLUMN container_id TEXT AS (
  CASE WHEN json_valid(json) THEN nullif(json_extract(json, '$."container.id"'), '') END) VIRTUAL;
CREATE INDEX records_by_container ON records(container_id, timestamp_ns) WHERE container_id IS NOT NULL;
PRAGMA user_version = 2;
)sql";

constexpr const char* kSchema3 = R"sql(
ALTER TABLE records ADD COLUMN container TEXT;
ALTER TABLE records ADD COLUMN container_id TEXT AS (
  CASE WHEN container IS NULL
  THEN CASE WHEN json_valid(json) THEN nullif(json_extract(json, '$."container.id"'), '') END
  ELSE nullif(container, '') END) VIRTUAL;
CREATE INDEX records_by_container ON records(container_id, timestamp_ns) WHERE container_id IS NOT NULL;
PRAGMA user_version = 3;
)sql";

constexpr const char* kInside = R"({"weir.record.id":"inside","container.id":"c0ffee01"})";

constexpr const char* kRows = R"sql(
INSERT INTO records VALUES
  ('inside', 'exchange', 1, 1, 7, 'curl', 'a.example', 200, NULL,
   '{"weir.record.id":"inside","container.id":"c0ffee01"}'),
  ('beside', 'exchange', 1, 2, 7, 'curl', 'a.example', 200, NULL,
   '{"weir.record.id":"beside","container.id":"c0ffef01"}'),
  ('host', 'exchange', 1, 3, 7, 'curl', 'a.example', 200, NULL,
   '{"weir.record.id":"host","container.id":""}'),
  ('unknown', 'exchange', 1, 4, 7, 'curl', 'a.example', 200, NULL,
   '{"weir.record.id":"unknown","x":"\"container.id\":\"c0ffee\""}'),
  ('broken', 'exchange', 1, 5, 7, 'curl', 'a.example', 200, NULL, '{"weir.record.id":');
)sql";

// Its parameter is the older schema's version.
class StoreMigration : public StoreTest, public testing::WithParamInterface<int> {
 protected:
  void make_older(const std::string& rows = kRows) {
    run_sql(kSchema1 + rows + ";" + (GetParam() == 2 ? kSchema2 : GetParam() == 3 ? kSchema3 : ""));
  }
  std::string older() const { return std::to_string(GetParam()); }
  std::string version() { return run_sql("PRAGMA user_version"); }
  // Of the file itself: what an earlier weir looks at.
  char version_in_header() const { return bytes().at(63); }
};

TEST_P(StoreMigration, OldRowsGetTheirContainer) {
  make_older();
  const auto before = lines();
  EXPECT_THAT(before, SizeIs(5));
  const auto sink = open();
  EXPECT_EQ(tidy(*sink), 2);
  EXPECT_EQ(version(), "4");
  EXPECT_EQ(version_in_header(), 4);
  EXPECT_EQ(lines(), before);
  EXPECT_EQ(run_sql("SELECT group_concat(coalesce(container_id, 'NULL')) FROM records"),
            "c0ffee01,c0ffef01,NULL,NULL,NULL");
  EXPECT_THAT(lines({.container = "c0ffee"}), ElementsAre(kInside));
  write(*sink, {make_record({.id = "new", .container = "c0ffee02"})});
  EXPECT_THAT(lines({.container = "c0ffee"}), SizeIs(2));
  EXPECT_EQ(run_sql("PRAGMA integrity_check"), "ok");
}

TEST_P(StoreMigration, OneIndexServesEachSearch) {
  make_older();
  tidy(*open());
  EXPECT_EQ(run_sql("SELECT group_concat(name) FROM sqlite_schema WHERE type = 'index' AND sql IS NOT NULL"),
            "records_search");
  for (const auto* search :
       {"container_id BETWEEN 'a' AND 'b'", "pid = 7", "executable_name = 'curl'", "server_address = 'a'",
        "status_code = 200", "kind <> 'connection' OR opaque_reason IS NOT NULL", "timestamp_ns >= 7"}) {
    EXPECT_THAT(run_sql(std::string("EXPLAIN QUERY PLAN SELECT rowid, timestamp_ns FROM records WHERE ") +
                        search + " ORDER BY timestamp_ns DESC LIMIT 7"),
                HasSubstr("INDEX records_search"))
        << search;
  }
}

TEST_P(StoreMigration, TheOldSchemaIsReadAndWrittenUntilThen) {
  make_older();
  EXPECT_THAT(lines({.container = "c0ffee"}), ElementsAre(kInside));
  const auto sink = open();
  write(*sink, {make_record({.id = "new", .container = "c0ffee02"})});
  EXPECT_EQ(version(), older());
  EXPECT_THAT(lines({.container = "c0ffee"}), SizeIs(2));
  tidy(*sink);
  EXPECT_THAT(lines({.container = "c0ffee"}), SizeIs(2));
}

TEST_P(StoreMigration, ANewStoreHasTheSameTables) {
  open();
  // But for the column's definition, whose white space differs, and the older one's unique index.
  const std::string schema =
      "SELECT (SELECT group_concat(name) FROM (SELECT name FROM sqlite_schema WHERE sql IS NOT NULL)) || "
      "(SELECT group_concat(name || type || [notnull] || hidden) FROM pragma_table_xinfo('records'))";
  const auto fresh = run_sql(schema);
  EXPECT_THAT(fresh, HasSubstr("container_id"));
  for (const auto* suffix : {"", "-wal", "-shm"}) std::filesystem::remove(path_.string() + suffix);
  make_older();
  tidy(*open());
  EXPECT_EQ(run_sql(schema), fresh);
}

TEST_P(StoreMigration, KilledInItsMiddleItStartsAgain) {
  make_older(R"sql(
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000)
INSERT INTO records SELECT 'r' || i, 'exchange', 1, i, 7, 'curl', 'a.example', 200, NULL,
  '{"weir.record.id":"r' || i || '","x":"' || hex(zeroblob(400)) || '","container.id":"c0ffee"}' FROM n)sql");
  int killed = 0;
  for (int milliseconds = 2; version() == older(); milliseconds += milliseconds / 2 + 1) {
    const pid_t child = ::fork();
    if (child == 0) {
      const auto sink = make_sqlite_sink({.path = path_});
      const itimerval timer{{}, {milliseconds / 1000, milliseconds % 1000 * 1000}};
      ::signal(SIGALRM, SIG_DFL);
      ::setitimer(ITIMER_REAL, &timer, nullptr);
      ::_exit(sink && (*sink)->tidy() ? 0 : 1);
    }
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    ASSERT_TRUE(WIFSIGNALED(status) || WEXITSTATUS(status) == 0);
    killed += WIFSIGNALED(status) ? 1 : 0;
    EXPECT_EQ(run_sql("PRAGMA integrity_check"), "ok");
    EXPECT_EQ(
        run_sql("SELECT count(*) FROM sqlite_schema WHERE name IN ('records_search', 'records_by_pid')"),
        "1");
    EXPECT_EQ(run_sql("SELECT count(*) FROM sqlite_schema WHERE name = 'records_search'"),
              version() == "4" ? "1" : "0");
  }
  EXPECT_GT(killed, 0);
  tidy(*open());
  EXPECT_EQ(run_sql("SELECT count(*) FROM records WHERE container_id = 'c0ffee'"), "20000");
}

TEST_P(StoreMigration, AnOldRowThatIsReplacedTakesTheNewContainer) {
  make_older();
  run_sql("UPDATE records SET timestamp_ns = timestamp_ns * 1000000000");
  const auto sink = open();
  tidy(*sink);
  write(*sink, {make_record({.id = "inside", .replaces = true, .second = 1})});
  EXPECT_THAT(lines({.container = "c0ffee"}), SizeIs(0));
  write(*sink, {make_record({.id = "unknown", .replaces = true, .second = 4, .container = "c0ffee02"})});
  EXPECT_THAT(lines({.container = "c0ffee"}), SizeIs(1));
  EXPECT_EQ(run_sql("PRAGMA integrity_check"), "ok");
}

TEST_P(StoreMigration, TheFileStaysAsLargeAsItWas) {
  make_older(R"sql(
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5000)
INSERT INTO records SELECT 'r' || i, 'exchange', 1, i, 7, 'curl', 'a.example', 200, NULL,
  '{"weir.record.id":"r' || i || '","x":"' || hex(zeroblob(400)) || '","container.id":"c0ffee"}' FROM n)sql");
  run_sql("PRAGMA wal_checkpoint(TRUNCATE)");
  const auto before = bytes().size();
  tidy(*open());
  run_sql("PRAGMA wal_checkpoint(TRUNCATE)");
  EXPECT_LT(bytes().size(), before + before / 10);
}

INSTANTIATE_TEST_SUITE_P(From, StoreMigration, testing::Values(1, 2, 3));

}  // namespace
}  // namespace weir::sinks
