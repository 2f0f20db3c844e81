// Upstreams and clients that misbehave: stale bytes, answers nobody asked for, silence, leaving early, names
// that take too long, leaves whose time runs out.
#include <arpa/inet.h>
#include <dlfcn.h>
#include <gtest/gtest.h>

#include <netdb.h>
#include <sys/socket.h>
#include <unistd.h>
#include <atomic>

#include <array>
#include <atomic>
#include <cstring>
#include <list>

#include "h2_wire.h"
#include "harness.h"

namespace {

std::atomic<bool> slow_name_released = false;

}  // namespace

// In place of the C library's: one name answers only once a test lets it, one has two addresses.
extern "C" int getaddrinfo(const char* name, const char* service, const addrinfo* hints, addrinfo** found) {
  if (name != nullptr && std::strcmp(name, "slow.test") == 0) {
    slow_name_released.wait(false);
    return EAI_NONAME;
  }
  const bool two = name != nullptr && std::strcmp(name, "two.test") == 0;
  static const auto real = reinterpret_cast<decltype(&getaddrinfo)>(dlsym(RTLD_NEXT, "getaddrinfo"));
  if (!two) return real(name, service, hints, found);
  const int failed = real("127.0.0.2", service, hints, found);
  return failed != 0 ? failed : real("127.0.0.1", service, hints, &(*found)->ai_next);
}

namespace weir::proxy::test {
namespace {

using std::string;

const string kName = "origin.test";
const string kOk = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const string kStale = "HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";

string plain_get(const Origin& origin) {
  return "GET http://127.0.0.1:" + std::to_string(origin.port()) + "/ HTTP/1.1\r\nHost: o\r\n\r\n";
}

// One answer, then something more that nobody asked for.
struct StaleOrigin {
  explicit StaleOrigin(SslContext context)
      : origin(std::move(context), [this](Wire& wire) {
          wire.read_until("\r\n\r\n");
          wire.write(kOk);
          may_go_stale.wait(false);
          wire.write(kStale);
          is_stale = true;
          is_stale.notify_all();
          wire.read_to_end();
        }) {}
  void go_stale() {
    may_go_stale = true;
    may_go_stale.notify_all();
    is_stale.wait(false);
  }
  std::atomic<bool> may_go_stale = false;
  std::atomic<bool> is_stale = false;
  Origin origin;
};

TEST(Upstream, StaleBytesAreNeverTheNextAnswer) {
  World world;
  world.start();
  StaleOrigin plain(nullptr);
  auto client = world.connect();
  client.write(plain_get(plain.origin));
  EXPECT_EQ(client.read_exactly(kOk.size()), kOk);
  plain.go_stale();
  client.write(plain_get(plain.origin));
  EXPECT_EQ(client.read_exactly(kOk.size()), kOk);
  EXPECT_EQ(plain.origin.connections(), 2);
  client.close();

  StaleOrigin tls(world.origin_ca.server_context({kName}));
  auto opened = world.open(tls.origin, kName);
  opened.write("POST / HTTP/1.1\r\nHost: o\r\nContent-Length: 0\r\n\r\n");
  EXPECT_EQ(opened.read_exactly(kOk.size()), kOk);
  tls.go_stale();
  opened.write("POST / HTTP/1.1\r\nHost: o\r\nContent-Length: 0\r\n\r\n");
  EXPECT_EQ(opened.read_exactly(kOk.size()), kOk);
  EXPECT_EQ(tls.origin.connections(), 2);
}

TEST(Upstream, SessionsAreResumedOnBothSides) {
  World world;
  world.start();
  std::vector<bool> resumed;
  Origin origin(world.origin_ca.server_context({kName}), [&](Wire& wire) {
    resumed.push_back(SSL_session_reused(wire.ssl()) == 1);
    wire.read_until("\r\n\r\n");
    wire.write(kOk);
    wire.read_to_end();
  });
  const auto context = world.client_context(world.weir_ca);
  SSL_SESSION* session = nullptr;
  for (int i = 0; i < 3; ++i) {
    auto client = world.connect_through("127.0.0.1:" + std::to_string(origin.port()));
    ASSERT_TRUE(client.start_tls(context.get(), false, kName, session));
    EXPECT_EQ(SSL_session_reused(client.ssl()), i > 0 ? 1 : 0);
    client.write("GET / HTTP/1.1\r\nHost: o\r\n\r\n");
    EXPECT_EQ(client.read_exactly(kOk.size()), kOk);
    SSL_SESSION_free(session);
    session = SSL_get1_session(client.ssl());
  }
  SSL_SESSION_free(session);
  // What one name's certificate was verified for is nothing to another name's.
  auto other = world.connect_through("127.0.0.1:" + std::to_string(origin.port()));
  ASSERT_TRUE(other.start_tls(context.get(), false, "other.test"));
  other.write("GET / HTTP/1.1\r\nHost: o\r\n\r\n");
  EXPECT_TRUE(other.read_to_end().starts_with("HTTP/1.1 502 Bad Gateway\r\n"));
  EXPECT_EQ(resumed, (std::vector<bool>{false, true, true}));
}

// Each takes a session of its own: what one connection was given serves the next one, however many there are.
TEST(Upstream, AsManyResumeAsWereThereBefore) {
  constexpr int kAtOnce = 20;
  World world;
  world.start();
  std::atomic<int> resumed = 0;
  Origin origin(world.origin_ca.server_context({kName}), [&](Wire& wire) {
    resumed += SSL_session_reused(wire.ssl());
    wire.read_until("\r\n\r\n");
    wire.write(kOk);
    wire.read_to_end();
  });
  for (const int expected : {0, kAtOnce, 2 * kAtOnce}) {
    std::list<Wire> clients;
    for (int i = 0; i < kAtOnce; ++i) clients.push_back(world.open(origin, kName));
    for (Wire& client : clients) {
      client.write("GET / HTTP/1.1\r\nHost: o\r\n\r\n");
      EXPECT_EQ(client.read_exactly(kOk.size()), kOk);
    }
    EXPECT_GE(resumed, expected);
  }
}

TEST(Upstream, UnaskedUpgradeIsNotRelayed) {
  World world;
  world.start();
  Origin origin(world.origin_ca.server_context({kName}), [](Wire& wire) {
    wire.read_until("\r\n\r\n");
    wire.write("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n");
    EXPECT_EQ(wire.read_to_end(), "");
  });
  auto client = world.open(origin, kName);
  client.write("GET / HTTP/1.1\r\nHost: o\r\n\r\n");
  const auto answer = client.read_to_end();
  EXPECT_TRUE(answer.starts_with("HTTP/1.1 502 Bad Gateway\r\n")) << answer;
  EXPECT_NE(answer.find("malformed answer"), string::npos) << answer;
}

// What the record says of the proxy's own 502, which an origin may send, too.
TEST(Upstream, WhatGaveNoAnswerIsNamed) {
  struct Bad {
    const char* error_type;
    string answer;
    const char* told;
  };
  const Bad cases[] = {
      {"upstream_closed", "", "closed the connection without an answer"},
      {"upstream_malformed_response", "nonsense\r\n\r\n", "malformed answer"},
      {"upstream_malformed_response", "\x15\x03\x03\x00\x02\x02\x28", "malformed answer"},
      {"upstream_oversized_response", "HTTP/1.1 200 OK\r\nX: " + string(400'000, 'x') + "\r\n\r\n",
       "too large a head"},
  };
  for (const Bad& bad : cases) {
    for (const bool http2 : {false, true}) {
      SCOPED_TRACE(string(bad.error_type) + (http2 ? " to HTTP/2" : ""));
      World world;
      world.start();
      Origin origin(world.origin_ca.server_context({kName}), [&](Wire& wire) {
        wire.read_until("\r\n\r\n");
        wire.write(bad.answer);
      });
      auto client = world.open(origin, kName, http2);
      client.write(http2 ? kHello + head(1, request_fields()) : "GET / HTTP/1.1\r\nHost: o\r\n\r\n");
      const auto answer = client.read_until(bad.told);
      EXPECT_NE(answer.find(bad.told), string::npos) << answer;
      const auto decision = world.events.all<DecisionMade>().back();
      EXPECT_EQ(decision.decision, Decision::upstream_failed);
      EXPECT_EQ(decision.error_type, bad.error_type);
      EXPECT_EQ(decision.stream, http2 ? std::optional<std::uint64_t>(1) : std::nullopt);
    }
  }
}

// As curl and nginx would have it without the proxy.
TEST(Upstream, LargeResponseHeadsPass) {
  string many = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n";
  for (int i = 0; i < 1'000; ++i) many += "X-" + std::to_string(i) + ": " + string(100, 'y') + "\r\n";
  const string long_one = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX: " + string(70'000, 'y') + "\r\n";
  for (const string& head : {many, long_one}) {
    World world;
    world.start();
    Origin origin(world.origin_ca.server_context({kName}), [&](Wire& wire) {
      wire.read_until("\r\n\r\n");
      wire.write(head + "\r\nok");
      wire.read_to_end();
    });
    auto client = world.open(origin, kName);
    client.write("GET / HTTP/1.1\r\nHost: o\r\n\r\n");
    EXPECT_EQ(client.read_until("\r\n\r\n"), head + "\r\n");
    EXPECT_EQ(client.read_exactly(2), "ok");
  }
}

TEST(Upstream, OneThatDoesNotAnswerInTimeIsNamed) {
  World world;
  Config config;
  config.limits.idle_timeout = std::chrono::milliseconds(1500);
  world.start(config);
  Origin origin(world.origin_ca.server_context({kName}), [&](Wire& wire) { wire.read_to_end(); });
  auto client = world.open(origin, kName);
  client.write("GET / HTTP/1.1\r\nHost: o\r\n\r\n");
  EXPECT_TRUE(client.read_to_end().starts_with("HTTP/1.1 504 "));
  EXPECT_EQ(world.events.all<DecisionMade>().back().error_type, "upstream_timeout");
}

TEST(Upstream, ConnectInsideAnOpenedConnectionIsRefused) {
  World world;
  world.start();
  Origin origin(world.origin_ca.server_context({kName}),
                [](Wire& wire) { EXPECT_EQ(wire.read_to_end(), ""); });
  auto client = world.open(origin, kName);
  client.write("CONNECT other.test:443 HTTP/1.1\r\nHost: other.test\r\n\r\n");
  EXPECT_TRUE(client.read_to_end().starts_with("HTTP/1.1 400 Bad Request\r\n"));
  client.close();
  ASSERT_TRUE(world.events.wait_for_end());
  const auto decision = world.events.all<DecisionMade>().back();
  EXPECT_EQ(decision.decision, Decision::refused);
  EXPECT_EQ(decision.stream, std::nullopt) << "HTTP/1 has none";
  EXPECT_EQ(world.events.bytes(Direction::sent), client.sent);
  EXPECT_EQ(world.events.bytes(Direction::received), client.received);
}

TEST(Upstream, SilenceGives504) {
  World world;
  Config config;
  config.limits.idle_timeout = std::chrono::milliseconds(300);
  world.start(config);
  Origin plain(nullptr, [](Wire& wire) { wire.read_to_end(); });
  auto client = world.connect();
  client.write(plain_get(plain));
  EXPECT_TRUE(client.read_to_end().starts_with("HTTP/1.1 504 Gateway Timeout\r\n"));

  Origin tls(world.origin_ca.server_context({kName}), [](Wire& wire) { wire.read_to_end(); });
  auto opened = world.open(tls, kName);
  opened.write("POST / HTTP/1.1\r\nHost: o\r\nContent-Length: 2\r\n\r\n");
  opened.write("ab");
  EXPECT_TRUE(opened.read_to_end().starts_with("HTTP/1.1 504 Gateway Timeout\r\n"));
}

TEST(Upstream, PlainClientThatResetsIsGoneAndOneThatHalfClosesIsNot) {
  World world;
  world.start();
  std::atomic<int> asked = 0;
  std::atomic<bool> go = false;
  Origin origin(nullptr, [&](Wire& wire) {
    wire.read_until("\r\n\r\n");
    ++asked;
    asked.notify_all();
    go.wait(false);
    wire.write(kOk);
  });
  auto patient = world.connect();
  patient.write(plain_get(origin));
  patient.half_close();
  asked.wait(0);
  auto leaving = world.connect();
  leaving.write(plain_get(origin));
  asked.wait(1);
  leaving.reset();
  EXPECT_TRUE(world.events.wait_for_end());  // of the one that left; the origin has not answered yet
  go = true;
  go.notify_all();
  EXPECT_EQ(patient.read_to_end(), kOk);
}

// Whether it was noticed that the client had left before its answer came.
bool notices_who_left(bool tls) {
  World world;
  world.start();
  std::atomic<bool> asked = false;
  std::atomic<bool> go = false;
  Origin origin(tls ? world.origin_ca.server_context({kName}) : nullptr, [&](Wire& wire) {
    wire.read_until("\r\n\r\n");
    asked = true;
    asked.notify_all();
    go.wait(false);
    wire.write(kOk);
    wire.read_to_end();
  });
  auto client = tls ? world.open(origin, kName) : world.connect();
  client.write(tls ? "GET / HTTP/1.1\r\nHost: o\r\n\r\n" : plain_get(origin));
  asked.wait(false);
  client.close();
  go = true;
  go.notify_all();
  EXPECT_TRUE(world.events.wait_for_end());
  return world.events.bytes(Direction::received).empty() && world.events.all<StreamEnded>().back().broken_off;
}

// In the clear the reset that answers the first bytes tells it, which a busy kernel may leave for later.
TEST(Upstream, WhoLeftBeforeTheAnswerDidNotGetIt) {
  EXPECT_TRUE(notices_who_left(true));
  bool noticed = false;
  for (int attempt = 0; attempt < 10 && !noticed; ++attempt) noticed = notices_who_left(false);
  EXPECT_TRUE(noticed);
}

TEST(Upstream, WhoSendsNoMoreMayStillRead) {
  for (const bool tls : {true, false}) {
    World world;
    world.start();
    std::atomic<bool> go = false;
    Origin origin(tls ? world.origin_ca.server_context({kName}) : nullptr, [&](Wire& wire) {
      wire.read_until("\r\n\r\n");
      go.wait(false);
      wire.write(kOk);
    });
    auto client = tls ? world.open(origin, kName) : world.connect();
    client.write(tls ? "GET / HTTP/1.1\r\nHost: o\r\n\r\n" : plain_get(origin));
    client.half_close();
    go = true;
    go.notify_all();
    EXPECT_EQ(client.read_to_end(), kOk);
    ASSERT_TRUE(world.events.wait_for_end());
    EXPECT_EQ(world.events.bytes(Direction::received), kOk);
  }
}

TEST(Upstream, SlowNameFailsInTime) {
  slow_name_released = false;
  World world;
  Config config;
  config.limits.connect_timeout = std::chrono::milliseconds(100);
  world.start(config);
  auto client = world.connect();
  client.write("GET http://slow.test/ HTTP/1.1\r\nHost: o\r\n\r\n");
  const auto answer = client.read_to_end();
  slow_name_released = true;
  slow_name_released.notify_all();
  EXPECT_TRUE(answer.starts_with("HTTP/1.1 502 Bad Gateway\r\n")) << answer;
  EXPECT_NE(answer.find("(dns)"), string::npos) << answer;
  ASSERT_EQ(world.events.all<DecisionMade>().size(), 1u);
  EXPECT_EQ(world.events.all<DecisionMade>().front().error_type, "dns");
}

TEST(Upstream, SlowNamesKeepNoOthersWaiting) {
  slow_name_released = false;
  World world;
  Origin origin(nullptr, [](Wire& wire) {
    wire.read_until("\r\n\r\n");
    wire.write(kOk);
  });
  world.start();
  std::vector<decltype(world.connect())> slow;
  for (int i = 0; i < 8; ++i) {
    slow.push_back(world.connect());
    slow.back().write("GET http://slow.test/ HTTP/1.1\r\nHost: o\r\n\r\n");
  }
  auto client = world.connect();
  client.write("GET http://two.test:" + std::to_string(origin.port()) + "/ HTTP/1.1\r\nHost: o\r\n\r\n");
  EXPECT_EQ(client.read_exactly(kOk.size()), kOk);
  slow_name_released = true;
  slow_name_released.notify_all();
  for (auto& one : slow) EXPECT_TRUE(one.read_to_end().starts_with("HTTP/1.1 502 Bad Gateway\r\n"));
}

// A port where connects neither succeed nor fail: its queue is full.
class SilentListener {
 public:
  SilentListener(const char* address, std::uint16_t port) {
    sockaddr_in to{};
    to.sin_family = AF_INET;
    to.sin_port = htons(port);
    inet_pton(AF_INET, address, &to.sin_addr);
    for (int& fd : fds_) fd = ::socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    EXPECT_EQ(::bind(fds_[0], reinterpret_cast<sockaddr*>(&to), sizeof to), 0);
    EXPECT_EQ(::listen(fds_[0], 0), 0);
    for (std::size_t i = 1; i < fds_.size(); ++i)
      ::connect(fds_[i], reinterpret_cast<sockaddr*>(&to), sizeof to);
  }
  ~SilentListener() {
    for (const int fd : fds_) ::close(fd);
  }

 private:
  std::array<int, 4> fds_{};
};

TEST(Upstream, TheNextAddressIsTriedWhenOneIsSilent) {
  World world;
  world.start();
  Origin origin(nullptr, [](Wire& wire) {
    wire.read_until("\r\n\r\n");
    wire.write(kOk);
  });
  const SilentListener silent("127.0.0.2", origin.port());
  auto client = world.connect();
  client.write("GET http://two.test:" + std::to_string(origin.port()) + "/ HTTP/1.1\r\nHost: o\r\n\r\n");
  EXPECT_EQ(client.read_exactly(kOk.size()), kOk);
  EXPECT_EQ(world.events.all<DecisionMade>().front().upstream_peer->to_string(),
            "127.0.0.1:" + std::to_string(origin.port()));
}

TEST(Upstream, TheNextAddressIsTriedWhenOneRefuses) {
  World world;
  world.start();
  Origin origin(nullptr, [](Wire& wire) {
    wire.read_until("\r\n\r\n");
    wire.write(kOk);
  });
  auto client = world.connect();
  client.write("GET http://two.test:" + std::to_string(origin.port()) + "/ HTTP/1.1\r\nHost: o\r\n\r\n");
  EXPECT_EQ(client.read_exactly(kOk.size()), kOk);
}

// What an upstream proxy is asked and answers; then it is the origin.
struct AskedProxy {
  explicit AskedProxy(SslContext context, Origin::Script talk)
      : tls(std::move(context)), origin(nullptr, [this, talk = std::move(talk)](Wire& wire) {
          talk(wire);
          if (tls && !wire.start_tls(tls.get(), true)) return;
          wire.read_until("\r\n\r\n");
          wire.write(kOk);
        }) {}
  Config config(const string& scheme) const {
    Config config;
    config.upstream_proxy = *parse_upstream_proxy(scheme + "127.0.0.1:" + std::to_string(origin.port()));
    return config;
  }
  SslContext tls;
  Origin origin;
};

TEST(Upstream, HttpProxyIsAskedForTheName) {
  World world;
  AskedProxy above(world.origin_ca.server_context({kName}), [](Wire& wire) {
    EXPECT_EQ(wire.read_until("\r\n\r\n"),
              "CONNECT origin.test:443 HTTP/1.1\r\nHost: origin.test:443\r\n"
              "Proxy-Authorization: Basic bWU6YSBi\r\n\r\n");
    wire.write("HTTP/1.1 200 OK\r\n\r\n");
  });
  world.start(above.config("http://me:a%20b@"));
  auto wire = world.connect_through("origin.test:443");
  const auto context = world.client_context(world.weir_ca);
  ASSERT_TRUE(wire.start_tls(context.get(), false, kName));
  wire.write("GET / HTTP/1.1\r\nHost: origin.test\r\n\r\n");
  EXPECT_EQ(wire.read_exactly(kOk.size()), kOk);
  const auto decision = world.events.all<DecisionMade>().front();
  EXPECT_EQ(decision.server_name, kName);
  EXPECT_FALSE(decision.upstream_peer) << "who is behind the upstream proxy is not known";
}

// A tunnel to port 80 is what many refuse.
TEST(Upstream, HttpProxyIsGivenRequestsInTheClear) {
  World world;
  const string upgrade = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n";
  Origin above(nullptr, [&](Wire& wire) {
    auto head = wire.read_until("\r\n\r\n");
    if (head.starts_with("CONNECT ")) {
      EXPECT_TRUE(head.starts_with("CONNECT origin.test:8080 HTTP/1.1\r\n")) << head;
      wire.write("HTTP/1.1 200 OK\r\n\r\n");
      head = wire.read_until("\r\n\r\n");
      EXPECT_TRUE(head.starts_with("GET /c HTTP/1.1\r\n")) << head;
      wire.write(upgrade);
      return;
    }
    EXPECT_EQ(head,
              "GET http://origin.test:8080/a?b HTTP/1.1\r\nProxy-Authorization: Basic bWU6YSBi\r\n"
              "Host: origin.test:8080\r\n\r\n");
    wire.write(kOk);
    EXPECT_EQ(wire.read_until("\r\n\r\n"),
              "OPTIONS http://origin.test:8080 HTTP/1.1\r\nProxy-Authorization: Basic bWU6YSBi\r\n"
              "Host: origin.test:8080\r\n\r\n");
    wire.write(kOk);
    wire.read_to_end();
  });
  Config config;
  config.upstream_proxy = *parse_upstream_proxy("http://me:a%20b@127.0.0.1:" + std::to_string(above.port()));
  world.start(config);
  auto client = world.connect();
  const string host = "Host: origin.test:8080\r\n";
  // What the client says to weir alone goes no further.
  client.write("GET http://origin.test:8080/a?b HTTP/1.1\r\nProxy-Authorization: Basic eA==\r\n" + host +
               "\r\n");
  EXPECT_EQ(client.read_exactly(kOk.size()), kOk);
  client.write("OPTIONS http://origin.test:8080 HTTP/1.1\r\n" + host + "\r\n");
  EXPECT_EQ(client.read_exactly(kOk.size()), kOk);
  client.write("GET http://origin.test:8080/c HTTP/1.1\r\nConnection: upgrade\r\nUpgrade: x\r\n" + host +
               "\r\n");
  EXPECT_EQ(client.read_exactly(upgrade.size()), upgrade);
}

TEST(Upstream, HttpProxyIsGivenARepeatedRequestInTheSameForm) {
  World world;
  std::atomic<int> heads = 0;
  Origin above(nullptr, [&](Wire& wire) {
    const auto head = wire.read_until("\r\n\r\n");
    ++heads;
    EXPECT_TRUE(head.starts_with("GET http://origin.test/" + std::to_string(heads) + " ")) << head;
    wire.write(kOk);  // and leaves
  });
  Config config;
  config.upstream_proxy = *parse_upstream_proxy("http://127.0.0.1:" + std::to_string(above.port()));
  world.start(config);
  auto client = world.connect();
  for (const string path : {"/1", "/2"}) {
    client.write("GET http://origin.test" + path + " HTTP/1.1\r\nHost: origin.test\r\n\r\n");
    EXPECT_EQ(client.read_exactly(kOk.size()), kOk);
  }
  EXPECT_EQ(heads, 2);
}

TEST(Upstream, HttpProxyThatRefusesAnUnfinishedRequest) {
  World world;
  Origin above(nullptr, [](Wire& wire) {
    wire.read_until("\r\n\r\n");
    wire.write("HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n");
    wire.read_to_end();
  });
  Config config;
  config.upstream_proxy = *parse_upstream_proxy("http://127.0.0.1:" + std::to_string(above.port()));
  world.start(config);
  auto client = world.connect();
  client.write("POST http://origin.test/ HTTP/1.1\r\nHost: origin.test\r\nContent-Length: 9\r\n\r\nhalf");
  const auto answer = client.read_to_end();
  EXPECT_TRUE(answer.starts_with("HTTP/1.1 502 Bad Gateway\r\n")) << answer;
}

TEST(Upstream, SocksProxyIsAskedForTheName) {
  World world;
  AskedProxy above(nullptr, [](Wire& wire) {
    EXPECT_EQ(wire.read_exactly(4), string("\x05\x02\x00\x02", 4));
    wire.write("\x05\x02");
    EXPECT_EQ(wire.read_exactly(7), string("\x01\x02me\x02pw", 7));
    wire.write(string("\x01\x00", 2));
    EXPECT_EQ(wire.read_exactly(18), string("\x05\x01\x00\x03\x0borigin.test\x00\x50", 18));
    wire.write(string("\x05\x00\x00\x01\x01\x02\x03\x04\x05\x06", 10));
  });
  world.start(above.config("socks5://me:pw@"));
  auto client = world.connect();
  client.write("GET http://origin.test/ HTTP/1.1\r\nHost: o\r\n\r\n");
  EXPECT_EQ(client.read_exactly(kOk.size()), kOk);
}

TEST(Upstream, ProxyThatRefusesIsNamed) {
  World world;
  AskedProxy above(nullptr, [](Wire& wire) {
    wire.read_until("\r\n\r\n");
    wire.write("HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n");
    wire.read_to_end();
  });
  world.start(above.config("http://"));
  auto client = world.connect();
  client.write("GET http://origin.test/ HTTP/1.1\r\nHost: o\r\n\r\n");
  const auto answer = client.read_to_end();
  EXPECT_TRUE(answer.starts_with("HTTP/1.1 502 Bad Gateway\r\n")) << answer;
  EXPECT_NE(answer.find("407"), string::npos) << answer;
  EXPECT_EQ(world.events.all<DecisionMade>().back().error_type, "upstream_proxy");
}

TEST(Upstream, LoopbackIsNotTheUpstreamProxys) {
  World world;
  AskedProxy above(nullptr, [](Wire&) { ADD_FAILURE() << "asked"; });
  world.start(above.config("http://"));
  Origin origin(nullptr, [](Wire& wire) {
    wire.read_until("\r\n\r\n");
    wire.write(kOk);
  });
  auto client = world.connect();
  client.write(plain_get(origin));
  EXPECT_EQ(client.read_exactly(kOk.size()), kOk);
}

// Certificates that live as long as they are told.
struct TimedSigner : ca::LeafSigner {
  std::expected<std::vector<std::uint8_t>, ca::Error> sign(const ca::LeafRequest& request) override {
    return ca.sign(request, not_after);
  }
  TestCa ca{"timed CA"};
  long not_after = 3600;
};

TEST(LeafCache, SignsAnewBeforeALeafRunsOut) {
  TimedSigner signer;
  const auto cache = LeafCache::create(signer, 8);
  ASSERT_TRUE(cache);
  signer.not_after = 0;
  EXPECT_TRUE((*cache)->make_ssl(kName));
  signer.not_after = 3600;
  EXPECT_TRUE((*cache)->make_ssl(kName));
  EXPECT_EQ((*cache)->leaves_signed(), 2u);
  const auto again = (*cache)->make_ssl(kName);
  ASSERT_TRUE(again);
  EXPECT_EQ((*cache)->leaves_signed(), 2u);
  EXPECT_GT(X509_cmp_time(X509_get0_notAfter(SSL_get_certificate(again->get())), nullptr), 0);
}

TEST(LeafCache, AnotherCaSignsAnewAndWhatItHasSentIsSentOn) {
  // Anything serves as the one behind the leaf.
  struct ChainSigner : TimedSigner {
    std::expected<std::vector<std::uint8_t>, ca::Error> sign(const ca::LeafRequest& request) override {
      const auto leaf = TimedSigner::sign(request).value();
      auto both = leaf;
      both.insert(both.end(), leaf.begin(), leaf.end());
      return both;
    }
  } signer;
  const auto cache = LeafCache::create(signer, 8);
  ASSERT_TRUE(cache);
  const auto first = (*cache)->make_ssl(kName);
  ASSERT_TRUE(first);
  STACK_OF(X509)* chain = nullptr;
  SSL_get0_chain_certs(first->get(), &chain);
  EXPECT_EQ(sk_X509_num(chain), 1);
  (*cache)->forget();
  const auto second = (*cache)->make_ssl(kName);
  ASSERT_TRUE(second);
  EXPECT_EQ((*cache)->leaves_signed(), 2u);
  EXPECT_NE(SSL_get_certificate(first->get()), SSL_get_certificate(second->get()));
}

}  // namespace
}  // namespace weir::proxy::test
