// What the policy programs refuse, as the loaded programs judge real processes. Each rule names a port or a
// program of the test's own: the programs hold for the whole host. Needs root.
#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>

#include "tests/kernel/support.h"

namespace weir::test {
namespace {

// A socket on loopback that a client may reach.
class Receiver {
 public:
  explicit Receiver(int type, int family = AF_INET)
      : family_(family), descriptor_(::socket(family, type, 0)) {
    sockaddr_storage any{};
    any.ss_family = static_cast<sa_family_t>(family);
    if (family == AF_INET)
      reinterpret_cast<sockaddr_in*>(&any)->sin_addr.s_addr = ::htonl(INADDR_LOOPBACK);
    else
      reinterpret_cast<sockaddr_in6*>(&any)->sin6_addr = in6addr_loopback;
    ::bind(descriptor_, reinterpret_cast<sockaddr*>(&any), sizeof any);
    if (type == SOCK_STREAM) ::listen(descriptor_, 16);
    length_ = sizeof address_;
    ::getsockname(descriptor_, reinterpret_cast<sockaddr*>(&address_), &length_);
  }
  ~Receiver() { ::close(descriptor_); }
  Receiver(const Receiver&) = delete;
  Receiver& operator=(const Receiver&) = delete;
  std::uint16_t port() const {
    return ::ntohs(family_ == AF_INET ? reinterpret_cast<const sockaddr_in*>(&address_)->sin_port
                                      : reinterpret_cast<const sockaddr_in6*>(&address_)->sin6_port);
  }
  const sockaddr* address() const { return reinterpret_cast<const sockaddr*>(&address_); }
  socklen_t length() const { return length_; }

 private:
  int family_;
  int descriptor_;
  sockaddr_storage address_{};
  socklen_t length_ = 0;
};

// 0, or the errno.
int connect_to(const sockaddr* address, socklen_t length, int type = SOCK_STREAM) {
  const int descriptor = ::socket(address->sa_family, type, 0);
  const int error = ::connect(descriptor, address, length) == 0 ? 0 : errno;
  ::close(descriptor);
  return error;
}
int connect_to(const Receiver& to, int type = SOCK_STREAM) {
  return connect_to(to.address(), to.length(), type);
}
int send_to(const Receiver& to) {
  const int descriptor = ::socket(to.address()->sa_family, SOCK_DGRAM, 0);
  const int error = ::sendto(descriptor, "x", 1, 0, to.address(), to.length()) == 1 ? 0 : errno;
  ::close(descriptor);
  return error;
}

PolicyRule deny(const std::string& name, std::uint16_t port) {
  PolicyRule rule{.name = name, .action = PolicyAction::deny};
  rule.ports = {{port, port}};
  return rule;
}
PolicyRule allow(const std::string& name, std::uint16_t port) {
  PolicyRule rule = deny(name, port);
  rule.action = PolicyAction::allow;
  return rule;
}

class PolicyPrograms : public ::testing::Test {
 protected:
  PolicyPrograms() { load(false); }
  void load(bool steers) {
    bpf::LoadOptions options = default_options();
    options.policy = true;
    options.policy_steers = steers;
    tap_.reset();
    tap_.emplace(options);
  }
  void set(std::vector<PolicyRule> rules, PolicyAction fallback = PolicyAction::allow) {
    const auto done = tap_->kernel().set_policy({fallback, std::move(rules)});
    ASSERT_TRUE(done) << done.error().what;
  }
  std::vector<const PolicyDecided*> decided(const std::string& rule) {
    const auto found = [&] {
      return tap_->events().all<PolicyDecided>([&](const auto& one) { return one.rule == rule; });
    };
    tap_->wait_for([&] { return !found().empty(); });
    return found();
  }
  // Whether that copy of a shell may connect to the port, as bash's /dev/tcp does it.
  bool reaches(const std::string& shell, std::uint16_t port, std::vector<std::string> prefix = {}) {
    prefix.insert(prefix.end(),
                  {shell, "-c", "exec 3<>/dev/tcp/127.0.0.1/" + std::to_string(port) + " && echo yes"});
    return Child(prefix).finish() == "yes\n";
  }
  std::optional<Tap> tap_;
};

TEST_F(PolicyPrograms, RefuseAddressesAndPortsOfBothFamilies) {
  const Receiver v4(SOCK_STREAM), v6(SOCK_STREAM, AF_INET6), datagrams(SOCK_DGRAM), other(SOCK_STREAM);
  PolicyRule network = deny("network", v4.port());
  network.addresses = {{parse_ip_address("10.0.0.0"), 8}, {parse_ip_address("127.0.0.0"), 31}};
  PolicyRule network6 = deny("network6", v6.port());
  network6.addresses = {{parse_ip_address("::"), 127}};
  set({network, network6, deny("datagrams", datagrams.port())});
  EXPECT_EQ(connect_to(v4), EPERM);
  EXPECT_EQ(connect_to(v6), EPERM);
  EXPECT_EQ(connect_to(datagrams, SOCK_DGRAM), EPERM);
  EXPECT_EQ(send_to(datagrams), EPERM);
  EXPECT_EQ(connect_to(other), 0);
  sockaddr_in6 mapped{};
  mapped.sin6_family = AF_INET6;
  mapped.sin6_port = ::htons(v4.port());
  ::inet_pton(AF_INET6, "::ffff:127.0.0.1", &mapped.sin6_addr);
  EXPECT_EQ(connect_to(reinterpret_cast<sockaddr*>(&mapped), sizeof mapped), EPERM);

  // The wildcard leads to loopback.
  for (const char* wildcard : {"::", "::ffff:0.0.0.0"}) {
    ::inet_pton(AF_INET6, wildcard, &mapped.sin6_addr);
    mapped.sin6_port = ::htons(wildcard == std::string_view("::") ? v6.port() : v4.port());
    EXPECT_EQ(connect_to(reinterpret_cast<sockaddr*>(&mapped), sizeof mapped), EPERM) << wildcard;
  }
  sockaddr_in any{};
  any.sin_family = AF_INET;
  any.sin_port = ::htons(v4.port());
  EXPECT_EQ(connect_to(reinterpret_cast<sockaddr*>(&any), sizeof any), EPERM);

  network.addresses = {{parse_ip_address("127.0.0.2"), 31}};
  network6.addresses = {{parse_ip_address("::2"), 127}};
  set({network, network6});
  EXPECT_EQ(connect_to(v4), 0);
  EXPECT_EQ(connect_to(v6), 0);
  EXPECT_EQ(send_to(datagrams), 0);

  const auto told = decided("network");
  ASSERT_EQ(told.size(), 4u);
  EXPECT_EQ(told[0]->process.pid, static_cast<std::uint32_t>(::getpid()));
  EXPECT_EQ(told[0]->peer.to_string(), "127.0.0.1:" + std::to_string(v4.port()));
  for (const auto* one : told) EXPECT_EQ(one->peer, told[0]->peer);
  EXPECT_FALSE(told[0]->allowed);
  EXPECT_FALSE(told[0]->udp);
  ASSERT_EQ(decided("datagrams").size(), 2u);
  EXPECT_TRUE(decided("datagrams")[0]->udp);
}

// The kernel makes 127.0.0.1 of "::" then.
TEST_F(PolicyPrograms, RefuseTheWildcardOfASocketThatIsBoundToAMappedAddress) {
  const Receiver v4(SOCK_STREAM), datagrams(SOCK_DGRAM);
  PolicyRule address = deny("address", v4.port());
  address.addresses = {{parse_ip_address("127.0.0.1"), 32}};
  address.ports.push_back({datagrams.port(), datagrams.port()});
  const auto connect_bound = [](const char* own, const Receiver& to, int type) {
    sockaddr_in6 bound{}, wildcard{};
    bound.sin6_family = wildcard.sin6_family = AF_INET6;
    ::inet_pton(AF_INET6, own, &bound.sin6_addr);
    wildcard.sin6_port = ::htons(to.port());
    const int descriptor = ::socket(AF_INET6, type, 0);
    EXPECT_EQ(::bind(descriptor, reinterpret_cast<sockaddr*>(&bound), sizeof bound), 0) << own;
    const int error =
        ::connect(descriptor, reinterpret_cast<sockaddr*>(&wildcard), sizeof wildcard) == 0 ? 0 : errno;
    ::close(descriptor);
    return error;
  };
  for (const char* own : {"::ffff:127.0.0.1", "::ffff:127.0.0.2", "::ffff:0.0.0.0"}) {
    set({});
    EXPECT_EQ(connect_bound(own, v4, SOCK_STREAM), 0) << own << ": refused by something else";
    EXPECT_EQ(connect_bound(own, datagrams, SOCK_DGRAM), 0) << own << ": refused by something else";
    set({address});
    EXPECT_EQ(connect_bound(own, v4, SOCK_STREAM), EPERM) << own;
    EXPECT_EQ(connect_bound(own, datagrams, SOCK_DGRAM), EPERM) << own;
  }
  EXPECT_EQ(connect_bound("::1", v4, SOCK_STREAM), ECONNREFUSED) << "::1, where nobody listens";
  for (const auto* one : decided("address")) EXPECT_EQ(one->peer.address, parse_ip_address("127.0.0.1"));
}

TEST_F(PolicyPrograms, TheFirstMatchWins) {
  const Receiver to(SOCK_STREAM);
  set({allow("first", to.port()), deny("second", to.port())});
  EXPECT_EQ(connect_to(to), 0);
  set({deny("second", to.port()), allow("first", to.port())});
  EXPECT_EQ(connect_to(to), EPERM);
  PolicyRule logs = allow("log", to.port());
  logs.action = PolicyAction::log;
  set({logs, deny("second", to.port())});
  EXPECT_EQ(connect_to(to), 0);
  ASSERT_EQ(decided("log").size(), 1u);
  EXPECT_TRUE(decided("log")[0]->allowed);
}

TEST_F(PolicyPrograms, WhatOnlyTheProxyCanJudgeDecidesWhereItMakesNoDifference) {
  const Receiver to(SOCK_STREAM);
  const auto below = static_cast<std::uint16_t>(to.port() - 1);
  const auto above = static_cast<std::uint16_t>(to.port() + 1);
  PolicyRule named = allow("named", to.port());
  named.hosts = {"example.org"};
  set({named, deny("port", to.port())});
  EXPECT_EQ(connect_to(to), 0) << "the default";
  PolicyRule refused = named;
  refused.action = PolicyAction::deny;
  set({refused, deny("port", to.port())});
  EXPECT_EQ(connect_to(to), EPERM) << "either way";
  PolicyRule others_below = allow("below", 1), others_above = allow("above", above);
  others_below.ports[0].last = below;
  others_above.ports[0].last = 65'535;
  set({others_below, others_above, named}, PolicyAction::deny);
  EXPECT_EQ(connect_to(to), EPERM) << "the default";
  const Endpoint listener{parse_ip_address("127.0.0.1"), to.port()};
  tap_->kernel().set_proxy_listeners(std::span(&listener, 1));
  EXPECT_EQ(connect_to(to), 0) << "the way to the proxy";
  for (const char* all : {"0.0.0.0", "::"}) {
    const Endpoint everywhere{parse_ip_address(all), to.port()};
    tap_->kernel().set_proxy_listeners(std::span(&everywhere, 1));
    EXPECT_EQ(connect_to(to), 0) << "the way to a proxy that listens everywhere: " << all;
    const Endpoint other{parse_ip_address(all), above};
    tap_->kernel().set_proxy_listeners(std::span(&other, 1));
    EXPECT_EQ(connect_to(to), EPERM);
  }
  tap_->kernel().set_proxy_listeners({});
  EXPECT_EQ(connect_to(to), EPERM);
  const std::uint32_t own = static_cast<std::uint32_t>(::getpid());
  tap_->kernel().set_own_processes({&own, 1});
  EXPECT_EQ(connect_to(to), 0) << "the proxy's own sockets";
}

// So that its clients fall back to TCP, which can be steered. The default is not what refuses it.
TEST_F(PolicyPrograms, RefuseQuicInTheNameOfTheRuleThatLeavesItOpen) {
  load(true);
  const TemporaryDirectory directory;
  const auto shell = (directory.path() / "quic-client").string();
  std::filesystem::copy_file("/bin/bash", shell);
  PolicyRule elsewhere = deny("elsewhere", 444), named = deny("named", 443), later = deny("later", 443);
  for (PolicyRule* rule : {&elsewhere, &named, &later}) {
    rule->executables = {{shell, false}};
    rule->hosts = {"example.org"};
  }
  set({elsewhere, named, later});
  const auto sends = [&](int port) {
    const std::string target = "/dev/udp/127.0.0.1/" + std::to_string(port);
    return Child({shell, "-c", "exec 3<>" + target + " && echo yes"}).finish() == "yes\n";
  };
  EXPECT_FALSE(sends(443));
  EXPECT_TRUE(sends(444));
  ASSERT_EQ(decided("named").size(), 1u);
  EXPECT_FALSE(decided("named")[0]->allowed);
  EXPECT_TRUE(decided("named")[0]->udp);
}

TEST_F(PolicyPrograms, KnowWhoConnects) {
  const TemporaryDirectory directory;
  const auto copy = [&](const std::string& name) {
    const auto file = directory.path() / name;
    std::filesystem::create_directories(file.parent_path());
    std::filesystem::copy_file("/bin/bash", file);
    return file.string();
  };
  const std::string base = directory.path().string();
  const std::string by_path = copy("by-path"), by_name = copy("weir-by-name"), below = copy("all/of/it"),
                    beside = copy("allthat"),
                    deep = copy(
                        "1/2/3/4/5/6/7/8/9/10/11/12/13/14/15/16/17/18/19/20/21/22/"
                        "23/24/25/26/27/28/29/30/31/32/33");
  const Receiver to(SOCK_STREAM);
  PolicyRule path = deny("path", to.port()), name = deny("name", to.port()),
             directories = deny("below", to.port()), user = deny("user", to.port());
  path.executables = {{by_path, false}};
  name.executables = {{"weir-by-name", false}};
  directories.executables = {{base + "/all/", true}};
  user.users = {65'534};
  set({path, name, directories, user});
  EXPECT_FALSE(reaches(by_path, to.port()));
  EXPECT_FALSE(reaches(by_name, to.port()));
  EXPECT_FALSE(reaches(below, to.port()));
  EXPECT_FALSE(reaches(deep, to.port())) << "a path that can't be told counts against its process";
  EXPECT_FALSE(reaches("/bin/bash", to.port(), {"setpriv", "--reuid=65534"}));
  EXPECT_TRUE(reaches(beside, to.port()));
  EXPECT_TRUE(reaches("/bin/bash", to.port()));
  EXPECT_EQ(decided("name").size(), 1u);
  EXPECT_EQ(decided("user").at(0)->uid, 65'534u);
  // Who was known under one policy is judged anew under the next.
  set({deny("other", 1)});
  EXPECT_TRUE(reaches(by_path, to.port()));
}

}  // namespace
}  // namespace weir::test
