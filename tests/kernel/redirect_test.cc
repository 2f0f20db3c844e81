// Redirected connections: which processes', to where, what the process is told, and when they go direct.
// Needs root.
#include <arpa/inet.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <functional>
#include <optional>
#include <stdexcept>
#include <utility>

#include "bpf/descriptor.h"
#include "bpf/redirection.h"
#include "tests/kernel/support.h"

namespace weir::test {
namespace {

constexpr int kNetnsCookie = 71;  // SO_NETNS_COOKIE

using Socket = bpf::Descriptor;

struct Address {
  sockaddr_storage storage{};
  socklen_t size = sizeof(sockaddr_storage);
  sockaddr* get() { return reinterpret_cast<sockaddr*>(&storage); }

  Address() = default;
  Address(const char* text, std::uint16_t port) {
    auto& v4 = reinterpret_cast<sockaddr_in&>(storage);
    auto& v6 = reinterpret_cast<sockaddr_in6&>(storage);
    if (::inet_pton(AF_INET, text, &v4.sin_addr) == 1) {
      v4.sin_family = AF_INET;
      v4.sin_port = htons(port);
      size = sizeof v4;
    } else {
      ::inet_pton(AF_INET6, text, &v6.sin6_addr);
      v6.sin6_family = AF_INET6;
      v6.sin6_port = htons(port);
      size = sizeof v6;
    }
  }
  int family() const { return storage.ss_family; }
  std::uint16_t port() const {  // at the same place in both
    return ntohs(reinterpret_cast<const sockaddr_in&>(storage).sin_port);
  }
  std::string text() const {
    char text[INET6_ADDRSTRLEN] = "";
    const auto* v4 = &reinterpret_cast<const sockaddr_in&>(storage).sin_addr;
    const auto* v6 = &reinterpret_cast<const sockaddr_in6&>(storage).sin6_addr;
    ::inet_ntop(family(), family() == AF_INET ? static_cast<const void*>(v4) : v6, text, sizeof text);
    return text;
  }
};

Socket listen_on(const char* address, std::uint16_t& port) {
  Address own(address, 0);
  Socket listener(::socket(own.family(), SOCK_STREAM | SOCK_CLOEXEC, 0));
  const int on = 1;
  if (own.family() == AF_INET6) ::setsockopt(listener.get(), IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof on);
  EXPECT_EQ(::bind(listener.get(), own.get(), own.size), 0);
  EXPECT_EQ(::listen(listener.get(), 16), 0);
  ::getsockname(listener.get(), own.get(), &own.size);
  port = own.port();
  return listener;
}

std::uint64_t number_of(int socket, int option) {
  std::uint64_t value = 0;
  socklen_t length = sizeof value;
  ::getsockopt(socket, SOL_SOCKET, option, &value, &length);
  return value;
}

// In a child process: what the programs do with it depends on who asks. 0: `act` gave true.
int in_child(const std::function<bool()>& ready, const std::function<bool()>& act) {
  const pid_t child = ::fork();
  if (child == 0) ::_exit(ready() && act() ? 0 : 1);
  int status = -1;
  ::waitpid(child, &status, 0);
  return status;
}

class Redirect : public ::testing::Test {
 protected:
  void load(bpf::LoadOptions options = default_options()) {
    tap_.emplace(options);
    redirection_ = tap_->kernel().redirection();
    if (redirection_ == nullptr) throw std::runtime_error(why_not());
    auto heartbeat = bpf::ProxyHeartbeat::open(tap_->kernel().control_descriptor());
    heartbeat_.emplace(*std::move(heartbeat));
    proxy_v4_ = listen_on("127.0.0.1", ports_.v4);
    proxy_v6_ = listen_on("::1", ports_.v6);
    elsewhere_v4_ = listen_on("127.0.0.1", elsewhere_port_v4_);
    elsewhere_v6_ = listen_on("::1", elsewhere_port_v6_);
    netns_ = number_of(proxy_v4_.get(), kNetnsCookie);
  }
  void start() {
    heartbeat_->beat();
    ASSERT_TRUE(redirection_->start(netns_, ports_));
  }
  std::string why_not() {
    for (const auto& program : tap_->kernel().programs())
      if (!program.working) return program.name + ": " + program.error;
    return "";
  }
  // The fork's parent is the test, whom nobody marks.
  std::function<bool()> mark_myself() {
    return [this] { return redirection_->mark(static_cast<std::uint32_t>(::getpid())).has_value(); };
  }

  // Of an accepted connection, what resolve() says of its client.
  std::optional<Client> client_of(const Socket& listener) {
    pollfd wait{listener.get(), POLLIN, 0};
    if (::poll(&wait, 1, 10'000) != 1) return std::nullopt;
    Address from, own;
    const Socket accepted(::accept4(listener.get(), from.get(), &from.size, SOCK_CLOEXEC));
    ::getsockname(accepted.get(), own.get(), &own.size);
    const auto resolver = bpf::make_kernel_resolver(tap_->kernel().tuples_descriptor(),
                                                    tap_->kernel().redirections_descriptor(), netns_);
    auto client = resolver->resolve(
        {{parse_ip_address(from.text()), from.port()}, {parse_ip_address(own.text()), own.port()}});
    if (!client) return std::nullopt;
    return *std::move(client);
  }
  static bool nobody_waits(const Socket& listener) {
    pollfd wait{listener.get(), POLLIN, 0};
    return ::poll(&wait, 1, 0) == 0;
  }

  std::optional<Tap> tap_;
  bpf::Redirection* redirection_ = nullptr;
  std::optional<bpf::ProxyHeartbeat> heartbeat_;
  Socket proxy_v4_, proxy_v6_, elsewhere_v4_, elsewhere_v6_;
  bpf::RedirectListeners ports_;
  std::uint16_t elsewhere_port_v4_ = 0, elsewhere_port_v6_ = 0;
  std::uint64_t netns_ = 0;
};

int connect_to(const Socket& socket, Address to) {
  return ::connect(socket.get(), to.get(), to.size) == 0 ? 0 : errno;
}

Socket make_socket(int family, int type = SOCK_STREAM) {
  return Socket(::socket(family, type | SOCK_CLOEXEC, 0));
}

bool peer_is(const Socket& socket, const char* address, std::uint16_t port) {
  Address peer;
  return ::getpeername(socket.get(), peer.get(), &peer.size) == 0 && peer.text() == address &&
         peer.port() == port;
}

TEST_F(Redirect, GoesToTheListenerAndSeesItsDestination) {
  struct Case {
    int family;
    const char* destination;
    const char* unmapped;
    bool v6_listener;
  };
  // 192.0.2.0/24 and 2001:db8::/32 are nobody's.
  const Case cases[] = {{AF_INET, "192.0.2.7", "192.0.2.7", false},
                        {AF_INET, "127.0.0.1", "127.0.0.1", false},
                        {AF_INET6, "2001:db8::7", "2001:db8::7", true},
                        {AF_INET6, "::1", "::1", true},
                        {AF_INET6, "::ffff:192.0.2.7", "192.0.2.7", false}};
  load();
  start();
  for (const auto& one : cases) {
    std::uint16_t port = 4711;
    EXPECT_EQ(in_child(mark_myself(),
                       [&] {
                         const Socket client = make_socket(one.family);
                         return connect_to(client, {one.destination, port}) == 0 &&
                                peer_is(client, one.destination, port);
                       }),
              0)
        << one.destination;
    const auto client = client_of(one.v6_listener ? proxy_v6_ : proxy_v4_);
    ASSERT_TRUE(client && client->redirected_from) << one.destination;
    EXPECT_EQ(client->redirected_from->address, parse_ip_address(one.unmapped));
    EXPECT_EQ(client->redirected_from->port, port);
    const auto told = [&](const ConnectionOpened& event) { return event.cookie == client->cookie; };
    ASSERT_TRUE(tap_->wait_for([&] { return !tap_->events().all<ConnectionOpened>(told).empty(); }));
    const auto opened = tap_->events().all<ConnectionOpened>(told);
    ASSERT_EQ(opened.size(), 1u);
    EXPECT_TRUE(opened[0]->redirected);
    EXPECT_EQ(opened[0]->tuple.peer, *client->redirected_from);
    EXPECT_EQ(opened[0]->owner, client->process);
  }
}

// What the kernel makes of the wildcard depends on where the socket is bound.
TEST_F(Redirect, TheWildcardIsWhatTheKernelMakesOfIt) {
  struct Case {
    int family;
    const char* bound;
    const char* destination;
    const char* told;
    const char* unmapped;
    bool v6_listener;
  };
  const Case cases[] = {
      {AF_INET, "127.0.0.2", "0.0.0.0", "127.0.0.2", "127.0.0.2", false},
      {AF_INET6, "::1", "::", "::1", "::1", true},
      {AF_INET6, "::ffff:127.0.0.2", "::", "::ffff:127.0.0.1", "127.0.0.1", false},
      {AF_INET6, "::ffff:0.0.0.0", "::", "::ffff:127.0.0.1", "127.0.0.1", false},
      {AF_INET6, "::ffff:127.0.0.2", "::ffff:0.0.0.0", "::ffff:127.0.0.2", "127.0.0.2", false}};
  load();
  start();
  for (const auto& one : cases) {
    const std::string shown = std::string(one.bound) + " to " + one.destination;
    EXPECT_EQ(in_child(mark_myself(),
                       [&] {
                         const Socket client = make_socket(one.family);
                         Address bound(one.bound, 0);
                         return ::bind(client.get(), bound.get(), bound.size) == 0 &&
                                connect_to(client, {one.destination, 4711}) == 0 &&
                                peer_is(client, one.told, 4711);
                       }),
              0)
        << shown;
    const auto client = client_of(one.v6_listener ? proxy_v6_ : proxy_v4_);
    ASSERT_TRUE(client && client->redirected_from) << shown;
    EXPECT_EQ(client->redirected_from->address, parse_ip_address(one.unmapped)) << shown;
  }
}

TEST_F(Redirect, PeerIsTrueWhileANonBlockingConnectIsPendingAndAfter) {
  load();
  start();
  EXPECT_EQ(in_child(mark_myself(),
                     [&] {
                       const Socket client = make_socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK);
                       const int error = connect_to(client, {"192.0.2.7", 80});
                       if (error != 0 && error != EINPROGRESS) return false;
                       pollfd wait{client.get(), POLLOUT, 0};
                       return ::poll(&wait, 1, 10'000) == 1 && peer_is(client, "192.0.2.7", 80);
                     }),
            0);
}

TEST_F(Redirect, OnlyMarkedProcessesAndWhatTheyStart) {
  load();
  start();
  const auto to_elsewhere = [&] {
    return connect_to(make_socket(AF_INET), {"127.0.0.1", elsewhere_port_v4_}) == 0;
  };
  EXPECT_EQ(in_child([] { return true; }, to_elsewhere), 0);
  EXPECT_TRUE(nobody_waits(proxy_v4_));
  const auto direct = client_of(elsewhere_v4_);
  ASSERT_TRUE(direct);
  EXPECT_FALSE(direct->redirected_from);

  // A child's child.
  EXPECT_EQ(in_child(mark_myself(), [&] { return in_child([] { return true; }, to_elsewhere) == 0; }), 0);
  EXPECT_TRUE(nobody_waits(elsewhere_v4_));
  EXPECT_TRUE(client_of(proxy_v4_));

  // What was unmarked, and our own.
  EXPECT_EQ(in_child(mark_myself(),
                     [&] {
                       redirection_->unmark(static_cast<std::uint32_t>(::getpid()));
                       return to_elsewhere();
                     }),
            0);
  EXPECT_EQ(in_child(mark_myself(),
                     [&] {
                       const auto own = static_cast<std::uint32_t>(::getpid());
                       tap_->kernel().set_own_processes({&own, 1});
                       return to_elsewhere();
                     }),
            0);
  EXPECT_TRUE(nobody_waits(proxy_v4_));
}

TEST_F(Redirect, ByExecutable) {
  TemporaryDirectory programs;
  const auto curl = programs.path() / "redirected-curl";
  std::filesystem::copy_file("/usr/bin/curl", curl);
  bpf::LoadOptions options = default_options();
  options.filters.redirect.push_back(bpf::parse_filter("process:" + curl.string()).value());
  load(options);
  start();
  const std::string url = "http://127.0.0.1:" + std::to_string(elsewhere_port_v4_) + "/";
  {
    const Child redirected({curl, "-s", url});
    const auto client = client_of(proxy_v4_);
    ASSERT_TRUE(client);
    EXPECT_EQ(client->process.pid, redirected.pid());
    EXPECT_TRUE(nobody_waits(elsewhere_v4_));
  }
  const Child other({"curl", "-s", url});
  const auto client = client_of(elsewhere_v4_);
  ASSERT_TRUE(client);
  EXPECT_EQ(client->process.pid, other.pid());
  EXPECT_TRUE(nobody_waits(proxy_v4_));
}

TEST_F(Redirect, NotFromOurOwnListeners) {
  load();
  ports_.ours = {elsewhere_port_v4_, elsewhere_port_v6_};
  start();
  EXPECT_EQ(in_child(mark_myself(),
                     [&] {
                       return connect_to(make_socket(AF_INET), {"127.0.0.1", elsewhere_port_v4_}) == 0 &&
                              connect_to(make_socket(AF_INET6), {"::1", elsewhere_port_v6_}) == 0 &&
                              connect_to(make_socket(AF_INET), {"127.0.0.1", ports_.v4}) == 0;
                     }),
            0);
  EXPECT_TRUE(client_of(elsewhere_v4_));
  EXPECT_TRUE(client_of(elsewhere_v6_));
  const auto client = client_of(proxy_v4_);
  ASSERT_TRUE(client);
  EXPECT_FALSE(client->redirected_from);
}

TEST_F(Redirect, GoesDirectWhereNobodyTakesIt) {
  load();
  const auto connects = [&] {
    return connect_to(make_socket(AF_INET), {"127.0.0.1", elsewhere_port_v4_}) == 0;
  };
  heartbeat_->beat();
  EXPECT_EQ(in_child(mark_myself(), connects), 0) << "before the start";
  start();
  redirection_->stop(netns_);
  EXPECT_EQ(in_child(mark_myself(), connects), 0) << "after the stop";
  for (const bool proxy_lives : {false, true}) {
    start();
    for (int beats = 0; beats < 15; ++beats) {
      ::poll(nullptr, 0, 100);
      proxy_lives ? heartbeat_->beat() : redirection_->beat();
    }
    EXPECT_EQ(in_child(mark_myself(), connects), 0) << "a heartbeat stopped";
  }
  EXPECT_TRUE(nobody_waits(proxy_v4_));
  start();
  EXPECT_EQ(in_child(mark_myself(), connects), 0);
  EXPECT_TRUE(client_of(proxy_v4_)) << "not even when all live: this proves nothing";
}

TEST_F(Redirect, IsRefusedWhereNobodyTakesItIfConfigured) {
  bpf::LoadOptions options = default_options();
  options.redirect_fails_closed = true;
  load(options);
  const auto connect_error = [&](int expected) {
    return
        [=, this] { return connect_to(make_socket(AF_INET), {"127.0.0.1", elsewhere_port_v4_}) == expected; };
  };
  EXPECT_EQ(in_child(mark_myself(), connect_error(ECONNREFUSED)), 0);
  EXPECT_EQ(in_child([] { return true; }, connect_error(0)), 0) << "not marked";
  start();
  EXPECT_EQ(in_child(mark_myself(), connect_error(0)), 0);
}

// More than a table for what is usual would hold.
TEST_F(Redirect, NobodyIsLetOutForWantOfRoomIfConfigured) {
  bpf::LoadOptions options = default_options();
  options.redirect_fails_closed = true;
  load(options);
  constexpr std::uint32_t kNobodys = 10'000'000;  // beyond the kernel's pids
  for (std::uint32_t i = 0; i < 20'000; ++i) ASSERT_TRUE(redirection_->mark(kNobodys + i)) << i;
  const auto childs_connect = [&] {
    const auto refused = [&] {
      return connect_to(make_socket(AF_INET), {"127.0.0.1", elsewhere_port_v4_}) == ECONNREFUSED;
    };
    return in_child([] { return true; }, refused) == 0;
  };
  EXPECT_EQ(in_child(mark_myself(), childs_connect), 0);
}

TEST_F(Redirect, ASocketThatConnectsAgainIsJudgedAgain) {
  load();
  start();
  EXPECT_EQ(in_child(mark_myself(),
                     [&] {
                       const Socket client = make_socket(AF_INET);
                       if (connect_to(client, {"192.0.2.7", 80}) != 0) return false;
                       const sockaddr nothing{.sa_family = AF_UNSPEC, .sa_data = {}};
                       if (::connect(client.get(), &nothing, sizeof nothing) != 0) return false;
                       redirection_->unmark(static_cast<std::uint32_t>(::getpid()));
                       return connect_to(client, {"127.0.0.1", ports_.v4}) == 0 &&
                              peer_is(client, "127.0.0.1", ports_.v4);
                     }),
            0);
  (void)client_of(proxy_v4_);
  const auto again = client_of(proxy_v4_);
  ASSERT_TRUE(again);
  EXPECT_FALSE(again->redirected_from);
}

TEST_F(Redirect, RefusesQuic) {
  load();
  start();
  const auto send = [](int family, const char* to, std::uint16_t port) {
    const Socket client = make_socket(family, SOCK_DGRAM);
    Address address(to, port);
    return ::sendto(client.get(), "x", 1, 0, address.get(), address.size) == 1 ? 0 : errno;
  };
  EXPECT_EQ(in_child(mark_myself(),
                     [&] {
                       return send(AF_INET, "127.0.0.1", 443) == ECONNREFUSED &&
                              send(AF_INET6, "::1", 443) == ECONNREFUSED &&
                              connect_to(make_socket(AF_INET, SOCK_DGRAM), {"127.0.0.1", 443}) ==
                                  ECONNREFUSED &&
                              send(AF_INET, "127.0.0.1", 53) == 0;
                     }),
            0);
  EXPECT_EQ(send(AF_INET, "127.0.0.1", 443), 0) << "not marked";
  bpf::LoadOptions options = default_options();
  options.refuse_quic = false;
  load(options);
  start();
  EXPECT_EQ(in_child(mark_myself(), [&] { return send(AF_INET, "127.0.0.1", 443) == 0; }), 0);
}

}  // namespace
}  // namespace weir::test
