// The store, written and read: what replaces what, and that each filter selects in SQL exactly what
// StoreQuery::matches() selects.
#include <sys/stat.h>

#include "tests/unit/sinks/store_fixture.h"

namespace weir::sinks {
namespace {

using test::at_second;
using test::make_record;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

class Store : public StoreTest {};

TEST_F(Store, KeepsRecordsOverARestartInAPrivateFile) {
  const auto first = make_record({.id = "a", .second = 1});
  const auto second = make_record({.id = "b", .second = 2});
  write(*open(), {second});
  write(*open(), {first});
  EXPECT_THAT(lines(), ElementsAre(first->json, second->json));
  struct stat status{};
  ASSERT_EQ(::stat(path_.c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0600u);
}

TEST_F(Store, ALaterRecordReplacesAnInterimOneButNeverAFinalOne) {
  const auto sink = open();
  const auto interim = make_record({.id = "a", .final = false});
  const auto newer = make_record({.id = "a", .final = false, .status = 101});
  const auto final = make_record({.id = "a", .replaces = true, .status = 200});
  write(*sink, {interim});
  write(*sink, {newer});
  EXPECT_THAT(lines(), ElementsAre(newer->json));
  write(*sink, {final, interim});
  EXPECT_THAT(lines(), ElementsAre(final->json));
}

TEST_F(Store, AReaderAndTheWriterDontDisturbEachOther) {
  const auto sink = open();
  write(*sink, {make_record({.id = "a"}), make_record({.id = "b"})});
  auto cursor = StoreCursor::open(path_, {});
  ASSERT_TRUE(cursor);
  ASSERT_TRUE(cursor->next());
  write(*sink, {make_record({.id = "c"})});
  ASSERT_TRUE(*cursor->next());
  EXPECT_FALSE(*cursor->next()) << "a cursor sees the store as it was when it began";
  EXPECT_EQ(lines().size(), 3u);
}

TEST_F(Store, AnEmptyFileHoldsNoRecordsAndAMissingOneIsAnError) {
  EXPECT_FALSE(StoreCursor::open(path_, {}));
  std::ofstream(path_).flush();
  EXPECT_THAT(lines(), IsEmpty());
}

struct FilterCase {
  const char* name;
  StoreQuery query;
  std::vector<std::string> ids;
};
void PrintTo(const FilterCase& test_case, std::ostream* out) {
  *out << test_case.name;
}

class StoreFilter : public Store, public testing::WithParamInterface<FilterCase> {};

TEST_P(StoreFilter, SelectsWhatTheFilterMatches) {
  const std::vector<RecordPtr> records = {
      make_record(
          {.id = "curl", .second = 1, .pid = 7, .process = "curl", .host = "example.com", .status = 200}),
      make_record(
          {.id = "java", .second = 2, .pid = 8, .process = "java", .host = "api.Example.com", .status = 404}),
      make_record(
          {.id = "bad", .second = 3, .pid = 8, .process = "java", .host = "badexample.com", .status = 499}),
      make_record({.id = "opaque", .kind = RecordKind::connection, .second = 4, .pid = 7, .opaque = "quic"}),
      make_record(
          {.id = "read", .kind = RecordKind::connection, .second = 5, .pid = 7, .host = "example.com"}),
      make_record({.id = "exec", .kind = RecordKind::process, .second = 6, .pid = 9, .process = "sh"}),
      make_record({.id = "inside", .second = 7, .container = "c0ffee", .container_name = "db"}),
      make_record({.id = "beside", .second = 8, .container = "c0ffef", .container_name = "web"}),
  };
  write(*open(), records);
  const auto& [name, query, ids] = GetParam();
  std::vector<std::string> expected;
  for (const auto& record : records) {
    const bool wanted = std::ranges::find(ids, record->id) != ids.end();
    if (wanted) expected.push_back(record->json);
    if (query.limit == 0) {
      EXPECT_EQ(query.matches(*record), wanted) << record->id;
    }
  }
  EXPECT_EQ(lines(query), expected);
}

struct FilterSpec {
  std::vector<RecordKind> kinds = {};
  std::string process = "";
  std::uint32_t pid = 0;
  std::string host = "";
  std::string status = "";
  std::optional<Time> since = std::nullopt;
};

StoreQuery of(FilterSpec spec, std::size_t limit = 0) {
  return {.filter = {spec.kinds, spec.process, spec.pid, spec.host, spec.status, spec.since}, .limit = limit};
}

INSTANTIATE_TEST_SUITE_P(
    All, StoreFilter,
    testing::Values(
        FilterCase{"none", {}, {"curl", "java", "bad", "opaque", "read", "exec", "inside", "beside"}},
        FilterCase{
            "kind", of({.kinds = {RecordKind::connection, RecordKind::process}}), {"opaque", "read", "exec"}},
        FilterCase{"process", of({.process = "java"}), {"java", "bad"}},
        FilterCase{"pid", of({.pid = 7}), {"curl", "opaque", "read"}},
        FilterCase{"host", of({.host = "Example.com"}), {"curl", "read"}},
        FilterCase{"subdomains", of({.host = "*.example.com"}), {"java"}},
        FilterCase{"suffix", of({.host = ".EXAMPLE.com"}), {"java"}},
        FilterCase{"injection", of({.host = "' OR 1=1 --"}), {}},
        FilterCase{"status", of({.status = "404"}), {"java"}},
        FilterCase{"status_class", of({.status = "4xx"}), {"java", "bad"}},
        FilterCase{"since", of({.since = at_second(4)}), {"opaque", "read", "exec", "inside", "beside"}},
        FilterCase{"together", of({.pid = 7, .host = "example.com", .since = at_second(2)}), {"read"}},
        FilterCase{"hidden",
                   {.hide_readable_connections = true},
                   {"curl", "java", "bad", "opaque", "exec", "inside", "beside"}},
        FilterCase{"container", {.container = "c0ffee"}, {"inside"}},
        FilterCase{"container_prefix", {.container = "c0ff"}, {"inside", "beside"}},
        FilterCase{"container_longer", {.container = "c0ffee0"}, {}},
        FilterCase{"container_name", {.container = "web"}, {"beside"}},
        FilterCase{"container_hex_name", {.container = "db"}, {"inside"}},
        FilterCase{"container_other_name", {.container = "we"}, {}},
        FilterCase{"limit", of({.pid = 7}, 2), {"opaque", "read"}}),
    [](const auto& each) { return std::string(each.param.name); });

}  // namespace
}  // namespace weir::sinks
