// See schema.h. SQLite's own transaction is what makes it safe: the version goes into the header with the
// rest.
#include "sinks/schema.h"

#include <string>

namespace weir::sinks {
namespace {

constexpr const char* kRecords = R"sql(
CREATE TABLE records(
  id TEXT NOT NULL,
  kind TEXT NOT NULL,
  final INTEGER NOT NULL,
  timestamp_ns INTEGER NOT NULL,
  pid INTEGER,
  executable_name TEXT,
  server_address TEXT COLLATE NOCASE,
  status_code INTEGER,
  opaque_reason TEXT,
  json TEXT NOT NULL);
)sql";

// Up to schema 3 the id was the primary key, too; that index stays in a store that has it.
constexpr const char* kDropIndexes = R"sql(
DROP INDEX IF EXISTS records_by_time;
DROP INDEX IF EXISTS records_by_pid;
DROP INDEX IF EXISTS records_by_server;
DROP INDEX IF EXISTS records_by_container;
)sql";

// All that a search looks at, in the order of time: what is written grows at its end alone, and what is
// searched for is found without the rows. An index for each column was two fifths of an insert.
constexpr const char* kSearchIndex = R"sql(
CREATE INDEX records_search ON records(
  timestamp_ns, kind, pid, executable_name, server_address, status_code, opaque_reason, container_id);
)sql";

// Schema 2 computed its column from each new row's JSON: two fifths of the instructions of an insert.
constexpr const char* kDropComputed = R"sql(
ALTER TABLE records DROP COLUMN container_id;
)sql";

// A new row brings its container along, "" for none. Older ones have NULL there and are still computed, so
// that none of them changes.
std::string container_columns() {
  return std::string(
             "ALTER TABLE records ADD COLUMN container TEXT;"
             "ALTER TABLE records ADD COLUMN container_id TEXT AS ("
             "CASE WHEN container IS NULL THEN ") +
         kContainerId + " ELSE nullif(container, '') END) VIRTUAL;";
}

std::string steps_from(std::uint32_t version) {
  std::string sql = kDropIndexes;
  if (version < 1) sql += kRecords;
  if (version == 2) sql += kDropComputed;
  if (version < 3) sql += container_columns();
  return sql + kSearchIndex;
}

}  // namespace

std::expected<void, Error> upgrade(sqlite3* database, std::uint32_t version) {
  // Only an empty file heeds the first two.
  std::string sql = "PRAGMA page_size = 16384; PRAGMA auto_vacuum = INCREMENTAL; BEGIN IMMEDIATE;";
  sql += steps_from(version);
  sql += "PRAGMA application_id = " + std::to_string(kApplicationId) +
         "; PRAGMA user_version = " + std::to_string(kSchemaVersion) + "; COMMIT";
  auto done = execute(database, sql.c_str());
  if (!done) {
    roll_back(database);
    return done;
  }
  // An earlier weir looks for the version in the file itself, not in its log.
  sqlite3_wal_checkpoint_v2(database, nullptr, SQLITE_CHECKPOINT_PASSIVE, nullptr, nullptr);
  return {};
}

}  // namespace weir::sinks
