#include "attribution/policy_rules.h"

#include <gtest/gtest.h>

#include <random>

namespace weir {
namespace {

using http::Fields;

// A subject that owns what it speaks of.
struct Asked {
  ClientFacts client{"/usr/bin/curl", 1000, true, "/user.slice/a.scope", ""};
  Destination destination{"www.example.org", 443, parse_ip_address("192.0.2.7")};
  std::string method = "GET";
  std::string target = "/";
  Fields fields{};
  bool has_request = true;
  bool has_client = true;
  std::optional<HelloFacts> hello{};
};

Verdict ask(const Policy& policy, const Asked& asked) {
  const CompiledPolicy compiled(policy);
  const RequestSummary request{asked.method, asked.target, &asked.fields};
  const PolicySubject subject{asked.has_client ? &asked.client : nullptr, asked.destination,
                              asked.has_request ? &request : nullptr, asked.hello};
  const Verdict verdict = compiled.decide(subject);
  const Verdict slowly = compiled.decide_slowly(subject);
  EXPECT_EQ(verdict.allowed, slowly.allowed);
  EXPECT_EQ(verdict.rule, slowly.rule);
  EXPECT_EQ(verdict.inspect, slowly.inspect);
  EXPECT_EQ(verdict.log, slowly.log);
  EXPECT_EQ(verdict.undecided, slowly.undecided);
  return verdict;
}

PolicyRule deny(std::string name = "no") {
  return {.name = std::move(name), .action = PolicyAction::deny};
}
PolicyRule allow(std::string name = "yes") {
  return {.name = std::move(name), .action = PolicyAction::allow};
}
AddressRange range(const char* address, unsigned bits) {
  return {parse_ip_address(address), bits};
}

bool denies(const PolicyRule& rule, const Asked& asked) {
  return !ask({PolicyAction::allow, {rule}}, asked).allowed;
}

TEST(PolicyRules, ExecutableByPathByDirectoryAndByName) {
  Asked asked;
  PolicyRule rule = deny();
  rule.executables = {{"/usr/bin/curl", false}};
  EXPECT_TRUE(denies(rule, asked));
  asked.client.executable_path = "/usr/bin/curl2";
  EXPECT_FALSE(denies(rule, asked));
  rule.executables = {{"/opt/app/", true}};
  asked.client.executable_path = "/opt/app/bin/x";
  EXPECT_TRUE(denies(rule, asked));
  asked.client.executable_path = "/opt/application";
  EXPECT_FALSE(denies(rule, asked));
  rule.executables = {{"x", false}};
  asked.client.executable_path = "/opt/app/x";
  EXPECT_TRUE(denies(rule, asked));
  asked.client.executable_path = "/opt/x/y";
  EXPECT_FALSE(denies(rule, asked));
}

TEST(PolicyRules, UserContainerAndCgroup) {
  Asked asked;
  PolicyRule user = deny();
  user.users = {0, 1000};
  EXPECT_TRUE(denies(user, asked));
  asked.client.uid = 1001;
  EXPECT_FALSE(denies(user, asked));

  PolicyRule container = deny();
  container.containers = {{"0123ab"}};
  EXPECT_FALSE(denies(container, asked));
  asked.client.container_id = "0123abcd";
  EXPECT_TRUE(denies(container, asked));
  asked.client.container_id = "0123ac";
  EXPECT_FALSE(denies(container, asked));

  PolicyRule cgroup = deny();
  cgroup.cgroups = {"/user.slice"};
  EXPECT_TRUE(denies(cgroup, asked));
  asked.client.cgroup_path = "/user.slice2/a";
  EXPECT_FALSE(denies(cgroup, asked));
}

TEST(PolicyRules, ContainersByTheirNames) {
  Asked asked;
  asked.client.container_id = "0123abcd";
  PolicyRule named = deny();
  named.containers = {{"web", true}};
  PolicyRule by_id = deny();
  by_id.containers = {{"0123"}};
  PolicyRule within = deny();
  within.namespaces = {"prod"};
  EXPECT_TRUE(denies(named, asked)) << "how it is called is not known";
  EXPECT_TRUE(denies(within, asked));
  EXPECT_TRUE(denies(by_id, asked));
  asked.client.container = std::make_shared<const ContainerNames>(ContainerNames{.name = "web"});
  EXPECT_TRUE(denies(named, asked));
  EXPECT_FALSE(denies(within, asked));
  asked.client.container = std::make_shared<const ContainerNames>(
      ContainerNames{.name = "k8s_web_1", .k8s_namespace = "prod", .k8s_container = "web"});
  EXPECT_TRUE(denies(named, asked));
  EXPECT_TRUE(denies(within, asked));
  asked.client.container =
      std::make_shared<const ContainerNames>(ContainerNames{.name = "webs", .k8s_namespace = "production"});
  EXPECT_FALSE(denies(named, asked));
  EXPECT_FALSE(denies(within, asked));
  asked.client = {"/usr/bin/curl", 0, true, "/", ""};
  EXPECT_FALSE(denies(named, asked)) << "in no container";
  PolicyRule either = deny();
  either.containers = {{"0123"}, {"web", true}};
  PolicyRule allowed = either;
  allowed.action = PolicyAction::allow;
  const auto allows = [&] { return ask({PolicyAction::deny, {allowed}}, asked).allowed; };
  asked.client.container_id = "0123abcd";
  EXPECT_TRUE(denies(either, asked));
  EXPECT_TRUE(allows()) << "its id is enough";
  asked.client.container_id = "4567abcd";
  EXPECT_FALSE(allows()) << "how it is called is not known";
  EXPECT_TRUE(denies(either, asked));
  asked.client.container = std::make_shared<const ContainerNames>(ContainerNames{.name = "web"});
  EXPECT_TRUE(allows());
  asked.client.container_claimed = true;
  asked.client.container_id = "0123abcd";
  EXPECT_FALSE(allows()) << "who it says it is";
  EXPECT_TRUE(denies(by_id, asked));
  asked.client = {"/usr/bin/curl", 0, true, "/", ""};
  EXPECT_FALSE(denies(within, asked));
}

TEST(PolicyRules, HostExactlyAndBelow) {
  Asked asked;
  PolicyRule rule = deny();
  rule.hosts = {"www.example.org"};
  EXPECT_TRUE(denies(rule, asked));
  rule.hosts = {"example.org"};
  EXPECT_FALSE(denies(rule, asked));
  rule.hosts = {".example.org"};
  EXPECT_TRUE(denies(rule, asked));
  asked.destination.name = "example.org";
  EXPECT_TRUE(denies(rule, asked));
  asked.destination.name = "badexample.org";
  EXPECT_FALSE(denies(rule, asked));
  asked.destination.name = std::string(60'000, 'a');
  for (std::size_t i = 1; i < asked.destination.name.size(); i += 2) asked.destination.name[i] = '.';
  asked.destination.name += ".example.org";
  EXPECT_TRUE(denies(rule, asked)) << "more labels than a name can have";
}

TEST(PolicyRules, AddressByNetwork) {
  Asked asked;
  PolicyRule rule = deny();
  rule.addresses = {range("192.0.2.0", 29)};
  EXPECT_TRUE(denies(rule, asked));
  asked.destination.address = parse_ip_address("192.0.2.8");
  EXPECT_FALSE(denies(rule, asked));
  asked.destination.address = parse_ip_address("::ffff:192.0.2.7");
  EXPECT_TRUE(denies(rule, asked)) << "mapped";
  rule.addresses = {range("2001:db8::", 33)};
  asked.destination.address = parse_ip_address("2001:db8:7fff::1");
  EXPECT_TRUE(denies(rule, asked));
  asked.destination.address = parse_ip_address("2001:db8:8000::1");
  EXPECT_FALSE(denies(rule, asked));
  rule.addresses = {range("0.0.0.0", 0)};
  EXPECT_FALSE(denies(rule, asked)) << "the other family";
}

TEST(PolicyRules, PortMethodAndHeader) {
  Asked asked;
  PolicyRule port = deny();
  port.ports = {{22, 22}, {440, 443}};
  EXPECT_TRUE(denies(port, asked));
  for (const int other : {439, 444, 21, 23}) {
    asked.destination.port = static_cast<std::uint16_t>(other);
    EXPECT_FALSE(denies(port, asked)) << other;
  }

  PolicyRule method = deny();
  method.methods = {"DELETE"};
  EXPECT_FALSE(denies(method, asked));
  asked.method = "delete";
  EXPECT_TRUE(denies(method, asked));

  PolicyRule header = deny();
  header.headers = {{"x-env", "prod"}};
  asked.fields = {{"X-Env", "test"}};
  EXPECT_FALSE(denies(header, asked));
  asked.fields.push_back({"x-ENV", "prod"});
  EXPECT_TRUE(denies(header, asked));
  header.headers = {{"x-env", {}}};
  EXPECT_TRUE(denies(header, asked));
  asked.fields.clear();
  EXPECT_FALSE(denies(header, asked));
}

TEST(PolicyRules, PathsAreWhatServersTakeThemFor) {
  EXPECT_EQ(normalized_path("/a/b?c=/d"), "/a/b");
  EXPECT_EQ(normalized_path("http://h/a"), "/a");
  EXPECT_EQ(normalized_path("http://h"), "/");
  EXPECT_EQ(normalized_path("*"), "*");
  EXPECT_EQ(normalized_path("/"), "/");
  EXPECT_EQ(normalized_path("/a/"), "/a/");
  EXPECT_EQ(normalized_path("/.."), "/");
  for (const char* disguise : {"/%61dmin/x", "//admin/x", "/./admin/x", "/y/../admin/x", "/y/%2e%2E/admin/x",
                               "/admin;v=1/x", "\\admin\\x", "/admin%2fx", "/../../admin//x"}) {
    const std::string target = *disguise == '\\' ? std::string("/") + disguise : disguise;
    EXPECT_EQ(normalized_path(target), "/admin/x") << disguise;
    Asked asked;
    asked.target = target;
    PolicyRule rule = deny();
    rule.paths = {{"/admin/", true}};
    EXPECT_TRUE(denies(rule, asked)) << disguise;
    rule.paths = {{"/admin", false}};
    EXPECT_FALSE(denies(rule, asked)) << disguise;
  }
}

bool reads(const std::string& target, const std::string& path) {
  const auto readings = path_readings(target);
  return std::ranges::find(readings, path) != readings.end();
}

// Of servers that do only some of it, or in another order.
TEST(PolicyRules, APathHasAllReadingsThatServersGiveIt) {
  const struct {
    const char* target;
    const char* path;
  } cases[] = {{"/%61dmin/../x?q", "/admin/../x"},  // nothing
               {"/a/%2e%2e/b", "/a/../b"},          // decoded alone
               {"/admin/%2e%2e", "/admin/%2e%2e"},  // dots alone
               {"/a/../admin/%2f", "/admin/%2f"},   //
               {"/x%2fy/../%61dmin", "/admin"},     // dots before decoding
               {"/x%2fy/../%61dmin", "/x/admin"},   // and behind it
               {"/admin;v=1", "/admin;v=1"},        // parameters kept
               {"/y/..;/admin", "/y/..;/admin"},    //
               {"/admin/..\\x", "/admin/..\\x"},    // no backslash
               {"/a//../admin", "/a/admin"},        // an empty segment is one
               {"//admin", "//admin"},              //
               {"/admin%3bx/y", "/admin/y"},        // and all of it
               {"/admin/x/%2E./../admin", "/admin"}};
  for (const auto& [target, path] : cases) EXPECT_TRUE(reads(target, path)) << target << " as " << path;
  for (const char* plain :
       {"/", "/a/b", "/a.b/c..d/", "*", "/a%20b/caf%C3%A9", "/.well-known/x", "/a/b?c=%2e//..;x\\"})
    EXPECT_EQ(path_readings(plain).size(), 1u) << plain;
}

TEST(PolicyRules, ADenyTakesAnyReadingAndAnAllowAll) {
  const auto denied = [](const char* target) {
    Asked asked;
    asked.target = target;
    PolicyRule rule = deny();
    rule.paths = {{"/admin/", true}};
    return denies(rule, asked);
  };
  const auto allowed = [](const char* target) {
    Asked asked;
    asked.target = target;
    PolicyRule rule = allow();
    rule.paths = {{"/public/", true}};
    return ask({PolicyAction::deny, {rule}}, asked).allowed;
  };
  for (const char* target : {"/admin/../x", "/admin/%2e%2e/x", "/x%2fy/../%61dmin/z", "/admin/..;/x",
                             "/admin/x/..%2f..%2fy", "/admin/..\\x", "/a//../admin/x", "/admin;/x"})
    EXPECT_TRUE(denied(target)) << target;
  for (const char* target : {"/adminx/../x", "/x", "/a/%41dmin/"}) EXPECT_FALSE(denied(target)) << target;
  for (const char* target : {"/public/a", "/public/a%20b", "/public/a//b", "/public/a;v=1", "/public/a/../b"})
    EXPECT_TRUE(allowed(target)) << target;
  for (const char* target : {"/public/../admin", "/public/%2e%2e/admin", "/public/..%2fadmin",
                             "/x/../public/a", "/public/..;/admin", "/public/..\\admin", "//public/a"})
    EXPECT_FALSE(allowed(target)) << target;
}

TEST(PolicyRules, AnAuthorityIsAHost) {
  const http::Fields fields;
  const Destination to{"example.org", 443, {}};
  PolicyRule by_value = deny();
  by_value.headers = {{"host", "x.test"}};
  PolicyRule by_name = deny();
  by_name.headers = {{"host", {}}};
  for (const PolicyRule& rule : {by_value, by_name}) {
    const CompiledPolicy policy({PolicyAction::allow, {rule}});
    for (const char* authority : {"x.test", "y.test", ""}) {
      const RequestSummary request{"GET", "/", &fields, authority};
      const bool matches = rule.headers[0].value ? authority == *rule.headers[0].value : *authority != '\0';
      EXPECT_EQ(policy.decide({nullptr, to, &request}).allowed, !matches) << authority;
      EXPECT_EQ(policy.decide_slowly({nullptr, to, &request}).allowed, !matches) << authority;
    }
  }
}

TEST(PolicyRules, TheFirstMatchWins) {
  Asked asked;
  PolicyRule first = allow("first");
  first.ports = {{443, 443}};
  EXPECT_EQ(ask({PolicyAction::deny, {first, deny("second")}}, asked).rule, "first");
  asked.destination.port = 80;
  const Verdict second = ask({PolicyAction::allow, {first, deny("second")}}, asked);
  EXPECT_FALSE(second.allowed);
  EXPECT_EQ(second.rule, "second");
  PolicyRule logs{.name = "log", .action = PolicyAction::log};
  EXPECT_TRUE(ask({PolicyAction::deny, {logs, deny()}}, asked).log);
  EXPECT_FALSE(ask({PolicyAction::deny, {}}, asked).allowed);
  EXPECT_TRUE(ask({PolicyAction::allow, {}}, asked).allowed);
}

TEST(PolicyRules, WhatAConnectionBeginsWith) {
  Asked asked;
  asked.has_request = false;
  const HelloFacts named{.is_tls = true, .has_server_name = true};
  const HelloFacts nameless{.is_tls = true};
  const HelloFacts encrypted{.is_tls = true, .has_server_name = true, .has_encrypted = true};
  const auto refused = [&](HelloTrait trait, std::optional<HelloFacts> hello) {
    PolicyRule rule = deny();
    rule.hellos = {trait};
    asked.hello = hello;
    return denies(rule, asked);
  };
  EXPECT_TRUE(refused(HelloTrait::encrypted, encrypted));
  EXPECT_FALSE(refused(HelloTrait::encrypted, named));
  EXPECT_TRUE(refused(HelloTrait::without_server_name, nameless));
  EXPECT_FALSE(refused(HelloTrait::without_server_name, encrypted));
  EXPECT_FALSE(refused(HelloTrait::without_server_name, HelloFacts())) << "it is not TLS";
  EXPECT_FALSE(refused(HelloTrait::encrypted, std::nullopt)) << "nothing was said yet";
  asked.has_request = true;
  EXPECT_FALSE(refused(HelloTrait::without_server_name, std::nullopt)) << "a request in the clear";
  EXPECT_TRUE(refused(HelloTrait::without_server_name, nameless));

  PolicyRule only = allow();
  only.hellos = {HelloTrait::encrypted};
  asked.has_request = false;
  asked.hello = std::nullopt;
  EXPECT_TRUE(ask({PolicyAction::deny, {only}}, asked).allowed) << "it may be one yet";
  asked.hello = named;
  EXPECT_FALSE(ask({PolicyAction::deny, {only}}, asked).allowed);
}

// What a connection alone doesn't show.
TEST(PolicyRules, WhatIsNotKnownYetDecidesOnlyWhereItMakesNoDifference) {
  Asked asked;
  asked.has_request = false;
  PolicyRule path = deny("path");
  path.paths = {{"/admin", false}};
  Verdict verdict = ask({PolicyAction::allow, {path}}, asked);
  EXPECT_TRUE(verdict.allowed);
  EXPECT_TRUE(verdict.inspect);
  EXPECT_EQ(verdict.rule, "path");
  verdict = ask({PolicyAction::deny, {path}}, asked);
  EXPECT_FALSE(verdict.allowed) << "either way it is";

  path.hosts = {"other.example"};
  EXPECT_FALSE(ask({PolicyAction::allow, {path}}, asked).inspect) << "it can't match";

  PolicyRule network = deny("network");
  network.addresses = {range("10.0.0.0", 8)};
  asked.destination.address = {};
  verdict = ask({PolicyAction::allow, {network}}, asked);
  EXPECT_TRUE(verdict.allowed);
  EXPECT_FALSE(verdict.inspect) << "the address comes by itself";

  PolicyRule host = allow("host");
  host.hosts = {"www.example.org"};
  asked.destination.name = "";
  EXPECT_TRUE(ask({PolicyAction::deny, {host}}, asked).allowed) << "before the ClientHello";
}

TEST(PolicyRules, AClientThatIsNotKnownGetsNothingByIt) {
  Asked asked;
  asked.has_client = false;
  PolicyRule no = deny();
  no.users = {1};
  EXPECT_TRUE(denies(no, asked));
  PolicyRule yes = allow();
  yes.executables = {{"curl", false}};
  EXPECT_FALSE(ask({PolicyAction::deny, {yes}}, asked).allowed);
}

TEST(PolicyRules, ExplainsEachRule) {
  Asked asked;
  PolicyRule port = deny("port");
  port.ports = {{22, 22}};
  PolicyRule path = deny("path");
  path.paths = {{"/admin", false}};
  const CompiledPolicy compiled({PolicyAction::allow, {port, path}});
  const PolicySubject subject{&asked.client, asked.destination, nullptr};
  EXPECT_EQ(compiled.explain(0, subject).why, "port is 443");
  EXPECT_EQ(compiled.explain(0, subject).answer, Answer::no);
  EXPECT_EQ(compiled.explain(1, subject).why, "path is not known");
  EXPECT_EQ(compiled.explain(1, subject).answer, Answer::maybe);
}

TEST(PolicyRules, AVerdictSaysWhetherWhatIsNotKnownCouldChangeIt) {
  Asked asked;
  asked.has_request = false;
  asked.destination.name = "";
  PolicyRule by_name = deny();
  by_name.hosts = {"example.org"};
  PolicyRule by_hello = deny();
  by_hello.hellos = {HelloTrait::without_server_name};
  PolicyRule by_path = allow();
  by_path.action = PolicyAction::log;
  by_path.paths = {{"/a", false}};
  for (const PolicyRule& rule : {by_name, by_hello, by_path})
    EXPECT_TRUE(ask({PolicyAction::allow, {rule}}, asked).undecided);
  EXPECT_FALSE(ask({PolicyAction::allow, {}}, asked).undecided);
  EXPECT_FALSE(ask({PolicyAction::deny, {by_name}}, asked).undecided);
  asked.destination.name = "other.org";
  EXPECT_FALSE(ask({PolicyAction::allow, {by_name}}, asked).undecided);
}

// The index must never know better than the rules.
TEST(PolicyRules, TheIndexAgreesWithTheRulesOneByOne) {
  std::mt19937 random(4711);
  const auto one_of = [&](auto list) { return *(list.begin() + random() % list.size()); };
  const auto rarely = [&] { return random() % 4 == 0; };
  const std::initializer_list<const char*> names{"example.org", ".example.org", "a.example.org", ".org",
                                                 "b.net"};
  const std::initializer_list<const char*> addresses{"192.0.2.7", "192.0.3.0", "10.0.0.1", "2001:db8::1"};
  const std::initializer_list<const char*> paths{"/", "/a", "/a/", "/a/b", "/b"};
  const std::initializer_list<const char*> programs{"/usr/bin/curl", "curl", "/usr/bin/", "/opt/", "wget"};
  for (int round = 0; round < 300; ++round) {
    Policy policy{random() % 2 ? PolicyAction::allow : PolicyAction::deny, {}};
    const std::size_t rules = random() % 140;
    for (std::size_t i = 0; i < rules; ++i) {
      PolicyRule rule{.name = std::to_string(i), .action = static_cast<PolicyAction>(random() % 3)};
      if (random() % 2) rule.hosts = {one_of(names)};
      if (rarely()) rule.executables = {{one_of(programs), false}};
      if (rarely()) rule.executables = {{one_of(programs), true}};
      if (rarely()) rule.users = {static_cast<std::uint32_t>(random() % 3)};
      if (rarely()) rule.containers = {{random() % 2 ? "ab" : "abcd"}};
      if (rarely()) rule.containers = {{random() % 2 ? "web" : "abcd", true}};
      if (rarely()) rule.containers.push_back({"abc"});
      if (rarely()) rule.namespaces = {random() % 2 ? "prod" : "test"};
      if (rarely()) rule.cgroups = {random() % 2 ? "/" : "/a"};
      if (random() % 2) rule.addresses = {range(one_of(addresses), static_cast<unsigned>(random() % 33))};
      if (rarely()) rule.ports = {{80, static_cast<std::uint16_t>(80 + random() % 400)}, {443, 443}};
      if (rarely()) rule.hellos = {random() % 2 ? HelloTrait::encrypted : HelloTrait::without_server_name};
      if (rarely()) rule.methods = {random() % 2 ? "GET" : "PUT"};
      if (rarely()) rule.paths = {{one_of(paths), random() % 2 == 0}};
      if (rarely()) rule.headers = {{"x", {}}};
      policy.rules.push_back(std::move(rule));
    }
    for (int subject = 0; subject < 20; ++subject) {
      Asked asked;
      asked.has_client = !rarely();
      asked.has_request = !rarely();
      asked.client.executable_path =
          one_of(std::initializer_list<const char*>{"/usr/bin/curl", "/opt/x", ""});
      asked.client.uid = static_cast<std::uint32_t>(random() % 3);
      asked.client.container_id = random() % 2 ? "abcdef" : "";
      asked.client.cgroup_known = !rarely();
      asked.client.container_claimed = rarely();
      if (random() % 2)
        asked.client.container = std::make_shared<const ContainerNames>(
            ContainerNames{.name = random() % 2 ? "web" : "db", .k8s_namespace = random() % 2 ? "prod" : ""});
      asked.destination.name =
          one_of(std::initializer_list<const char*>{"a.example.org", "b.net", "", "10.0.0.1"});
      asked.destination.address = rarely() ? IpAddress() : parse_ip_address(one_of(addresses));
      asked.destination.port = random() % 2 ? 80 : 443;
      asked.method = random() % 2 ? "GET" : "put";
      asked.target = one_of(std::initializer_list<const char*>{"/a/b?c", "/b", "//a/", "*", "/a/%2e./b",
                                                               "/b/..;x/a", "/b\\a/"});
      if (rarely()) asked.fields = {{"X", "1"}};
      if (random() % 2) asked.hello = {random() % 2 == 0, random() % 2 == 0, random() % 2 == 0};
      ask(policy, asked);
    }
    if (testing::Test::HasFailure()) break;
  }
}

}  // namespace
}  // namespace weir
