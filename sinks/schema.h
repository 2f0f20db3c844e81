// What the tables of a store are, and how a store of an older schema becomes one of this. Internal to sinks/.
// Must never leave a store between two schemas, however the process ends.
#pragma once

#include "sinks/database.h"

namespace weir::sinks {

// The container's id in a record's JSON, NULL for none: the column's definition for rows that don't bring it
// along, and what stands in for it in a store that doesn't have the column yet.
constexpr const char* kContainerId =
    R"(CASE WHEN json_valid(json) THEN nullif(json_extract(json, '$."container.id"'), '') END)";

// From `version`, 0 for an empty file, in one transaction. That of an older store reads all of it (a second
// for 300 MB on a slow machine) and writes little: the index alone, as no row changes.
std::expected<void, Error> upgrade(sqlite3* database, std::uint32_t version);

}  // namespace weir::sinks
