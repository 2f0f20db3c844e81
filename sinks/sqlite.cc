// See sqlite.h. WAL, so that readers and the writer don't wait for each other; synchronous=NORMAL, so that a
// commit costs no fsync: a power cut may lose the last transactions, never the file.
#include "sinks/sqlite.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <initializer_list>
#include <limits>
#include <optional>
#include <utility>

#include "sinks/database.h"
#include "sinks/record_table.h"
#include "sinks/schema.h"

namespace weir::sinks {
namespace {

using Clock = std::chrono::steady_clock;

constexpr const char* kSettings = R"sql(
PRAGMA journal_mode = WAL;
PRAGMA synchronous = NORMAL;
PRAGMA cache_size = -16384;
PRAGMA wal_autocheckpoint = 4096;
PRAGMA journal_size_limit = 67108864;
)sql";

// How long one step of upkeep may keep a batch waiting, about.
constexpr std::chrono::milliseconds kStepTime{50};
// Free pages are kept for what comes next, no more than this and than a quarter of the limit; what is beyond
// goes back to the file system, so much at a time.
constexpr std::uint64_t kSpareBytes = std::uint64_t{16} << 20;
constexpr const char* kGiveBack = "PRAGMA incremental_vacuum(256)";

// Before schema 3 there is no column for the container. Up to it no id is there twice, whatever comes.
std::string insert_sql(std::uint32_t version) {
  const std::string columns =
      std::string(
          "id, kind, final, timestamp_ns, pid, executable_name, server_address, status_code,"
          " opaque_reason, json") +
      (version >= 3 ? ", container" : "");
  return "INSERT OR IGNORE INTO records(" + columns + ") SELECT " + columns + " FROM batch";
}

// Of a batch of one. Records with one id have one timestamp, too, which is what there is an index of. A late
// interim record must not undo the final one.
constexpr const char* kDeleteReplaced = R"sql(
DELETE FROM records WHERE rowid IN (
  SELECT stored.rowid FROM batch CROSS JOIN records AS stored ON stored.timestamp_ns = batch.timestamp_ns
  WHERE stored.id = batch.id AND stored.final <= batch.final)
)sql";
constexpr const char* kUnlessStored = R"sql(
 WHERE NOT EXISTS (
  SELECT 1 FROM records AS stored WHERE stored.timestamp_ns = batch.timestamp_ns AND stored.id = batch.id)
)sql";

constexpr const char* kUsedBytes = R"sql(
SELECT (page_count - freelist_count) * page_size
FROM pragma_page_count, pragma_freelist_count, pragma_page_size
)sql";

constexpr const char* kFreeBytes = R"sql(
SELECT freelist_count * page_size FROM pragma_freelist_count, pragma_page_size
)sql";

// One at a time, for a record may have a few bytes or many million.
constexpr const char* kDeleteOldest = R"sql(
DELETE FROM records WHERE rowid = (
  SELECT rowid FROM records WHERE timestamp_ns < ?1 ORDER BY timestamp_ns LIMIT 1)
)sql";

// Which file it is, and whether anyone has touched it.
struct FileState {
  dev_t device = 0;
  ino_t inode = 0;
  timespec changed{};

  bool same_file(const FileState& other) const { return device == other.device && inode == other.inode; }
  bool untouched(const FileState& other) const {
    return same_file(other) && changed.tv_sec == other.changed.tv_sec &&
           changed.tv_nsec == other.changed.tv_nsec;
  }
};

FileState state_of(const std::filesystem::path& path) {
  struct stat status{};
  if (::stat(path.c_str(), &status) != 0) return {};
  return {status.st_dev, status.st_ino, status.st_ctim};
}

// Closing checkpoints, which writes to the file: not to one that is damaged, or isn't known to be ours.
void checkpoint_on_close(sqlite3* database, bool wanted) {
  sqlite3_db_config(database, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, wanted ? 0 : 1, nullptr);
}

std::expected<void, Error> make_file(const std::filesystem::path& path) {
  const int descriptor = ::open(path.c_str(), O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
  if (descriptor < 0) {
    return std::unexpected(Error{path.string() + ": " + std::strerror(errno),
                                 "let weir's user write to it, or choose another --state-dir"});
  }
  // Whoever made it more open than we do: what is in it is for its owner alone.
  struct stat status{};
  if (::fstat(descriptor, &status) == 0 && (status.st_mode & 077) != 0) ::fchmod(descriptor, 0600);
  ::close(descriptor);
  return {};
}

// The open file. `removed` counts on over all that are opened.
class Store {
 public:
  static std::expected<Store, Error> open(const SqliteConfig& config) {
    if (auto made = make_file(config.path); !made) return std::unexpected(made.error());
    if (auto ours = store_version(config.path); !ours) return std::unexpected(ours.error());
    auto opened = open_database(config.path, SQLITE_OPEN_READWRITE);
    if (!opened) return std::unexpected(opened.error());
    Store store(std::move(*opened), state_of(config.path));
    checkpoint_on_close(store.database(), false);
    auto done = store.prepare_all();
    if (!done) return std::unexpected(done.error());
    checkpoint_on_close(store.database(), true);
    return store;
  }

  // Into a file that was moved away: SQLite itself leaves the log behind then.
  void finish_log() {
    sqlite3_wal_checkpoint_v2(database(), nullptr, SQLITE_CHECKPOINT_PASSIVE, nullptr, nullptr);
  }

  sqlite3* database() const { return database_.get(); }
  const FileState& file() const { return file_; }

  std::expected<void, Error> write(std::span<const RecordPtr> batch, const SqliteConfig& config,
                                   std::uint64_t& removed) {
    return in_transaction(removed, [&](std::uint64_t& count) {
      const auto before = number(used_bytes_);
      auto result = insert_all(batch);
      if (result) result = make_room(before, config.max_bytes, count);
      return result;
    });
  }

  // One step; true: there is more to do.
  std::expected<bool, Error> tidy(const SqliteConfig& config, std::uint64_t& removed) {
    if (version_ < kSchemaVersion) return bring_up_to_date();
    bool more = true;
    auto result =
        in_transaction(removed, [&](std::uint64_t& count) { return remove_old(config, count, more); });
    if (!result) return std::unexpected(result.error());
    return more ? std::expected<bool, Error>(true) : give_back(std::min(kSpareBytes, config.max_bytes / 4));
  }

 private:
  Store(Database database, FileState file) : database_(std::move(database)), file_(file) {}

  std::expected<void, Error> prepare_all() {
    auto version = store_version(database());
    if (version && *version == 0) {
      if (auto made = upgrade(database(), 0); !made) return made;
      version = kSchemaVersion;
    }
    if (!version) return std::unexpected(version.error());
    version_ = *version;
    if (auto set = execute(database(), kSettings); !set) return set;
    auto batch = RecordTable::attach(database());
    if (!batch) return std::unexpected(batch.error());
    batch_ = std::move(*batch);
    auto prepared = prepare_to({{&used_bytes_, kUsedBytes},
                                {&free_bytes_, kFreeBytes},
                                {&delete_oldest_, kDeleteOldest},
                                {&delete_replaced_, kDeleteReplaced}});
    return prepared ? prepare_inserts() : prepared;
  }

  std::expected<void, Error> prepare_inserts() {
    const auto sql = insert_sql(version_);
    return prepare_to({{&insert_, sql}, {&insert_replacing_, sql + kUnlessStored}});
  }

  std::expected<void, Error> prepare_to(std::initializer_list<std::pair<Statement*, std::string>> all) {
    for (const auto& [statement, sql] : all) {
      auto prepared = prepare(database(), sql);
      if (!prepared) return std::unexpected(prepared.error());
      *statement = std::move(*prepared);
    }
    return {};
  }

  // `work` counts what it removed; it counts for the caller when it is committed.
  template <typename Work>
  std::expected<void, Error> in_transaction(std::uint64_t& removed, const Work& work) {
    if (auto begun = execute(database(), "BEGIN IMMEDIATE"); !begun) return begun;
    std::uint64_t count = 0;
    std::expected<void, Error> result = work(count);
    if (result) result = execute(database(), "COMMIT");
    if (result) {
      removed += count;
    } else {
      roll_back(database());
    }
    return result;
  }

  // Records go in and out under either schema, so an older one's upgrade may fail (a full disk) and be tried
  // again.
  std::expected<bool, Error> bring_up_to_date() {
    if (auto done = upgrade(database(), version_); !done) return std::unexpected(done.error());
    version_ = kSchemaVersion;
    auto prepared = prepare_inserts();
    return prepared ? std::expected<bool, Error>(true) : std::unexpected(prepared.error());
  }

  std::expected<void, Error> run(sqlite3_stmt* statement) {
    const int code = sqlite3_step(statement);
    auto result = code == SQLITE_DONE || code == SQLITE_ROW ? std::expected<void, Error>{}
                                                            : std::unexpected(last_error(database()));
    sqlite3_reset(statement);
    return result;
  }

  std::uint64_t number(const Statement& statement) {
    sqlite3_step(statement.get());
    const auto value = sqlite3_column_int64(statement.get(), 0);
    sqlite3_reset(statement.get());
    return static_cast<std::uint64_t>(value);
  }

  // By time, as the index is: what is appended to it is cheap.
  std::expected<void, Error> insert_all(std::span<const RecordPtr> batch) {
    batch_->rows.clear();
    for (const auto& record : batch) {
      if (!may_replace(*record)) batch_->rows.push_back(record.get());
    }
    std::ranges::stable_sort(batch_->rows, {}, &Record::timestamp);
    auto inserted = run(insert_.get());
    for (const auto& record : batch) {
      if (inserted && may_replace(*record)) inserted = replace(*record);
    }
    return inserted;
  }

  static bool may_replace(const Record& record) { return !record.final || record.replaces; }

  std::expected<void, Error> replace(const Record& record) {
    batch_->rows = {&record};
    auto deleted = run(delete_replaced_.get());
    return deleted ? run(insert_replacing_.get()) : deleted;
  }

  // False: there is none.
  std::expected<bool, Error> remove_oldest(std::int64_t before_ns, std::uint64_t& count) {
    sqlite3_bind_int64(delete_oldest_.get(), 1, before_ns);
    if (auto deleted = run(delete_oldest_.get()); !deleted) return std::unexpected(deleted.error());
    const bool any = sqlite3_changes(database()) > 0;
    count += any ? 1 : 0;
    return any;
  }

  // Beyond the limit twice as much goes as came, so the file shrinks to it over some batches instead of in
  // one long stop.
  std::expected<void, Error> make_room(std::uint64_t before, std::uint64_t limit, std::uint64_t& count) {
    const auto growth = std::max(number(used_bytes_), before) - before;
    const auto target = std::max(limit, before - std::min(before, growth));
    while (number(used_bytes_) > target) {
      const auto any = remove_oldest(std::numeric_limits<std::int64_t>::max(), count);
      if (!any) return std::unexpected(any.error());
      if (!*any) break;
    }
    return {};
  }

  std::expected<void, Error> remove_old(const SqliteConfig& config, std::uint64_t& count, bool& more) {
    const Time now = std::chrono::system_clock::now();
    const std::int64_t oldest = config.max_age.count() == 0
                                    ? std::numeric_limits<std::int64_t>::min()
                                    : (now - config.max_age).time_since_epoch().count();
    const auto deadline = Clock::now() + kStepTime;
    while (more && Clock::now() < deadline) {
      const bool too_large = number(used_bytes_) > config.max_bytes;
      const auto any = remove_oldest(too_large ? std::numeric_limits<std::int64_t>::max() : oldest, count);
      if (!any) return std::unexpected(any.error());
      more = *any;
    }
    return {};
  }

  // Does nothing in a file that was made under schema 1: its space is only used again.
  std::expected<bool, Error> give_back(std::uint64_t spare) {
    const auto before = number(free_bytes_);
    if (before <= spare) return false;
    if (auto done = execute(database(), kGiveBack); !done) return std::unexpected(done.error());
    return number(free_bytes_) < before;
  }

  Database database_;
  FileState file_;
  std::uint32_t version_ = 0;
  std::unique_ptr<RecordTable> batch_;
  Statement insert_;
  Statement insert_replacing_;
  Statement delete_replaced_;
  Statement used_bytes_;
  Statement free_bytes_;
  Statement delete_oldest_;
};

// Keeps the store open. One that is damaged or not ours is left exactly as it is, until another file stands
// in its place or someone has changed it.
class SqliteSink : public Sink {
 public:
  explicit SqliteSink(SqliteConfig config) : config_(std::move(config)) {}

  std::string name() const override { return "sqlite"; }
  std::chrono::milliseconds batch_delay() const override { return std::chrono::milliseconds(200); }
  std::uint64_t removed() const override { return removed_; }

  std::expected<void, Error> write(std::span<const RecordPtr> batch) override {
    auto result = open();
    if (result) result = store_->write(batch, config_, removed_);
    idle_ = false;
    if (!result) leave_if_damaged(result.error());
    return result;
  }

  std::expected<std::chrono::milliseconds, Error> tidy() override {
    if (auto opened = open(); !opened) return std::unexpected(opened.error());
    const auto more = store_->tidy(config_, removed_);
    if (!more) {
      leave_if_damaged(more.error());
      return std::unexpected(more.error());
    }
    if (!*more && std::exchange(idle_, true)) sqlite3_db_release_memory(store_->database());
    return *more ? std::chrono::milliseconds(0) : kTidyInterval;
  }

  std::expected<void, Error> open() {
    const FileState now = state_of(config_.path);
    if (store_ && store_->file().same_file(now)) return {};
    if (refused_ && refused_->file.untouched(now)) return std::unexpected(refused_->error);
    if (store_) store_->finish_log();
    store_.reset();
    refused_.reset();
    auto opened = Store::open(config_);
    if (!opened) {
      leave_if_damaged(opened.error());
      return std::unexpected(opened.error());
    }
    store_.emplace(std::move(*opened));
    return {};
  }

 private:
  struct Refused {
    Error error;
    FileState file;
  };

  void leave_if_damaged(const Error& error) {
    if (!error.damage) return;
    if (store_) checkpoint_on_close(store_->database(), false);
    store_.reset();
    refused_ = Refused{error, state_of(config_.path)};
  }

  const SqliteConfig config_;
  std::optional<Store> store_;
  std::optional<Refused> refused_;
  std::uint64_t removed_ = 0;
  bool idle_ = false;  // nothing was written since the last upkeep: its cache of pages can go
};

}  // namespace

std::expected<std::unique_ptr<Sink>, Error> make_sqlite_sink(SqliteConfig config) {
  const bool required = config.required;
  auto sink = std::make_unique<SqliteSink>(std::move(config));
  if (auto opened = sink->open(); !opened && required) return std::unexpected(opened.error());
  return sink;
}

}  // namespace weir::sinks
