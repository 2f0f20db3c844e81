#include "agent/config.h"

#include <gtest/gtest.h>

namespace weir::agent {
namespace {

TEST(Config, ReadsEveryKindOfSetting) {
  Config config = default_config();
  const auto read = read_config_text(
      "bodies: on\n"
      "proxy:\n"
      "  listen: '[::1]:9000'\n"
      "  passthrough: [example.org, .example.net, 192.0.2.7, '2001:db8::7']\n"
      "  threads: 3\n"
      "native:\n"
      "  enabled: false\n"
      "  ring_bytes: 4194304\n"
      "  only: ['port:443', process:curl]\n"
      "  except: ['cgroup:/a']\n"
      "retention:\n"
      "  max_age_hours: 48\n"
      "  max_bytes: 10485760\n",
      "weir.yaml", config);
  ASSERT_TRUE(read) << read.error().what;
  EXPECT_TRUE(config.bodies);
  EXPECT_EQ(config.proxy_listen.to_string(), "[::1]:9000");
  EXPECT_EQ(config.passthrough,
            (std::vector<std::string>{"example.org", ".example.net", "192.0.2.7", "2001:db8::7"}));
  EXPECT_EQ(config.proxy_threads, 3u);
  EXPECT_FALSE(config.native);
  EXPECT_EQ(config.ring_bytes, 4u << 20);
  EXPECT_EQ(filters_of(config).only.at(0).number, 443u);
  EXPECT_EQ(filters_of(config).only.at(1).text, "curl");
  EXPECT_EQ(filters_of(config).except.at(0).text, "/a");
  EXPECT_EQ(config.store_max_age_hours, 48u);
  EXPECT_EQ(config.store_max_bytes, 10u << 20);
}

struct BadText {
  const char* text;
  const char* expected;
};

class ConfigErrors : public testing::TestWithParam<BadText> {};

TEST_P(ConfigErrors, NamesTheLineAndLeavesTheConfigurationAlone) {
  Config config = default_config();
  const std::string before = to_yaml(config);
  const auto read = read_config_text(GetParam().text, "weir.yaml", config);
  ASSERT_FALSE(read);
  EXPECT_NE(read.error().what.find(GetParam().expected), std::string::npos) << read.error().what;
  EXPECT_EQ(to_yaml(config), before);
}

INSTANTIATE_TEST_SUITE_P(
    All, ConfigErrors,
    testing::Values(
        BadText{"bodies: true\nproxi:\n  listen: 1\n", "weir.yaml:2: unknown setting 'proxi'"},
        BadText{"proxy:\n  listne: 1\n", "weir.yaml:2: unknown setting 'proxy.listne'"},
        BadText{"bodies: maybe\n", "weir.yaml:1: bodies is true or false"},
        BadText{"bodies: true\nproxy:\n  listen: 7443\n", "weir.yaml:3: proxy.listen"},
        BadText{"native:\n  ring_bytes: 12\n", "weir.yaml:2: native.ring_bytes is a whole number"},
        BadText{"native:\n  ring_bytes: -1\n", "weir.yaml:2: native.ring_bytes"},
        BadText{"native:\n  ring_bytes: 3000000\n", "weir.yaml:2: native.ring_bytes is a power of two"},
        BadText{"native:\n  only: port:443\n", "weir.yaml:2: native.only is a list"},
        BadText{"native:\n  except:\n    - port:443\n    - prot:80\n",
                "weir.yaml:4: native.except: 'prot:80': a filter begins with"},
        BadText{"proxy:\n  passthrough: one\n", "weir.yaml:2: proxy.passthrough is a list"},
        BadText{"proxy:\n  passthrough:\n    - .a.example\n    - '*.bank.example'\n",
                "weir.yaml:4: proxy.passthrough: '*.bank.example' can be the name of no host"},
        BadText{"proxy:\n  passthrough: ['foo:443']\n", "weir.yaml:2: proxy.passthrough: 'foo:443' can be"},
        BadText{"proxy:\n  passthrough: [127.1]\n", "weir.yaml:2: proxy.passthrough: '127.1' can be"},
        BadText{"proxy:\n  passthrough: ['2001:DB8::1']\n", "weir.yaml:2: proxy.passthrough: '2001:DB8::1'"},
        BadText{"container_state: [/run/a, relative]\n", "weir.yaml:1: container_state: 'relative' is no"},
        BadText{"engine:\n  shards: 0\n", "weir.yaml:2: engine.shards is a whole number from 1 to 256"},
        BadText{"proxy: 5\n", "weir.yaml:1: 'proxy' holds a map"},
        BadText{"- a\n", "weir.yaml:1: expected a map"}, BadText{"a: [\n", "weir.yaml:"},
        BadText{"bodies: on\n---\nredact: off\n", "weir.yaml:2: a second document"},
        BadText{"bodies: on\n...\nredact: off\n", "weir.yaml:3: a second document"},
        BadText{"bodies: on\nbodies: off\n", "weir.yaml:2: 'bodies' is there twice"},
        BadText{"proxy:\n  threads: 1\nproxy:\n  threads: 2\n", "weir.yaml:3: 'proxy' is there twice"},
        BadText{"proxy:\n  threads: 1\n  threads: 2\n", "weir.yaml:3: 'proxy.threads' is there twice"},
        BadText{"retention:\n  max_bytes: 1\n", "weir.yaml:2: retention.max_bytes"},
        BadText{"bodies: on\njsonl: a\xbb\n", "weir.yaml:2: not UTF-8"},
        BadText{"bodies: on\njsonl: \"a\\0\"\n", "weir.yaml:2: jsonl holds a character that"},
        BadText{"proxy:\n  passthrough: [a, \"b\\uffff\"]\n",
                "weir.yaml:2: proxy.passthrough holds a character that"}));

TEST(Config, ItsOwnTextGivesTheSameConfiguration) {
  Config config = default_config();
  config.state_dir = "/tmp/a \"quoted\" place";
  config.passthrough = {"a.example", ".b.example"};
  config.bodies = true;
  config.native_only = {"process:/opt/a \"b\"", "port:443"};
  config.native_except = {"pid:7"};
  config.shards = 4;
  Config copy = default_config();
  const auto read = read_config_text(to_yaml(config), "copy", copy);
  ASSERT_TRUE(read) << read.error().what;
  EXPECT_EQ(to_yaml(copy), to_yaml(config));
  EXPECT_EQ(copy.state_dir, config.state_dir);
}

TEST(Endpoint, RefusesWhatIsNoAddressAndPort) {
  for (const char* text :
       {"", "7443", "127.0.0.1", "127.0.0.1:", "127.0.0.1:70000", "::1:80", "name:80", "[::1]80"}) {
    EXPECT_FALSE(parse_endpoint(text)) << text;
  }
  EXPECT_EQ(parse_endpoint("localhost:80")->to_string(), "127.0.0.1:80");
}

}  // namespace
}  // namespace weir::agent
