// See store_reader.h. Filters become SQL; values are always bound, never pasted into the text.
#include "sinks/store_reader.h"

#include <variant>
#include <vector>

#include "sinks/database.h"
#include "sinks/schema.h"

namespace weir::sinks {
namespace {

using Value = std::variant<std::int64_t, std::string>;

// The WHERE clause as it grows: conditions joined by AND, and what is bound to their question marks.
struct Where {
  std::string sql = "1";
  std::vector<Value> values;

  void add(std::string_view condition, std::vector<Value> bound) {
    sql.append(" AND ").append(condition);
    values.insert(values.end(), std::make_move_iterator(bound.begin()), std::make_move_iterator(bound.end()));
  }
};

void add_kinds(Where& where, const std::vector<RecordKind>& kinds) {
  if (kinds.empty()) return;
  std::string marks;
  std::vector<Value> names;
  for (const auto kind : kinds) {
    marks += marks.empty() ? "?" : ",?";
    names.emplace_back(std::string(to_string(kind)));
  }
  where.add("kind IN (" + marks + ")", std::move(names));
}

void add_host(Where& where, std::string_view host) {
  if (host.empty()) return;
  if (host.starts_with("*.")) host.remove_prefix(1);
  if (!host.starts_with('.')) return where.add("server_address = ?", {std::string(host)});
  where.add("substr(server_address, -length(?)) = ? COLLATE NOCASE", {std::string(host), std::string(host)});
}

void add_status(Where& where, const std::string& status) {
  if (status.empty()) return;
  const bool is_class = status.ends_with("xx");
  const std::int64_t lowest = std::strtol(status.c_str(), nullptr, 10) * (is_class ? 100 : 1);
  where.add("status_code BETWEEN ? AND ?", {lowest, lowest + (is_class ? 99 : 0)});
}

// Hexadecimal digits sort before U+10FFFF, so the range is all that begins so, and the index serves it. A
// name is looked for in each record.
void add_container(Where& where, const std::string& text, std::uint32_t version) {
  if (text.empty()) return;
  const std::string column = version < 2 ? std::string("(") + kContainerId + ")" : "container_id";
  where.add("(" + column + R"( BETWEEN ? AND ? || char(1114111)
    OR CASE WHEN json_valid(json) THEN json_extract(json, '$."container.name"') END = ?))",
            {text, text, text});
}

Where where_of(const StoreQuery& query, std::uint32_t version) {
  const auto& filter = query.filter;
  Where where;
  add_kinds(where, filter.kinds);
  if (!filter.process_name.empty()) where.add("executable_name = ?", {filter.process_name});
  if (filter.pid != 0) where.add("pid = ?", {std::int64_t{filter.pid}});
  add_host(where, filter.host);
  add_status(where, filter.status);
  add_container(where, query.container, version);
  if (filter.since) where.add("timestamp_ns >= ?", {std::int64_t{filter.since->time_since_epoch().count()}});
  if (query.hide_readable_connections) where.add("(kind <> 'connection' OR opaque_reason IS NOT NULL)", {});
  return where;
}

void bind_all(sqlite3_stmt* statement, const std::vector<Value>& values) {
  int index = 0;
  for (const auto& value : values) {
    ++index;
    if (const auto* number = std::get_if<std::int64_t>(&value)) {
      sqlite3_bind_int64(statement, index, *number);
    } else {
      const auto& text = std::get<std::string>(value);
      sqlite3_bind_text64(statement, index, text.data(), text.size(), SQLITE_TRANSIENT, SQLITE_UTF8);
    }
  }
}

}  // namespace

bool StoreQuery::matches(const Record& record) const {
  if (!filter.matches(record)) return false;
  const bool inside = record.container_id.starts_with(container) || record.container_name == container;
  if (!inside) return false;
  return !hide_readable_connections || record.kind != RecordKind::connection || !record.opaque_reason.empty();
}

struct StoreCursor::State {
  Database database;
  Statement statement;
};

StoreCursor::StoreCursor(std::unique_ptr<State> state) : state_(std::move(state)) {}
StoreCursor::StoreCursor(StoreCursor&&) noexcept = default;
StoreCursor& StoreCursor::operator=(StoreCursor&&) noexcept = default;
StoreCursor::~StoreCursor() = default;

std::expected<StoreCursor, Error> StoreCursor::open(const std::filesystem::path& path,
                                                    const StoreQuery& query) {
  auto database = open_database(path, SQLITE_OPEN_READONLY);
  if (!database) return std::unexpected(database.error());
  const auto version = store_version(database->get());
  if (!version) return std::unexpected(version.error());
  auto state = std::make_unique<State>();
  if (*version == 0) return StoreCursor(std::move(state));  // nothing was ever written
  const auto where = where_of(query, *version);
  // The rows' numbers are sorted first and their JSON fetched one by one: memory does not grow with the
  // records.
  auto statement =
      prepare(database->get(),
              "SELECT json FROM (SELECT rowid AS row, timestamp_ns AS time FROM records WHERE " + where.sql +
                  " ORDER BY time DESC, row DESC LIMIT ?) AS found"
                  " CROSS JOIN records ON records.rowid = found.row ORDER BY found.time, found.row");
  if (!statement) return std::unexpected(statement.error());
  auto values = where.values;
  values.emplace_back(query.limit == 0 ? std::int64_t{-1} : static_cast<std::int64_t>(query.limit));
  bind_all(statement->get(), values);
  *state = {std::move(*database), std::move(*statement)};
  return StoreCursor(std::move(state));
}

std::expected<std::optional<std::string_view>, Error> StoreCursor::next() {
  auto* statement = state_->statement.get();
  if (!statement) return std::nullopt;
  const int code = sqlite3_step(statement);
  if (code == SQLITE_ROW) {
    const auto* text = reinterpret_cast<const char*>(sqlite3_column_text(statement, 0));
    return std::string_view(text, static_cast<std::size_t>(sqlite3_column_bytes(statement, 0)));
  }
  if (code != SQLITE_DONE) return std::unexpected(last_error(state_->database.get()));
  // What ended stays ended, and the read transaction no longer holds back the writer's checkpoints.
  state_->statement.reset();
  return std::nullopt;
}

}  // namespace weir::sinks
