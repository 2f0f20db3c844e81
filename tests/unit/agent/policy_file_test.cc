#include "agent/policy_file.h"

#include <gtest/gtest.h>

#include "agent/policy_report.h"

namespace weir::agent {
namespace {

std::optional<std::uint32_t> users(const std::string& name) {
  return name == "www-data" ? std::optional<std::uint32_t>(33) : std::nullopt;
}

TEST(PolicyFile, ReadsEveryKind) {
  const auto policy = read_policy_text(
      "default: deny\n"
      "rules:\n"
      "  - allow: everything\n"
      "    executable: [curl, /usr/bin/wget, /opt/app/*]\n"
      "    user: [www-data, 1000]\n"
      "    container: [0123abcd0123, web, db]\n"
      "    namespace: [prod, team-a]\n"
      "    cgroup: /system.slice/x.service\n"
      "    host: [Example.ORG, .example.net, 1.2x]\n"
      "    address: [10.0.0.0/8, 192.0.2.7, '2001:db8::/32']\n"
      "    port: [443, 8000-8999]\n"
      "    hello: [ech, no-sni]\n"
      "    method: [get, POST]\n"
      "    path: [/, /a/*]\n"
      "    header: [x-debug, 'X-Env: prod']\n"
      "  - {log: rest, port: 80}\n",
      "p.yaml", users);
  ASSERT_TRUE(policy) << policy.error().what;
  EXPECT_EQ(policy->fallback, PolicyAction::deny);
  ASSERT_EQ(policy->rules.size(), 2u);
  const PolicyRule& rule = policy->rules[0];
  EXPECT_EQ(rule.name, "everything");
  EXPECT_EQ(rule.action, PolicyAction::allow);
  EXPECT_EQ(rule.line, 3u);
  EXPECT_EQ(rule.executables.at(0).text, "curl");
  EXPECT_EQ(rule.executables.at(2).text, "/opt/app/");
  EXPECT_TRUE(rule.executables.at(2).prefix);
  EXPECT_EQ(rule.users, (std::vector<std::uint32_t>{33, 1000}));
  ASSERT_EQ(rule.containers.size(), 3u);
  EXPECT_FALSE(rule.containers[0].is_name);
  EXPECT_TRUE(rule.containers[1].is_name);
  EXPECT_TRUE(rule.containers[2].is_name) << "too short for an id";
  EXPECT_EQ(rule.namespaces, (std::vector<std::string>{"prod", "team-a"}));
  EXPECT_EQ(rule.hosts, (std::vector<std::string>{"example.org", ".example.net", "1.2x"}));
  EXPECT_EQ(rule.addresses.at(0).to_string(), "10.0.0.0/8");
  EXPECT_EQ(rule.addresses.at(1).bits, 32u);
  EXPECT_EQ(rule.addresses.at(2).to_string(), "2001:db8::/32");
  EXPECT_EQ(rule.ports.at(1).last, 8999);
  EXPECT_EQ(rule.hellos, (std::vector{HelloTrait::encrypted, HelloTrait::without_server_name}));
  EXPECT_EQ(rule.methods, (std::vector<std::string>{"GET", "POST"}));
  EXPECT_EQ(rule.paths.at(1).text, "/a/");
  EXPECT_TRUE(rule.paths.at(1).prefix);
  EXPECT_EQ(rule.headers.at(1).name, "x-env");
  EXPECT_EQ(rule.headers.at(1).value, "prod");
  EXPECT_EQ(policy->rules[1].line, 16u);
}

struct BadText {
  const char* text;
  const char* expected;
};

class PolicyFileErrors : public testing::TestWithParam<BadText> {};

TEST_P(PolicyFileErrors, NameTheLine) {
  const auto policy = read_policy_text(GetParam().text, "p.yaml", users);
  ASSERT_FALSE(policy);
  EXPECT_NE(to_string(policy.error()).find(GetParam().expected), std::string::npos)
      << to_string(policy.error());
}

INSTANTIATE_TEST_SUITE_P(
    All, PolicyFileErrors,
    testing::Values(
        BadText{"[]", "p.yaml:1: a policy is a map"}, BadText{"", "p.yaml:1: a policy is a map"},
        BadText{"# nothing\n", "p.yaml:1: a policy is a map"},
        BadText{"default: allow\n---\ndefault: deny\n", "p.yaml:2: a second document"},
        BadText{"default: allow\nrules:\n...\n\n  - {deny: a}\n", "p.yaml:5: a second document"},
        BadText{", ,", "p.yaml:1: a second document"}, BadText{"- a\nb: c\n", "p.yaml:2: a second document"},
        BadText{"default: allow\n---\n[", "p.yaml:3: "},
        BadText{"default: allow\n---\n", "p.yaml:2: a second document"},
        BadText{"rules: []\n", "p.yaml:1: 'default' is missing"},
        BadText{"default: log\n", "p.yaml:1: 'default' is allow or deny"},
        BadText{"default: deny\ndefault: allow\n", "p.yaml:2: 'default' is there twice"},
        BadText{"default: deny\nrule: []\n", "p.yaml:2: unknown key 'rule'"},
        BadText{"default: deny\nrules: {}\n", "p.yaml:2: 'rules' is a list"},
        BadText{"default: deny\nrules:\n  - port: 1\n", "p.yaml:3: the rule says neither"},
        BadText{"default: deny\nrules:\n  - deny: a\n    prot: 1\n", "p.yaml:4: unknown key 'prot'"},
        BadText{"default: deny\nrules:\n  - deny: a\n    allow: b\n", "p.yaml:4: a rule has one of"},
        BadText{"default: deny\nrules:\n  - deny: a\n  - deny: a\n",
                "p.yaml:4: another rule has the name 'a' (line 3)"},
        BadText{"default: deny\nrules:\n  - deny: a\n    port: 1\n    port: 2\n",
                "p.yaml:5: 'port' is there twice"},
        BadText{"default: deny\nrules:\n  - deny: a\n    port: 65536\n",
                "p.yaml:4: port: a port is a number"},
        BadText{"default: deny\nrules:\n  - deny: a\n    port: 9-8\n", "p.yaml:4: port:"},
        BadText{"default: deny\nrules:\n  - deny: a\n    port:\n      - 1\n      - x\n", "p.yaml:6: port:"},
        BadText{"default: deny\nrules:\n  - deny: a\n    port: []\n", "p.yaml:4: port is a text, or a list"},
        BadText{"default: deny\nrules:\n  - deny: a\n    host: 10.0.0.1\n",
                "p.yaml:4: host: '10.0.0.1' is an address"},
        BadText{"default: deny\nrules:\n  - deny: a\n    host: 127.1\n",
                "p.yaml:4: host: '127.1' is no name"},
        BadText{"default: deny\nrules:\n  - deny: a\n    host: 2130706433\n",
                "p.yaml:4: host: '2130706433' is"},
        BadText{"default: deny\nrules:\n  - deny: a\n    host: .x.0x7F\n", "p.yaml:4: host: '.x.0x7F' is no"},
        BadText{"default: deny\nrules:\n  - deny: a\n    host: '*.org'\n", "p.yaml:4: host: a host is"},
        BadText{"default: deny\nrules:\n  - deny: a\n    address: 10.0.0.1/8\n",
                "p.yaml:4: address: '10.0.0.1/8' has bits"},
        BadText{"default: deny\nrules:\n  - deny: a\n    address: 10.0.0.0/33\n", "p.yaml:4: address:"},
        BadText{"default: deny\nrules:\n  - deny: a\n    user: nobody-here\n",
                "p.yaml:4: user: no user 'nobody-here'"},
        BadText{"default: deny\nrules:\n  - deny: a\n    executable: bin/x\n", "p.yaml:4: executable:"},
        BadText{"default: deny\nrules:\n  - deny: a\n    container: X/Z\n", "p.yaml:4: container:"},
        BadText{"default: deny\nrules:\n  - deny: a\n    namespace: a b\n", "p.yaml:4: namespace:"},
        BadText{"default: deny\nrules:\n  - deny: a\n    cgroup: a\n", "p.yaml:4: cgroup:"},
        BadText{"default: deny\nrules:\n  - deny: a\n    method: 'a b'\n", "p.yaml:4: method:"},
        BadText{"default: deny\nrules:\n  - deny: a\n    path: a\n", "p.yaml:4: path:"},
        BadText{"default: deny\nrules:\n  - deny: a\n    path: /a/../b\n", "p.yaml:4: path:"},
        BadText{"default: deny\nrules:\n  - deny: a\n    header: 'a b: c'\n", "p.yaml:4: header:"},
        BadText{"default: deny\nrules:\n  - deny: a\n    hello: sni\n", "p.yaml:4: hello:"},
        BadText{"default: deny\nrules:\n  - deny: [\n", "p.yaml:4:"}));

TEST(PolicyFile, OneDocumentMayBeginAndEndAsYamlHasIt) {
  const auto policy = read_policy_text("%YAML 1.2\n---\ndefault: allow\n...\n", "p.yaml", users);
  EXPECT_TRUE(policy) << policy.error().what;
}

TEST(PolicyReport, SaysWhereARuleIsEnforced) {
  const auto policy = read_policy_text(
      "default: allow\n"
      "rules:\n"
      "  - {deny: metadata, address: 169.254.169.254}\n"
      "  - {allow: named, host: example.org, port: 443}\n"
      "  - {deny: tls, port: 443}\n"
      "  - {deny: mail, port: 25}\n"
      "  - {deny: hidden, hello: ech}\n",
      "p.yaml", users);
  ASSERT_TRUE(policy);
  const std::string text = describe_coverage(*policy, "p.yaml");
  EXPECT_NE(text.find("p.yaml:3: deny 'metadata': in the kernel, at connect, and by the proxy\n"),
            std::string::npos)
      << text;
  EXPECT_NE(text.find("p.yaml:4: allow 'named': by the egress proxy (host), to which"), std::string::npos)
      << text;
  EXPECT_NE(
      text.find("p.yaml:5: deny 'tls': in the kernel and by the proxy, but in the kernel not where 'named'"),
      std::string::npos)
      << text;
  EXPECT_NE(text.find("p.yaml:6: deny 'mail': in the kernel, at connect, and by the proxy\n"),
            std::string::npos)
      << text;
  EXPECT_NE(text.find("p.yaml:7: deny 'hidden': by the egress proxy (hello), to which"), std::string::npos)
      << text;
  EXPECT_NE(text.find("5 rules, default allow"), std::string::npos);
}

}  // namespace
}  // namespace weir::agent
