// Connections: who opened them, and byte totals that equal what really passed, however they end. Needs root.
#include <arpa/inet.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/bpf.h>
#include <netinet/in.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <optional>
#include <set>

#include "tests/kernel/support.h"

namespace weir::test {
namespace {

constexpr int kNetnsCookie = 71;  // SO_NETNS_COOKIE

std::uint64_t socket_number(int socket, int option) {
  std::uint64_t value = 0;
  socklen_t length = sizeof value;
  ::getsockopt(socket, SOL_SOCKET, option, &value, &length);
  return value;
}

// A connected pair on loopback.
struct Pair {
  int client = -1;
  int server = -1;
  SocketCookie cookie;
  Tuple client_view;

  // `queued`: not accepted; `server` is the listener then.
  explicit Pair(int family = AF_INET, bool mapped = false, bool queued = false);
  ~Pair() {
    close_client();
    close_server();
  }
  void close_client() { close_one(client); }
  void close_server() { close_one(server); }
  static void close_one(int& socket) {
    if (socket >= 0) ::close(std::exchange(socket, -1));
  }
  static void reset(int& socket) {
    const linger none{1, 0};
    ::setsockopt(socket, SOL_SOCKET, SO_LINGER, &none, sizeof none);
    close_one(socket);
  }
};

Endpoint to_endpoint(const sockaddr_storage& storage) {
  if (storage.ss_family == AF_INET) {
    const auto& v4 = reinterpret_cast<const sockaddr_in&>(storage);
    return {IpAddress::v4(reinterpret_cast<const std::uint8_t*>(&v4.sin_addr)), ntohs(v4.sin_port)};
  }
  const auto& v6 = reinterpret_cast<const sockaddr_in6&>(storage);
  return {IpAddress::v6(v6.sin6_addr.s6_addr), ntohs(v6.sin6_port)};
}

Pair::Pair(int family, bool mapped, bool queued) {
  const int listener = ::socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_storage address{};
  socklen_t length = family == AF_INET ? sizeof(sockaddr_in) : sizeof(sockaddr_in6);
  address.ss_family = static_cast<sa_family_t>(family);
  const char* text = family == AF_INET ? "127.0.0.1" : mapped ? "::ffff:127.0.0.1" : "::1";
  void* target = family == AF_INET ? static_cast<void*>(&reinterpret_cast<sockaddr_in&>(address).sin_addr)
                                   : &reinterpret_cast<sockaddr_in6&>(address).sin6_addr;
  ::inet_pton(family, text, target);
  ::bind(listener, reinterpret_cast<sockaddr*>(&address), length);
  ::listen(listener, 1);
  ::getsockname(listener, reinterpret_cast<sockaddr*>(&address), &length);
  client_view.peer = to_endpoint(address);
  client = ::socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  EXPECT_EQ(::connect(client, reinterpret_cast<sockaddr*>(&address), length), 0);
  cookie = {socket_number(client, SO_COOKIE)};
  ::getsockname(client, reinterpret_cast<sockaddr*>(&address), &length);
  client_view.local = to_endpoint(address);
  server = queued ? listener : ::accept4(listener, nullptr, nullptr, SOCK_CLOEXEC);
  if (!queued) ::close(listener);
}

void send_all(int socket, std::size_t bytes) {
  const std::string data(bytes, 'x');
  for (std::size_t done = 0; done < bytes;) {
    const ssize_t sent = ::send(socket, data.data() + done, bytes - done, MSG_NOSIGNAL);
    ASSERT_GT(sent, 0);
    done += static_cast<std::size_t>(sent);
  }
}

std::size_t read_to_end(int socket) {
  std::size_t total = 0;
  char buffer[65536];
  for (ssize_t got; (got = ::recv(socket, buffer, sizeof buffer, 0)) > 0;)
    total += static_cast<std::size_t>(got);
  return total;
}

class Connections : public ::testing::Test {
 protected:
  static void SetUpTestSuite() { tap_ = new Tap; }
  static void TearDownTestSuite() { delete tap_; }

  const ConnectionClosed* end_of(SocketCookie cookie) {
    tap_->wait_for([&] { return !tap_->events().closed(cookie).empty(); });
    const auto closed = tap_->events().closed(cookie);
    return closed.size() == 1 ? closed[0] : nullptr;
  }
  void expect_totals(SocketCookie cookie, std::uint64_t sent, std::uint64_t received, int error) {
    const auto* closed = end_of(cookie);
    ASSERT_NE(closed, nullptr);
    EXPECT_EQ(closed->bytes_sent, sent);
    EXPECT_EQ(closed->bytes_received, received);
    EXPECT_EQ(closed->error, error);
    EXPECT_FALSE(closed->plaintext_sent.has_value());
  }
  static inline Tap* tap_;
};

TEST_F(Connections, AreToldWithOwnerAndTuple) {
  struct Case {
    int family;
    bool mapped;
  };
  for (const auto& [family, mapped] : {Case{AF_INET, false}, Case{AF_INET6, false}, Case{AF_INET6, true}}) {
    const Pair pair(family, mapped);
    const auto which = [&](const ConnectionOpened& event) { return event.cookie == pair.cookie; };
    ASSERT_TRUE(tap_->wait_for([&] { return !tap_->events().all<ConnectionOpened>(which).empty(); }));
    const auto opened = tap_->events().all<ConnectionOpened>(which);
    ASSERT_EQ(opened.size(), 1u);
    EXPECT_EQ(opened[0]->owner.pid, static_cast<std::uint32_t>(::getpid()));
    EXPECT_NE(opened[0]->owner.start_boottime_ns, 0u);
    EXPECT_EQ(opened[0]->tuple.local.to_string(), pair.client_view.local.to_string());
    EXPECT_EQ(opened[0]->tuple.peer.to_string(), pair.client_view.peer.to_string());
    EXPECT_EQ(opened[0]->network_namespace_cookie, socket_number(pair.client, kNetnsCookie));
    EXPECT_FALSE(opened[0]->accepted);
    EXPECT_FALSE(opened[0]->before_start);
    const SocketCookie server{socket_number(pair.server, SO_COOKIE)};
    EXPECT_TRUE(tap_->events()
                    .all<ConnectionOpened>([&](const auto& event) { return event.cookie == server; })
                    .empty());
  }
}

TEST_F(Connections, TotalsWhenTheClientClosesFirst) {
  Pair pair;
  send_all(pair.client, 1000);
  send_all(pair.server, 70'000);
  ::shutdown(pair.server, SHUT_WR);
  EXPECT_EQ(read_to_end(pair.client), 70'000u);
  pair.close_client();
  read_to_end(pair.server);
  pair.close_server();
  expect_totals(pair.cookie, 1000, 70'000, 0);
}

TEST_F(Connections, TotalsWhenTheServerClosesFirst) {
  Pair pair;
  send_all(pair.client, 1);
  send_all(pair.server, 2);
  char byte;
  ASSERT_EQ(::recv(pair.server, &byte, 1, 0), 1);
  pair.close_server();
  EXPECT_EQ(read_to_end(pair.client), 2u);
  pair.close_client();
  expect_totals(pair.cookie, 1, 2, 0);
}

TEST_F(Connections, TotalsWhenTheClientHalfCloses) {
  Pair pair;
  send_all(pair.client, 5000);
  ::shutdown(pair.client, SHUT_WR);
  EXPECT_EQ(read_to_end(pair.server), 5000u);
  send_all(pair.server, 300);
  pair.close_server();
  EXPECT_EQ(read_to_end(pair.client), 300u);
  pair.close_client();
  expect_totals(pair.cookie, 5000, 300, 0);
}

TEST_F(Connections, TotalsWhenTheServerResets) {
  Pair pair;
  send_all(pair.client, 10);
  char buffer[10];
  ASSERT_EQ(::recv(pair.server, buffer, 10, MSG_WAITALL), 10);
  Pair::reset(pair.server);
  expect_totals(pair.cookie, 10, 0, ECONNRESET);
}

TEST_F(Connections, TotalsWhenTheClientResets) {
  Pair pair;
  send_all(pair.server, 20);
  char buffer[20];
  ASSERT_EQ(::recv(pair.client, buffer, 20, MSG_WAITALL), 20);
  Pair::reset(pair.client);
  expect_totals(pair.cookie, 0, 20, 0);
}

TEST_F(Connections, TotalsWithoutAByte) {
  Pair pair;
  pair.close_client();
  pair.close_server();
  expect_totals(pair.cookie, 0, 0, 0);
}

TEST_F(Connections, RefusedOnesAreToldWithTheError) {
  // A bound port that nobody listens on.
  const int bound = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof address;
  ASSERT_EQ(::bind(bound, reinterpret_cast<sockaddr*>(&address), length), 0);
  ::getsockname(bound, reinterpret_cast<sockaddr*>(&address), &length);
  const int client = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  EXPECT_EQ(::connect(client, reinterpret_cast<sockaddr*>(&address), length), -1);
  EXPECT_EQ(errno, ECONNREFUSED);
  expect_totals({socket_number(client, SO_COOKIE)}, 0, 0, ECONNREFUSED);
  ::close(client);
  ::close(bound);
}

TEST_F(Connections, ResolveToTheClientAlsoAfterItIsGone) {
  Pair pair(AF_INET, false, true);
  const auto resolver =
      bpf::make_kernel_resolver(tap_->kernel().tuples_descriptor(), tap_->kernel().redirections_descriptor(),
                                socket_number(pair.client, kNetnsCookie));
  for (int round = 0; round < 2; ++round) {
    const auto client = resolver->resolve(pair.client_view);
    ASSERT_TRUE(client) << client.error();
    EXPECT_EQ(client->cookie, pair.cookie);
    EXPECT_EQ(client->process.pid, static_cast<std::uint32_t>(::getpid()));
    Pair::reset(pair.client);
  }
  Tuple other = pair.client_view;
  other.peer.port ^= 1;
  EXPECT_FALSE(resolver->resolve(other));
}

TEST_F(Connections, OneThatHasEndedTakesNoRoom) {
  for (const bool client_first : {true, false}) {
    Pair pair;
    const auto resolver = bpf::make_kernel_resolver(tap_->kernel().tuples_descriptor(),
                                                    tap_->kernel().redirections_descriptor(),
                                                    socket_number(pair.client, kNetnsCookie));
    client_first ? pair.close_client() : pair.close_server();
    client_first ? pair.close_server() : pair.close_client();
    EXPECT_FALSE(resolver->resolve(pair.client_view)) << client_first;
  }
}

// The worker's situation: an ordinary user with descriptors that it was handed.
// Nobody reads meanwhile: most of these find no room in the ring.
TEST(FullRing, LosesNoConnection) {
  bpf::LoadOptions small;
  small.ring_bytes = 64 * 1024;
  Tap tap(small);
  std::vector<SocketCookie> cookies;
  std::optional<Pair> open_all_along(std::in_place);
  cookies.push_back(open_all_along->cookie);
  for (std::size_t i = 1; i < 1000; ++i) {
    Pair pair;
    ASSERT_EQ(::send(pair.client, "12345", 5, 0), 5);
    cookies.push_back(pair.cookie);
  }
  open_all_along.reset();
  ASSERT_TRUE(tap.wait_for([&] {
    std::set<std::uint64_t> told;
    for (const auto* closed : tap.events().all<ConnectionClosed>([](const auto&) { return true; }))
      told.insert(closed->cookie.value);
    return std::ranges::all_of(cookies, [&](SocketCookie cookie) { return told.contains(cookie.value); });
  }));
  EXPECT_GT(tap.source().counters().untold_connections, 0u) << "nothing was held back: this proves nothing";
  for (std::size_t i = 1; i < cookies.size(); ++i) {
    const auto closed = tap.events().closed(cookies[i]);
    ASSERT_EQ(closed.size(), 1u);
    EXPECT_EQ(closed[0]->bytes_sent, 5u);
    const auto opened =
        tap.events().all<ConnectionOpened>([&](const auto& one) { return one.cookie == cookies[i]; });
    ASSERT_FALSE(opened.empty());
    EXPECT_EQ(opened[0]->owner.pid, static_cast<std::uint32_t>(::getpid()));
    EXPECT_LE(opened[0]->time, closed[0]->time);
  }
  // The tap works again as if nothing had been.
  const Pair afterwards;
  EXPECT_TRUE(tap.wait_for([&] {
    return !tap.events()
                .all<ConnectionOpened>([&](const auto& one) { return one.cookie == afterwards.cookie; })
                .empty();
  }));
}

TEST_F(Connections, AnOrdinaryUserReadsTheRingAndTheTable) {
  Pair pair;
  const auto netns = socket_number(pair.client, kNetnsCookie);
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    if (::setgid(65534) != 0 || ::setuid(65534) != 0) ::_exit(1);
    const auto resolver = bpf::make_kernel_resolver(tap_->kernel().tuples_descriptor(),
                                                    tap_->kernel().redirections_descriptor(), netns);
    if (!resolver->resolve(pair.client_view)) ::_exit(2);
    Collector collector;
    auto source = bpf::EventSource::create(
        {::dup(tap_->kernel().ring_descriptor()), bpf::LoadOptions{}.ring_bytes,
         ::dup(tap_->kernel().control_descriptor()), ::dup(tap_->kernel().untold_descriptor())},
        collector, [](std::uint32_t) { return std::string(); });
    if (!source) ::_exit(3);
    (*source)->beat();
    const Pair seen;
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(10);
    while (collector.opened_by(static_cast<std::uint32_t>(::getpid())).empty()) {
      if (std::chrono::steady_clock::now() > deadline) ::_exit(4);
      (*source)->poll(std::chrono::milliseconds(100));
    }
    const auto opened = collector.opened_by(static_cast<std::uint32_t>(::getpid()));
    ::_exit(opened[0]->owner_uid == 65534u ? 0 : 5);
  }
  int status = -1;
  ::waitpid(child, &status, 0);
  EXPECT_EQ(status, 0);
}

}  // namespace
}  // namespace weir::test
