// The store: records in one SQLite file, for `weir ls` and whoever likes SQL. An interim record is replaced
// by the later one with its id. It never opens for writing a file that isn't weir's.
#pragma once

#include <filesystem>
#include <memory>

#include "sinks/sink.h"

namespace weir::sinks {

struct SqliteConfig {
  std::filesystem::path path;                        // made with mode 0600
  std::uint64_t max_bytes = std::uint64_t{4} << 30;  // beyond it the oldest records make room
};

// Records are in the store at most 200 ms after they were submitted; each batch is one transaction.
std::expected<std::unique_ptr<Sink>, Error> make_sqlite_sink(SqliteConfig config);

}  // namespace weir::sinks
