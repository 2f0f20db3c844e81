// A batch of records as a table that SQL can read: one statement stores all of them, where one for each
// record would begin and end as often. Internal to sinks/.
#pragma once

#include <sqlite3.h>

#include <expected>
#include <memory>
#include <vector>

#include "attribution/record.h"
#include "sinks/sink.h"

namespace weir::sinks {

// The table `batch` of one database connection. Its columns have the names of those of `records`; of text,
// NULL stands for unknown, but for `container`, which is never NULL.
class RecordTable {
 public:
  // Must outlive the connection's statements.
  static std::expected<std::unique_ptr<RecordTable>, Error> attach(sqlite3* database);
  RecordTable(const RecordTable&) = delete;
  RecordTable& operator=(const RecordTable&) = delete;

  // What the table's rows are, in this order. They are not copied: no statement may read them once they are
  // gone.
  std::vector<const Record*> rows;

 private:
  RecordTable() = default;
};

}  // namespace weir::sinks
