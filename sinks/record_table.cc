// See record_table.h, and https://www.sqlite.org/vtab.html. Read from its first row to its last, no more.
#include "sinks/record_table.h"

#include <new>

#include "sinks/database.h"

namespace weir::sinks {
namespace {

struct Table : sqlite3_vtab {
  const RecordTable* records;
};

struct Cursor : sqlite3_vtab_cursor {
  const RecordTable* records;
  std::size_t row;
};

enum Column : int {
  id,
  kind,
  final,
  timestamp_ns,
  pid,
  executable_name,
  server_address,
  status_code,
  opaque_reason,
  json,
  container
};
constexpr const char* kDeclaration =
    "CREATE TABLE batch(id, kind, final, timestamp_ns, pid, executable_name, server_address, status_code,"
    " opaque_reason, json, container)";

Cursor& of(sqlite3_vtab_cursor* cursor) {
  return *static_cast<Cursor*>(cursor);
}

void give_text(sqlite3_context* to, std::string_view text) {
  sqlite3_result_text64(to, text.data(), text.size(), SQLITE_STATIC, SQLITE_UTF8);
}

// A column of which nothing is said is NULL.
void give_known(sqlite3_context* to, std::string_view text) {
  if (!text.empty()) give_text(to, text);
}
void give_known(sqlite3_context* to, std::int64_t number) {
  if (number != 0) sqlite3_result_int64(to, number);
}

void give(sqlite3_context* to, const Record& record, int column) {
  switch (column) {
    case id:
      return give_text(to, record.id);
    case kind:
      return give_text(to, to_string(record.kind));
    case final:
      return sqlite3_result_int(to, record.final ? 1 : 0);
    case timestamp_ns:
      return sqlite3_result_int64(to, record.timestamp.time_since_epoch().count());
    case pid:
      return give_known(to, std::int64_t{record.pid});
    case executable_name:
      return give_known(to, record.executable_name);
    case server_address:
      return give_known(to, record.server_address);
    case status_code:
      return give_known(to, record.status_code);
    case opaque_reason:
      return give_known(to, record.opaque_reason);
    case json:
      return give_text(to, record.json);
    case container:
      return give_text(to, record.container_id);
  }
}

int connect(sqlite3* database, void* records, int, const char* const*, sqlite3_vtab** table, char**) {
  auto* made = new (std::nothrow) Table{{}, static_cast<const RecordTable*>(records)};
  if (!made) return SQLITE_NOMEM;
  *table = made;
  return sqlite3_declare_vtab(database, kDeclaration);
}

int disconnect(sqlite3_vtab* table) {
  delete static_cast<Table*>(table);
  return SQLITE_OK;
}

int open_cursor(sqlite3_vtab* table, sqlite3_vtab_cursor** cursor) {
  auto* made = new (std::nothrow) Cursor{{}, static_cast<Table*>(table)->records, 0};
  *cursor = made;
  return made ? SQLITE_OK : SQLITE_NOMEM;
}

int close_cursor(sqlite3_vtab_cursor* cursor) {
  delete static_cast<Cursor*>(cursor);
  return SQLITE_OK;
}

constexpr sqlite3_module kModule = [] {
  sqlite3_module module{};
  module.xConnect = connect;  // and no xCreate: the table is there without being made
  module.xDisconnect = disconnect;
  module.xBestIndex = [](sqlite3_vtab*, sqlite3_index_info*) { return SQLITE_OK; };
  module.xOpen = open_cursor;
  module.xClose = close_cursor;
  module.xFilter = [](sqlite3_vtab_cursor* cursor, int, const char*, int, sqlite3_value**) {
    of(cursor).row = 0;
    return SQLITE_OK;
  };
  module.xNext = [](sqlite3_vtab_cursor* cursor) {
    ++of(cursor).row;
    return SQLITE_OK;
  };
  module.xEof = [](sqlite3_vtab_cursor* cursor) {
    return of(cursor).row < of(cursor).records->rows.size() ? 0 : 1;
  };
  module.xColumn = [](sqlite3_vtab_cursor* cursor, sqlite3_context* to, int column) {
    give(to, *of(cursor).records->rows[of(cursor).row], column);
    return SQLITE_OK;
  };
  module.xRowid = [](sqlite3_vtab_cursor* cursor, sqlite3_int64* row) {
    *row = static_cast<sqlite3_int64>(of(cursor).row);
    return SQLITE_OK;
  };
  return module;
}();

}  // namespace

std::expected<std::unique_ptr<RecordTable>, Error> RecordTable::attach(sqlite3* database) {
  std::unique_ptr<RecordTable> table(new RecordTable);
  if (sqlite3_create_module(database, "batch", &kModule, table.get()) != SQLITE_OK) {
    return std::unexpected(last_error(database));
  }
  return table;
}

}  // namespace weir::sinks
