// See database.h. Nothing here writes unless the caller's SQL does.
#include "sinks/database.h"

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>

namespace weir::sinks {
namespace {

constexpr const char* kMoveAway = "move it away, its -wal and -shm with it, and weir starts a new one";

Error error_of(int code, const std::string& path, const std::string& message) {
  struct Advice {
    int code;
    const char* remedy;
  };
  static constexpr Advice kAdvice[] = {
      {SQLITE_CORRUPT, kMoveAway},
      {SQLITE_NOTADB, kMoveAway},
      {SQLITE_FULL, "free some space; records go on once there is room"},
      {SQLITE_BUSY, "another process holds it; end that one"},
      {SQLITE_CANTOPEN, "look at the permissions of the file and its directory"},
      {SQLITE_READONLY, "look at the permissions of the file and its directory"},
      {SQLITE_IOERR, "look at the disk and its free space"},
  };
  const std::string what = path + ": " + message;
  for (const auto& advice : kAdvice) {
    if (advice.code == (code & 0xff)) return {what, advice.remedy, advice.remedy == kMoveAway};
  }
  return {what, ""};
}

// The database header, https://www.sqlite.org/fileformat2.html section 1.3; numbers are big-endian.
constexpr std::size_t kHeaderSize = 100;
constexpr std::size_t kUserVersionOffset = 60;
constexpr std::size_t kApplicationIdOffset = 68;
using Header = std::array<unsigned char, kHeaderSize>;

std::uint32_t number_at(const Header& header, std::size_t offset) {
  std::uint32_t value = 0;
  for (std::size_t i = 0; i < 4; ++i) value = value << 8 | header[offset + i];
  return value;
}

// The default VFS, but for one thing: names stay as they are given. SQLite would make them absolute, and the
// worker reaches the state directory as its current directory alone, as the parents may be closed to its
// user.
const char* name_keeping_vfs() {
  // SQLite would count each allocation under a lock that all threads share. It heeds this before its first
  // use.
  static const int uncounted = sqlite3_config(SQLITE_CONFIG_MEMSTATUS, 0);
  static_cast<void>(uncounted);
  static sqlite3_vfs vfs = [] {
    sqlite3_vfs copy = *sqlite3_vfs_find(nullptr);
    copy.zName = "weir";
    copy.pNext = nullptr;
    copy.xFullPathname = [](sqlite3_vfs*, const char* name, int size, char* out) {
      sqlite3_snprintf(size, out, "%s", name);
      return SQLITE_OK;
    };
    return copy;
  }();
  static const int registered = sqlite3_vfs_register(&vfs, 0);
  return registered == SQLITE_OK ? vfs.zName : nullptr;
}

Error not_a_store(const std::filesystem::path& path) {
  return {path.string() + ": not a store of weir's", kMoveAway, true};
}

std::expected<std::uint32_t, Error> judge(const std::filesystem::path& path, std::uint32_t application,
                                          std::uint32_t version) {
  if (application != kApplicationId || version == 0) return std::unexpected(not_a_store(path));
  if (version <= kSchemaVersion) return version;
  return std::unexpected(Error{path.string() + ": written by a newer weir (schema " +
                                   std::to_string(version) + ", this one knows " +
                                   std::to_string(kSchemaVersion) + ")",
                               std::string("use that version, or ") + kMoveAway, true});
}

}  // namespace

std::expected<std::uint32_t, Error> store_version(const std::filesystem::path& path) {
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (descriptor < 0) return std::unexpected(Error{path.string() + ": " + std::strerror(errno), ""});
  Header header{};
  const auto size = ::pread(descriptor, header.data(), header.size(), 0);
  ::close(descriptor);
  if (size == 0) return 0;
  if (size != static_cast<ssize_t>(kHeaderSize) || std::memcmp(header.data(), "SQLite format 3", 16) != 0) {
    return std::unexpected(not_a_store(path));
  }
  return judge(path, number_at(header, kApplicationIdOffset), number_at(header, kUserVersionOffset));
}

std::expected<std::uint32_t, Error> store_version(sqlite3* database) {
  auto statement = prepare(database,
                           "SELECT application_id, user_version, (SELECT count(*) FROM sqlite_schema) "
                           "FROM pragma_application_id, pragma_user_version");
  if (!statement) return std::unexpected(statement.error());
  if (sqlite3_step(statement->get()) != SQLITE_ROW) return std::unexpected(last_error(database));
  if (sqlite3_column_int64(statement->get(), 2) == 0) return 0;
  return judge(sqlite3_db_filename(database, "main"),
               static_cast<std::uint32_t>(sqlite3_column_int64(statement->get(), 0)),
               static_cast<std::uint32_t>(sqlite3_column_int64(statement->get(), 1)));
}

Error last_error(sqlite3* database) {
  const char* path = sqlite3_db_filename(database, "main");
  return error_of(sqlite3_errcode(database), path ? path : "", sqlite3_errmsg(database));
}

std::expected<Database, Error> open_database(const std::filesystem::path& path, int flags) {
  sqlite3* raw = nullptr;
  const int code = sqlite3_open_v2(path.c_str(), &raw, flags | SQLITE_OPEN_NOMUTEX, name_keeping_vfs());
  Database database(raw);
  if (code != SQLITE_OK) return std::unexpected(error_of(code, path.string(), sqlite3_errstr(code)));
  sqlite3_busy_timeout(raw, 5'000);
  return database;
}

std::expected<void, Error> execute(sqlite3* database, const char* sql) {
  if (sqlite3_exec(database, sql, nullptr, nullptr, nullptr) != SQLITE_OK) {
    return std::unexpected(last_error(database));
  }
  return {};
}

std::expected<Statement, Error> prepare(sqlite3* database, const std::string& sql) {
  sqlite3_stmt* statement = nullptr;
  if (sqlite3_prepare_v2(database, sql.c_str(), static_cast<int>(sql.size()), &statement, nullptr) !=
      SQLITE_OK) {
    return std::unexpected(last_error(database));
  }
  return Statement(statement);
}

void roll_back(sqlite3* database) {
  // SQLite itself may have done it already (a full disk).
  if (!sqlite3_get_autocommit(database)) sqlite3_exec(database, "ROLLBACK", nullptr, nullptr, nullptr);
}

}  // namespace weir::sinks
