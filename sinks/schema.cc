// See schema.h. SQLite's own transaction is what makes it safe: the version goes into the header with the
// rest.
#include "sinks/schema.h"

#include <string>

namespace weir::sinks {
namespace {

constexpr const char* kRecords = R"sql(
CREATE TABLE records(
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
CREATE INDEX records_by_time ON records(timestamp_ns);
CREATE INDEX records_by_pid ON records(pid, timestamp_ns) WHERE pid IS NOT NULL;
CREATE INDEX records_by_server ON records(server_address, timestamp_ns) WHERE server_address IS NOT NULL;
)sql";

// Schema 2 computed its column from each new row's JSON: two fifths of the instructions of an insert.
constexpr const char* kDropComputed = R"sql(
DROP INDEX records_by_container;
ALTER TABLE records DROP COLUMN container_id;
)sql";

// A new row brings its container along, "" for none. Older ones have NULL there and are still computed, so
// that none of them changes.
std::string container_columns() {
  return std::string(
             "ALTER TABLE records ADD COLUMN container TEXT;"
             "ALTER TABLE records ADD COLUMN container_id TEXT AS ("
             "CASE WHEN container IS NULL THEN ") +
         kContainerId +
         " ELSE nullif(container, '') END) VIRTUAL;"
         "CREATE INDEX records_by_container ON records(container_id, timestamp_ns)"
         " WHERE container_id IS NOT NULL;";
}

std::string steps_from(std::uint32_t version) {
  std::string sql;
  if (version < 1) sql += kRecords;
  if (version == 2) sql += kDropComputed;
  return sql + container_columns();
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
