// A filter survives its way through a URL, and what makes no sense is refused with the reason.
#include "agent/record_query.h"

#include <gtest/gtest.h>

namespace weir::agent {
namespace {

TEST(RecordQuery, EveryFilterSurvivesTheUrl) {
  sinks::StoreQuery query;
  for (const auto& [name, value] : std::initializer_list<std::pair<const char*, const char*>>{
           {"process", "a b&c=d?#%\u00fc"},
           {"pid", "7"},
           {"host", "*.example.com"},
           {"status", "4xx"},
           {"kind", "exchange"},
           {"kind", "policy"},
           {"container", "c0ffee"},
           {"limit", "10"},
           {"connections", "opaque"},
           {"since", "2030-01-31T12:00:00.000000001Z"}}) {
    ASSERT_TRUE(set_parameter(query, name, value)) << name;
  }
  const auto target = parse_target(to_target("/v1/tail", query));
  ASSERT_TRUE(target) << target.error();
  const auto& parsed = target->query;
  EXPECT_EQ(target->path, "/v1/tail");
  EXPECT_EQ(parsed.filter.process_name, "a b&c=d?#%\u00fc");
  EXPECT_EQ(parsed.filter.pid, 7u);
  EXPECT_EQ(parsed.filter.host, "*.example.com");
  EXPECT_EQ(parsed.filter.status, "4xx");
  EXPECT_EQ(parsed.filter.kinds, (std::vector{RecordKind::exchange, RecordKind::policy}));
  EXPECT_EQ(parsed.filter.since, query.filter.since);
  EXPECT_TRUE(parsed.filter.since);
  EXPECT_EQ(parsed.container, "c0ffee");
  EXPECT_EQ(parsed.limit, 10u);
  EXPECT_TRUE(parsed.hide_readable_connections);
  EXPECT_EQ(to_target("/v1/tail", {}), "/v1/tail");
}

TEST(RecordQuery, RefusesWhatMakesNoSense) {
  for (const auto* target :
       {"/v1/tail?pid=-1", "/v1/tail?pid=1x", "/v1/tail?pid=99999999999", "/v1/tail?status=40",
        "/v1/tail?status=4x4", "/v1/tail?status=6xx", "/v1/tail?status=099", "/v1/tail?pid=0",
        "/v1/tail?limit=0", "/v1/tail?since=yesterday", "/v1/tail?kind=secret",
        "/v1/tail?container=", "/v1/tail?container=%25", "/v1/tail?limit=", "/v1/tail?connections=all",
        "/v1/tail?unknown=1", "v1", "http://x/v1"}) {
    EXPECT_FALSE(parse_target(target)) << target;
  }
}

}  // namespace
}  // namespace weir::agent
