// A store of schema 1 becomes one of this schema, whole or not at all, and works meanwhile.
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

// As the first version made it.
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

class StoreMigration : public StoreTest {
 protected:
  void make_version_1(const std::string& rows = kRows) { run_sql(kSchema1 + rows); }
  std::string version() { return run_sql("PRAGMA user_version"); }
  // Of the file itself: what an earlier weir looks at.
  char version_in_header() const { return bytes().at(63); }
};

TEST_F(StoreMigration, OldRowsGetTheirContainer) {
  make_version_1();
  const auto before = lines();
  EXPECT_THAT(before, SizeIs(5));
  const auto sink = open();
  EXPECT_EQ(tidy(*sink), 2);
  EXPECT_EQ(version(), "2");
  EXPECT_EQ(version_in_header(), 2);
  EXPECT_EQ(lines(), before);
  EXPECT_EQ(run_sql("SELECT group_concat(coalesce(container_id, 'NULL')) FROM records"),
            "c0ffee01,c0ffef01,NULL,NULL,NULL");
  EXPECT_THAT(lines({.container = "c0ffee"}), ElementsAre(kInside));
  write(*sink, {make_record({.id = "new", .container = "c0ffee02"})});
  EXPECT_THAT(lines({.container = "c0ffee"}), SizeIs(2));
  EXPECT_EQ(run_sql("PRAGMA integrity_check"), "ok");
}

TEST_F(StoreMigration, AnIndexServesTheContainer) {
  make_version_1();
  tidy(*open());
  EXPECT_THAT(run_sql("EXPLAIN QUERY PLAN SELECT 1 FROM records WHERE container_id BETWEEN 'a' AND 'b'"),
              HasSubstr("INDEX records_by_container (container_id>? AND container_id<?)"));
}

TEST_F(StoreMigration, TheOldSchemaIsReadAndWrittenUntilThen) {
  make_version_1();
  EXPECT_THAT(lines({.container = "c0ffee"}), ElementsAre(kInside));
  const auto sink = open();
  write(*sink, {make_record({.id = "new", .container = "c0ffee02"})});
  EXPECT_EQ(version(), "1");
  EXPECT_THAT(lines({.container = "c0ffee"}), SizeIs(2));
  tidy(*sink);
  EXPECT_THAT(lines({.container = "c0ffee"}), SizeIs(2));
}

TEST_F(StoreMigration, ANewStoreHasTheSameTables) {
  open();
  const std::string schema =
      "SELECT group_concat(replace(sql, char(10) || '  WHERE', ' WHERE'), ';') "
      "FROM (SELECT sql FROM sqlite_schema ORDER BY name)";
  const auto fresh = run_sql(schema);
  EXPECT_THAT(fresh, HasSubstr("container_id"));
  for (const auto* suffix : {"", "-wal", "-shm"}) std::filesystem::remove(path_.string() + suffix);
  make_version_1();
  tidy(*open());
  EXPECT_EQ(run_sql(schema), fresh);
}

TEST_F(StoreMigration, KilledInItsMiddleItStartsAgain) {
  make_version_1(R"sql(
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000)
INSERT INTO records SELECT 'r' || i, 'exchange', 1, i, 7, 'curl', 'a.example', 200, NULL,
  '{"weir.record.id":"r' || i || '","x":"' || hex(zeroblob(400)) || '","container.id":"c0ffee"}' FROM n)sql");
  int killed = 0;
  for (int milliseconds = 2; version() == "1"; milliseconds += milliseconds / 2 + 1) {
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
    EXPECT_EQ(run_sql("SELECT count(*) FROM pragma_table_xinfo('records') WHERE name = 'container_id'"),
              version() == "2" ? "1" : "0");
  }
  EXPECT_GT(killed, 0);
  tidy(*open());
  EXPECT_EQ(run_sql("SELECT count(*) FROM records WHERE container_id = 'c0ffee'"), "20000");
}

}  // namespace
}  // namespace weir::sinks
