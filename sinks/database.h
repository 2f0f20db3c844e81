// What the store's writer and its reader share: SQLite handles that close themselves, errors that say what to
// do, and the check that a file is weir's before SQLite touches it. Internal to sinks/.
#pragma once

#include <sqlite3.h>

#include <expected>
#include <filesystem>
#include <memory>
#include <string>

#include "sinks/sink.h"

namespace weir::sinks {

constexpr std::uint32_t kApplicationId = 0x77656972;  // "weir", in the file's header
constexpr std::uint32_t kSchemaVersion = 4;           // PRAGMA user_version

struct DatabaseCloser {
  void operator()(sqlite3* database) const { sqlite3_close_v2(database); }
};
struct StatementCloser {
  void operator()(sqlite3_stmt* statement) const { sqlite3_finalize(statement); }
};
using Database = std::unique_ptr<sqlite3, DatabaseCloser>;
using Statement = std::unique_ptr<sqlite3_stmt, StatementCloser>;

// The schema's version, 0 of an empty file. A file that isn't weir's, or is of a newer schema, is an error.
// The first reads the header without SQLite, so that a foreign file stays exactly as it is. It must not be
// used while this process has the file open: closing any descriptor of a file drops the process's POSIX locks
// on it.
std::expected<std::uint32_t, Error> store_version(const std::filesystem::path& path);
std::expected<std::uint32_t, Error> store_version(sqlite3* database);

std::expected<Database, Error> open_database(const std::filesystem::path& path, int flags);
std::expected<void, Error> execute(sqlite3* database, const char* sql);
std::expected<Statement, Error> prepare(sqlite3* database, const std::string& sql);
void roll_back(sqlite3* database);  // if there is a transaction
Error last_error(sqlite3* database);

}  // namespace weir::sinks
