// Reading the store: what `weir ls` and the API's /v1/records go through. It never writes to the store, and
// the agent may write while it reads: a cursor sees the store as it was at its first next().
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "attribution/record.h"
#include "sinks/sink.h"

namespace weir::sinks {

struct StoreQuery {
  RecordFilter filter = {};
  std::string container = {};              // its name, or how its id begins
  std::size_t limit = 0;                   // the newest so many; 0: all
  bool hide_readable_connections = false;  // of connections, only those whose content could not be read

  bool matches(const Record& record) const;  // but for `limit`
};

class StoreCursor {
 public:
  static std::expected<StoreCursor, Error> open(const std::filesystem::path& path, const StoreQuery& query);
  StoreCursor(StoreCursor&&) noexcept;
  StoreCursor& operator=(StoreCursor&&) noexcept;
  ~StoreCursor();

  // The next record's JSON, oldest first; nullopt at the end. Valid until the next call. One thread at a
  // time.
  std::expected<std::optional<std::string_view>, Error> next();

 private:
  struct State;
  explicit StoreCursor(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace weir::sinks
