// See sqlite.h. WAL, so that readers and the writer don't wait for each other; synchronous=NORMAL, so that a
// commit costs no fsync: a power cut may lose the last transactions, never the file.
#include "sinks/sqlite.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "sinks/database.h"

namespace weir::sinks {
namespace {

// The application id and the version go into the header in this transaction, in rollback mode: is_store()
// reads them from the file. A later schema must checkpoint after changing them.
constexpr const char* kSchema = R"sql(
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
PRAGMA synchronous = NORMAL;
PRAGMA cache_size = -16384;
PRAGMA wal_autocheckpoint = 4096;
PRAGMA journal_size_limit = 67108864;
)sql";
static_assert(kApplicationId == 0x77656972 && kSchemaVersion == 1);

// A late interim record must not undo the final one.
constexpr const char* kInsert = R"sql(
INSERT INTO records VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)
ON CONFLICT(id) DO UPDATE SET kind = ?2, final = ?3, timestamp_ns = ?4, pid = ?5, executable_name = ?6,
  server_address = ?7, status_code = ?8, opaque_reason = ?9, json = ?10
WHERE excluded.final >= records.final
)sql";

constexpr const char* kUsedBytes = R"sql(
SELECT (page_count - freelist_count) * page_size
FROM pragma_page_count, pragma_freelist_count, pragma_page_size
)sql";

constexpr const char* kDeleteOldest = R"sql(
DELETE FROM records WHERE rowid IN (SELECT rowid FROM records ORDER BY timestamp_ns LIMIT ?1)
)sql";

void bind_text(sqlite3_stmt* statement, int index, std::string_view text) {
  if (text.empty()) {
    sqlite3_bind_null(statement, index);
  } else {
    sqlite3_bind_text64(statement, index, text.data(), text.size(), SQLITE_STATIC, SQLITE_UTF8);
  }
}

void bind_number(sqlite3_stmt* statement, int index, std::int64_t number) {
  if (number == 0) {
    sqlite3_bind_null(statement, index);
  } else {
    sqlite3_bind_int64(statement, index, number);
  }
}

class SqliteSink : public Sink {
 public:
  SqliteSink(SqliteConfig config, Database database, Statement insert, Statement used, Statement oldest)
      : config_(std::move(config)),
        database_(std::move(database)),
        insert_(std::move(insert)),
        used_bytes_(std::move(used)),
        delete_oldest_(std::move(oldest)) {}

  std::string name() const override { return "sqlite"; }
  std::chrono::milliseconds batch_delay() const override { return std::chrono::milliseconds(200); }

  std::expected<void, Error> write(std::span<const RecordPtr> batch) override {
    if (auto begun = execute(database_.get(), "BEGIN IMMEDIATE"); !begun) return begun;
    auto result = insert_all(batch);
    if (result) result = make_room(batch.size());
    if (result) result = execute(database_.get(), "COMMIT");
    // SQLite itself may have rolled back already (a full disk); then this one has nothing to do.
    if (!result && !sqlite3_get_autocommit(database_.get())) {
      sqlite3_exec(database_.get(), "ROLLBACK", nullptr, nullptr, nullptr);
    }
    return result;
  }

 private:
  std::expected<void, Error> run(sqlite3_stmt* statement) {
    const int code = sqlite3_step(statement);
    auto result = code == SQLITE_DONE || code == SQLITE_ROW ? std::expected<void, Error>{}
                                                            : std::unexpected(last_error(database_.get()));
    sqlite3_reset(statement);
    return result;
  }

  std::expected<void, Error> insert_all(std::span<const RecordPtr> batch) {
    for (const auto& record : batch) {
      if (auto inserted = insert(*record); !inserted) return inserted;
    }
    return {};
  }

  std::expected<void, Error> insert(const Record& record) {
    const auto* opaque = record.find("weir.opaque.reason");
    const auto* opaque_reason = opaque ? std::get_if<std::string>(opaque) : nullptr;
    const std::string json = to_json(record);
    auto* statement = insert_.get();
    bind_text(statement, 1, record.id);
    bind_text(statement, 2, to_string(record.kind));
    sqlite3_bind_int(statement, 3, record.final ? 1 : 0);
    sqlite3_bind_int64(statement, 4, record.timestamp.time_since_epoch().count());
    bind_number(statement, 5, record.pid);
    bind_text(statement, 6, record.executable_name);
    bind_text(statement, 7, record.server_address);
    bind_number(statement, 8, record.status_code);
    bind_text(statement, 9, opaque_reason ? *opaque_reason : std::string_view());
    bind_text(statement, 10, json);
    return run(statement);
  }

  // Two go for each that came, so the file shrinks to its limit over some batches instead of in one long
  // stop.
  std::expected<void, Error> make_room(std::size_t came) {
    sqlite3_step(used_bytes_.get());
    const auto used = static_cast<std::uint64_t>(sqlite3_column_int64(used_bytes_.get(), 0));
    sqlite3_reset(used_bytes_.get());
    if (used <= config_.max_bytes) return {};
    sqlite3_bind_int64(delete_oldest_.get(), 1, static_cast<std::int64_t>(2 * came));
    return run(delete_oldest_.get());
  }

  const SqliteConfig config_;
  const Database database_;
  const Statement insert_;
  const Statement used_bytes_;
  const Statement delete_oldest_;
};

std::expected<void, Error> make_file(const std::filesystem::path& path) {
  const int descriptor = ::open(path.c_str(), O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
  if (descriptor < 0) {
    return std::unexpected(Error{path.string() + ": " + std::strerror(errno),
                                 "let weir's user write to it, or choose another --state-dir"});
  }
  ::close(descriptor);
  return {};
}

}  // namespace

std::expected<std::unique_ptr<Sink>, Error> make_sqlite_sink(SqliteConfig config) {
  if (auto made = make_file(config.path); !made) return std::unexpected(made.error());
  if (auto ours = is_store(config.path); !ours) return std::unexpected(ours.error());
  auto database = open_database(config.path, SQLITE_OPEN_READWRITE);
  if (!database) return std::unexpected(database.error());
  if (auto made = execute(database->get(), kSchema); !made) return std::unexpected(made.error());
  auto insert = prepare(database->get(), kInsert);
  if (!insert) return std::unexpected(insert.error());
  auto used = prepare(database->get(), kUsedBytes);
  if (!used) return std::unexpected(used.error());
  auto oldest = prepare(database->get(), kDeleteOldest);
  if (!oldest) return std::unexpected(oldest.error());
  return std::make_unique<SqliteSink>(std::move(config), std::move(*database), std::move(*insert),
                                      std::move(*used), std::move(*oldest));
}

}  // namespace weir::sinks
