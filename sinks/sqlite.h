// The store: records in one SQLite file, for `weir ls` and whoever likes SQL. An interim record is replaced
// by the later one with its id. It never opens for writing a file that isn't weir's.
#pragma once

#include <chrono>
#include <filesystem>
#include <memory>

#include "sinks/sink.h"

namespace weir::sinks {

struct SqliteConfig {
  std::filesystem::path path{};                      // made with mode 0600
  std::uint64_t max_bytes = std::uint64_t{4} << 30;  // of the file; beyond it the oldest records make room
  std::chrono::hours max_age{0};                     // older ones are removed; 0: none is too old
  bool required = true;  // false: a store that can't be opened is reported by write(), and tried again
};

// Records are on their way to the file at most 200 ms after they were submitted; each batch is one
// transaction. A store of an older schema is brought up to date by tidy().
std::expected<std::unique_ptr<Sink>, Error> make_sqlite_sink(SqliteConfig config);

}  // namespace weir::sinks
