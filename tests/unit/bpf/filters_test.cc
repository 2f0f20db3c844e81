#include "bpf/filters.h"

#include <gtest/gtest.h>

#include "bpf/filter_table.h"
#include "bpf/wire.h"

namespace weir::bpf {
namespace {

using Kind = FilterRule::Kind;

FilterRule parsed(const std::string& text) {
  auto rule = parse_filter(text);
  EXPECT_TRUE(rule) << text << ": " << (rule ? "" : rule.error());
  return rule ? *rule : FilterRule{};
}

TEST(Filters, EachKindIsRead) {
  EXPECT_EQ(parsed("pid:42").kind, Kind::pid);
  EXPECT_EQ(parsed("pid:42").number, 42u);
  EXPECT_EQ(parsed("process:curl").text, "curl");
  EXPECT_EQ(parsed("process:/usr/bin/python3.11").text, "/usr/bin/python3.11");
  EXPECT_EQ(parsed("cgroup:/").text, "/");
  EXPECT_EQ(parsed("cgroup:/system.slice/a:b.service").text, "/system.slice/a:b.service");
  EXPECT_EQ(parsed("cgroup:4711").number, 4711u);
  EXPECT_EQ(parsed("port:65535").number, 65'535u);
  EXPECT_EQ(parsed("library:gnutls").library, TlsLibrary::gnutls);
  EXPECT_EQ(parsed("library:none").library, TlsLibrary::none);
}

TEST(Filters, WhatIsNoFilterIsRefusedWithAReason) {
  const std::pair<std::string, std::string> wrong[] = {
      {"", "begins with"},
      {"curl", "begins with"},
      {"prot:443", "begins with"},
      {"port:", "65535"},
      {"port:0", "65535"},
      {"port:65536", "65535"},
      {"port:443 ", "65535"},
      {"pid:-1", "a pid"},
      {"pid:0", "a pid"},
      {"process:", "name of its executable"},
      {"process:bin/curl", "absolute path"},
      {"process:/", "absolute path"},
      {"process:/usr/../curl", "absolute path"},
      {"process:/usr//curl", "absolute path"},
      {"process:/usr/bin/", "absolute path"},
      {"process:" + std::string(256, 'x'), "name of its executable"},
      {"cgroup:system.slice", "root of cgroup v2"},
      {"cgroup:/a//b", "root of cgroup v2"},
      {"library:", "openssl, boringssl, gnutls, nss, go, none"},
      {"library:tls", "openssl, boringssl, gnutls, nss, go, none"},
  };
  for (const auto& [text, reason] : wrong) {
    const auto rule = parse_filter(text);
    ASSERT_FALSE(rule) << text;
    EXPECT_NE(rule.error().find(reason), std::string::npos) << text << ": " << rule.error();
  }
}

TEST(Filters, OnlyAndExceptChooseLibraries) {
  EXPECT_TRUE(Filters{}.wants(TlsLibrary::go));
  const Filters only{.only = {parsed("library:go"), parsed("library:nss"), parsed("port:443")}, .except = {}};
  EXPECT_TRUE(only.wants(TlsLibrary::go));
  EXPECT_TRUE(only.wants(TlsLibrary::nss));
  EXPECT_FALSE(only.wants(TlsLibrary::openssl));
  const Filters except{.only = {parsed("port:443")}, .except = {parsed("library:go")}};
  EXPECT_FALSE(except.wants(TlsLibrary::go));
  EXPECT_TRUE(except.wants(TlsLibrary::openssl));
}

TEST(Filters, TheTableHasOneEntryForEachThing) {
  Filters filters;
  for (const char* text : {"process:curl", "process:/bin/curl", "port:443", "library:go"})
    filters.only.push_back(parsed(text));
  for (const char* text : {"process:curl", "pid:7", "cgroup:/a/b", "cgroup:9"})
    filters.except.push_back(parsed(text));
  const FilterTable table = make_filter_table(filters);
  EXPECT_EQ(table.rules.size(), 6u);
  EXPECT_EQ(table.groups, WIRE_FILTER_PROCESSES | WIRE_FILTER_CGROUPS | WIRE_FILTER_PORTS);
  EXPECT_EQ(table.only_groups, WIRE_FILTER_PROCESSES | WIRE_FILTER_PORTS);
  EXPECT_EQ(table.rules.at({WIRE_FILTER_PORT, 443}), WIRE_FILTER_ONLY);
  EXPECT_EQ(table.rules.at({WIRE_FILTER_PID, 7}), WIRE_FILTER_EXCEPT);
  EXPECT_EQ(table.rules.at({WIRE_FILTER_CGROUP_ID, 9}), WIRE_FILTER_EXCEPT);
  std::uint32_t both = 0;
  for (const auto& [rule, effect] : table.rules) both += rule.first == WIRE_FILTER_NAME ? effect : 0;
  EXPECT_EQ(both, WIRE_FILTER_ONLY | WIRE_FILTER_EXCEPT);
}

}  // namespace
}  // namespace weir::bpf
