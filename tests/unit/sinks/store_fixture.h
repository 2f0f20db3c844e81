// What the store's tests share: a store in a directory of its own, looked at from outside.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sqlite3.h>

#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "sinks/sqlite.h"
#include "sinks/store_reader.h"
#include "tests/unit/sinks/support.h"

namespace weir::sinks {

class StoreTest : public testing::Test {
 protected:
  std::unique_ptr<Sink> open() { return open({}); }

  std::unique_ptr<Sink> open(SqliteConfig config) {
    config.path = path_;
    auto sink = make_sqlite_sink(config);
    if (!sink) ADD_FAILURE() << to_string(sink.error());
    return sink ? std::move(*sink) : nullptr;
  }

  static void write(Sink& sink, const std::vector<RecordPtr>& batch) {
    const auto result = sink.write(batch);
    ASSERT_TRUE(result) << to_string(result.error());
  }

  // Until there is nothing more to do; gives the number of steps.
  static int tidy(Sink& sink) {
    for (int steps = 1;; ++steps) {
      const auto next = sink.tidy();
      if (!next) ADD_FAILURE() << to_string(next.error());
      if (!next || next->count() > 0) return steps;
    }
  }

  std::vector<std::string> lines(const StoreQuery& query = {}) {
    std::vector<std::string> found;
    auto cursor = StoreCursor::open(path_, query);
    if (!cursor) {
      ADD_FAILURE() << to_string(cursor.error());
      return found;
    }
    for (auto line = cursor->next(); line && *line; line = cursor->next()) found.emplace_back(**line);
    return found;
  }

  // The last column of the last row, "" when there is none.
  std::string run_sql(const std::string& sql) {
    sqlite3* database = nullptr;
    EXPECT_EQ(sqlite3_open(path_.c_str(), &database), SQLITE_OK);
    std::string last;
    const auto keep = [](void* to, int columns, char** values, char**) {
      const char* value = values[columns - 1];
      *static_cast<std::string*>(to) = value ? value : "";
      return 0;
    };
    EXPECT_EQ(sqlite3_exec(database, sql.c_str(), keep, &last, nullptr), SQLITE_OK)
        << sqlite3_errmsg(database);
    sqlite3_close(database);
    return last;
  }

  std::string bytes() const {
    std::ifstream file(path_, std::ios::binary);
    std::stringstream text;
    text << file.rdbuf();
    return text.str();
  }

  void overwrite(std::size_t offset, const std::string& with) const {
    std::fstream file(path_, std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(static_cast<std::streamoff>(offset));
    file << with;
  }

  const test::TemporaryDirectory directory_;
  const std::filesystem::path path_ = directory_.path() / "weir.db";
};

}  // namespace weir::sinks
