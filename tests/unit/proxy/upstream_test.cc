// Upstreams and clients that misbehave: stale bytes, answers nobody asked for, silence, leaving early, names
// that take too long, leaves whose time runs out.
#include <dlfcn.h>
#include <gtest/gtest.h>
#include <netdb.h>

#include <cstring>

#include "harness.h"

namespace {

std::atomic<bool> slow_name_released = false;

}  // namespace

// In place of the C library's: one name answers only once a test lets it.
extern "C" int getaddrinfo(const char* name, const char* service, const addrinfo* hints, addrinfo** found) {
  if (name != nullptr && std::strcmp(name, "slow.test") == 0) {
    slow_name_released.wait(false);
    return EAI_NONAME;
  }
  static const auto real = reinterpret_cast<decltype(&getaddrinfo)>(dlsym(RTLD_NEXT, "getaddrinfo"));
  return real(name, service, hints, found);
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
  const auto cache = LeafCache::create(signer, signer.ca.pem(), 8);
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

}  // namespace
}  // namespace weir::proxy::test
