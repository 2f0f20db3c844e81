// See schema.h. SQLite's own transaction is what makes it safe: the version goes into the header with the
// rest.
#include "sinks/schema.h"

#include <array>

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

std::string container_column() {
  return std::string("ALTER TABLE records ADD COLUMN container_id TEXT AS (") + kContainerId +
         ") VIRTUAL;"
         "CREATE INDEX records_by_container ON records(container_id, timestamp_ns)"
         " WHERE container_id IS NOT NULL;";
}

// The step at [n] leads from schema n to n + 1.
std::array<std::string, kSchemaVersion> steps() {
  return {kRecords, container_column()};
}

}  // namespace

std::expected<void, Error> upgrade(sqlite3* database, std::uint32_t version) {
  // Only an empty file heeds the first two.
  std::string sql = "PRAGMA page_size = 16384; PRAGMA auto_vacuum = INCREMENTAL; BEGIN IMMEDIATE;";
  const auto all = steps();
  for (std::size_t step = version; step < all.size(); ++step) sql += all[step];
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
