// Connections that the kernel side redirected: their first bytes decide, and who was not redirected gets
// nothing.
#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <optional>

#include "h2_wire.h"
#include "harness.h"

namespace weir::proxy::test {
namespace {

using std::string;

class Redirects : public ClientResolver {
 public:
  std::expected<Client, std::string> resolve(const Tuple&) override {
    Client client{SocketCookie{4712}, ProcessKey{42, 7}, 1};
    client.redirected_from = from;
    return client;
  }
  std::optional<Endpoint> from;
};

struct RedirectedWorld : World {
  explicit RedirectedWorld(std::uint16_t destination, Config config = {},
                           std::function<int(IpAddress::Family)> make_socket = {}) {
    start(std::move(config));
    redirects->from = Endpoint{parse_ip_address("127.0.0.1"), destination};
    listener = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    EXPECT_EQ(::bind(listener, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    EXPECT_EQ(::listen(listener, 16), 0);
    socklen_t length = sizeof address;
    ::getsockname(listener, reinterpret_cast<sockaddr*>(&address), &length);
    port = ntohs(address.sin_port);
    proxy->add_redirect_listener({listener, redirects, std::move(make_socket)});
  }
  Wire arrive() const {
    const int fd = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const timeval patience{10, 0};
    ::setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    address.sin_port = htons(port);
    EXPECT_EQ(::connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    return Wire(fd);
  }
  DecisionMade only_decision() {
    events.wait_until([](const auto& all) { return Events::count<DecisionMade>(all) == 1; });
    const auto all = events.all<DecisionMade>();
    EXPECT_EQ(all.size(), 1u);
    return all.empty() ? DecisionMade{} : all.front();
  }
  std::shared_ptr<Redirects> redirects = std::make_shared<Redirects>();
  int listener = -1;
  std::uint16_t port = 0;
};

const string kAnswer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

void answer_requests(Wire& wire) {
  while (!wire.read_until("\r\n\r\n").empty()) wire.write(kAnswer);
}

TEST(Redirected, HttpInTheClearIsForwardedAsItIs) {
  Origin origin(nullptr, answer_requests);
  RedirectedWorld world(origin.port());
  auto client = world.arrive();
  for (const char* target : {"/x?y", "/z"}) {
    client.write(string("GET ") + target + " HTTP/1.1\r\nHost: example.test\r\n\r\n");
    EXPECT_EQ(client.read_exactly(kAnswer.size()), kAnswer);
  }
  client.close();
  ASSERT_TRUE(world.events.wait_for_end());
  EXPECT_EQ(world.events.bytes(Direction::sent), client.sent);
  EXPECT_EQ(world.events.bytes(Direction::received), client.received);
  EXPECT_EQ(origin.connections(), 1);
  const auto decision = world.only_decision();
  EXPECT_EQ(decision.decision, Decision::redirected);
  ASSERT_TRUE(decision.upstream_peer);
  EXPECT_EQ(decision.upstream_peer->port, origin.port());
  const auto opened = world.events.all<ConnectionOpened>();
  ASSERT_EQ(opened.size(), 1u);
  EXPECT_TRUE(opened.front().redirected);
  EXPECT_EQ(opened.front().tuple.peer, *world.redirects->from);
}

TEST(Redirected, TlsIsOpenedForTheNameInTheClientHello) {
  RedirectedWorld world(0);
  Origin origin(world.origin_ca.server_context({.name = "example.test"}), answer_requests);
  world.redirects->from->port = origin.port();
  auto client = world.arrive();
  const auto context = world.client_context(world.weir_ca);
  ASSERT_TRUE(client.start_tls(context.get(), false, "example.test"));
  client.write("GET / HTTP/1.1\r\nHost: example.test\r\n\r\n");
  EXPECT_EQ(client.read_exactly(kAnswer.size()), kAnswer);
  EXPECT_EQ(world.only_decision().decision, Decision::bumped);
}

// A CONNECT is for another proxy; half a request line may be the beginning of anything.
TEST(Redirected, AllElseIsTunnelled) {
  for (const string first : {"", "EHLO x\r\n", "CONNECT other:1 HTTP/1.1\r\nHost: other:1\r\n\r\n", "HELO"}) {
    const string greeting = "220 ready\r\n";
    Origin origin(nullptr, [&](Wire& wire) {
      wire.write(greeting);
      EXPECT_EQ(wire.read_to_end(), first + "bye");
    });
    RedirectedWorld world(origin.port());
    auto client = world.arrive();
    client.write(first);
    EXPECT_EQ(client.read_exactly(greeting.size()), greeting) << first;
    client.write("bye");
    client.half_close();
    EXPECT_EQ(client.read_to_end(), "");  // the origin has it all
    EXPECT_EQ(world.only_decision().decision, Decision::tunnelled) << first;
    EXPECT_EQ(world.events.bytes(Direction::sent), "");
  }
}

// Where a server may read a name that we don't, no name is refused by being hidden.
TEST(Redirected, ANameIsNotHiddenFromPolicyInAnOddClientHello) {
  const string empty_record("\x16\x03\x01\x00\x00", 5);
  auto long_hello = client_hello("bad.test");
  long_hello.replace(0, 9, string("\x16\x03\x01\x40\x00\x01\x02\x00\x00", 9));  // 128 KiB
  for (const string& hello :
       {client_hello("bad.test."), client_hello("bad.test.."), empty_record + client_hello("bad.test"),
        long_hello, string("\x15\x03\x01\x00\x02\x01\x00", 7) + client_hello("bad.test")}) {
    Origin origin(nullptr, [](Wire& wire) { wire.read_to_end(); });
    RedirectedWorld world(origin.port());
    world.decider.refused_name = "bad.test";
    auto client = world.arrive();
    client.write(hello);
    client.half_close();
    EXPECT_EQ(client.read_to_end(), kAccessDeniedAlert);
    EXPECT_EQ(world.only_decision().decision, Decision::refused);
    EXPECT_EQ(world.events.all<PolicyDecided>().size(), 1u);
    EXPECT_TRUE(wait_for([&] { return origin.connections() == 1; }));
    EXPECT_EQ(origin.received(), "");
  }
}

// A host's rule has nothing but the Host to go by.
TEST(Redirected, ARequestIsNotHiddenFromPolicyByItsForm) {
  const string fields = "Host: bad.test\r\n\r\n";
  for (const string& request :
       {"\r\n\r\nGET / HTTP/1.1\r\n" + fields, "\n\nGET / HTTP/1.1\r\n" + fields, "GET / HTTP/1.1\n" + fields,
        " GET / HTTP/1.1\r\n" + fields, "GET\t/ HTTP/1.1\r\n" + fields,
        "GET /" + string(70'000, 'a') + " HTTP/1.1\r\n" + fields}) {
    for (const bool at_once : {true, false}) {
      Origin origin(nullptr, [](Wire& wire) { wire.read_to_end(); });
      RedirectedWorld world(origin.port());
      world.decider.refused_name = "bad.test";
      auto client = world.arrive();
      client.write(request.substr(0, at_once ? string::npos : 5));
      if (!at_once) {
        std::this_thread::sleep_for(std::chrono::milliseconds(20));
        client.write(request.substr(5));
      }
      EXPECT_EQ(client.read_to_end(), "") << request.substr(0, 30);
      const auto decision = world.only_decision();
      EXPECT_EQ(decision.decision, Decision::refused);
      EXPECT_EQ(decision.rule, "unreadable request");
      EXPECT_TRUE(wait_for([&] { return origin.connections() == 1; }));
      EXPECT_EQ(origin.received(), "");
    }
  }
}

// It may be another protocol's whole first message; whether a name may decide is all that matters.
TEST(Redirected, HalfARequestLineIsNotWaitedForLong) {
  for (const bool refuses : {false, true}) {
    Origin origin(nullptr, [](Wire& wire) {
      if (wire.read_exactly(1) == "x") wire.write("y");
      wire.read_to_end();
    });
    RedirectedWorld world(origin.port());
    if (refuses) world.decider.refused_name = "bad.test";
    auto client = world.arrive();
    client.write("x");
    EXPECT_EQ(client.read_exactly(1), refuses ? "" : "y");
    EXPECT_EQ(world.only_decision().decision, refuses ? Decision::refused : Decision::tunnelled);
  }
}

// Its Host is the name that policy's record has, too.
TEST(Redirected, ARefusedRequestsRecordNamesTheHost) {
  Origin origin(nullptr, [](Wire& wire) { EXPECT_EQ(wire.read_to_end(), ""); });
  RedirectedWorld world(origin.port());
  world.decider.refused_name = "bad.test";
  auto client = world.arrive();
  client.write("GET /x HTTP/1.1\r\nHost: bad.test\r\n\r\n");
  EXPECT_TRUE(client.read_to_end().starts_with("HTTP/1.1 403 "));
  const auto told = world.events.all<PolicyDecided>();
  ASSERT_EQ(told.size(), 1u);
  EXPECT_EQ(told.front().server_name, "bad.test");
  EXPECT_EQ(told.front().peer, (Endpoint{parse_ip_address("127.0.0.1"), origin.port()}));
  EXPECT_EQ(world.events.all<DecisionMade>().back().server_name, "bad.test");
}

TEST(Redirected, WhatARuleAsksToSeeAndCantIsRefusedWithARecord) {
  Origin origin(nullptr, [](Wire& wire) { EXPECT_EQ(wire.read_to_end(), ""); });
  RedirectedWorld world(origin.port());
  world.decider.inspected_name = "127.0.0.1";
  auto client = world.arrive();
  client.write("ping ping\r\n");
  EXPECT_EQ(client.read_to_end(), "");
  EXPECT_EQ(world.only_decision().decision, Decision::refused);
  ASSERT_EQ(world.events.all<PolicyDecided>().size(), 1u);
  EXPECT_FALSE(world.events.all<PolicyDecided>().front().allowed);
}

// Gives how many requests came.
int answer_http2(Wire& wire) {
  wire.write(frame(kSettings, 0, 0));
  EXPECT_EQ(wire.read_exactly(kPreface.size()), kPreface);
  for (int requests = 0;;) {
    const string header = wire.read_exactly(9);
    if (header.size() < 9) return requests;
    wire.read_exactly(static_cast<unsigned char>(header[1]) * 256u + static_cast<unsigned char>(header[2]));
    if (header[3] != kHeaders) continue;
    ++requests;
    wire.write(head(static_cast<unsigned char>(header[8]), {{":status", "200"}}, false) +
               data(static_cast<unsigned char>(header[8]), "ok"));
  }
}

Pairs request_for(const string& host, const string& path) {
  return {{":method", "GET"}, {":scheme", "http"}, {":authority", host}, {":path", path}};
}

// Whoever speaks first: a server of HTTP/2 doesn't wait for its client.
TEST(Redirected, Http2InTheClearIsReadAndJudged) {
  std::atomic<int> requests = -1;
  Origin origin(nullptr, [&](Wire& wire) { requests = answer_http2(wire); });
  RedirectedWorld world(origin.port());
  world.decider.refused_name = "bad.test";
  world.decider.refused_authority = "odd.test";
  world.decider.inspected_name = "127.0.0.1";
  auto client = world.arrive();
  std::this_thread::sleep_for(std::chrono::milliseconds(50));
  client.write(kHello + head(1, request_for("bad.test", "/secret")) +
               head(3, request_for("ok.test", "/fine")) + head(5, request_for("odd.test", "/secret")));
  EXPECT_TRUE(client.read_until("ok").ends_with("ok"));
  client.close();
  ASSERT_TRUE(world.events.wait_for_end());
  EXPECT_EQ(world.events.bytes(Direction::sent), client.sent);
  EXPECT_TRUE(wait_for([&] { return requests >= 0; }));
  EXPECT_EQ(requests, 1) << "what is refused arrived";
  const auto decisions = world.events.all<DecisionMade>();
  ASSERT_EQ(decisions.size(), 3u);
  EXPECT_EQ(decisions[0].decision, Decision::redirected);
  EXPECT_EQ(decisions[2].rule, "no authority");
  EXPECT_EQ(decisions[1].decision, Decision::refused);
  EXPECT_EQ(decisions[1].stream, 1u);
}

TEST(Redirected, WhatCantBeReadIsTunnelledWhereNoRuleAsks) {
  const string damaged("\x16\x03\x01\xff\xff and so on", 16);
  Origin origin(nullptr, [](Wire& wire) {
    wire.write(wire.read_exactly(16));
    wire.read_to_end();
  });
  RedirectedWorld world(origin.port());
  auto client = world.arrive();
  client.write(damaged);
  EXPECT_EQ(client.read_exactly(16), damaged);
  EXPECT_EQ(world.only_decision().decision, Decision::tunnelled);
}

TEST(Redirected, WhoWasNotRedirectedGetsNothing) {
  Origin origin(nullptr, answer_requests);
  RedirectedWorld world(origin.port());
  world.redirects->from.reset();
  auto client = world.arrive();
  client.write("GET / HTTP/1.1\r\nHost: example.test\r\n\r\n");
  EXPECT_EQ(client.read_to_end(), "");
  EXPECT_EQ(world.proxy->counters().unresolved_refused, 1u);
  EXPECT_EQ(origin.connections(), 0);
}

TEST(Redirected, WhatIsRefusedOrFailsBreaksOff) {
  for (const bool refused : {true, false}) {
    Config config;
    if (refused) config.refused_destinations.push_back({parse_ip_address("127.0.0.1"), 1});
    RedirectedWorld world(1, std::move(config));
    auto client = world.arrive();
    client.write("GET / HTTP/1.1\r\nHost: example.test\r\n\r\n");
    EXPECT_EQ(client.read_to_end(), "");
    EXPECT_FALSE(client.clean_end);
    EXPECT_EQ(world.only_decision().decision, refused ? Decision::refused : Decision::upstream_failed);
  }
}

TEST(Redirected, ElsewhereItsSocketsAreTheOthersAndItsLoopbackIsNotOurs) {
  Origin origin(nullptr, answer_requests);
  Config config;
  config.refused_destinations.push_back({parse_ip_address("127.0.0.1"), origin.port()});
  std::atomic<int> made = 0;
  RedirectedWorld world(origin.port(), std::move(config), [&](IpAddress::Family family) {
    ++made;
    return ::socket(family == IpAddress::Family::v4 ? AF_INET : AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
  });
  auto client = world.arrive();
  client.write("GET / HTTP/1.1\r\nHost: example.test\r\n\r\n");
  EXPECT_EQ(client.read_exactly(kAnswer.size()), kAnswer);
  EXPECT_EQ(made, 1);
}

}  // namespace
}  // namespace weir::proxy::test
