// What a full proxy does: the client that has been idle longest makes room. And requests whose content comes
// too slowly.
#include <gtest/gtest.h>

#include "h2_wire.h"
#include "harness.h"

namespace weir::proxy::test {
namespace {

using std::string;
using namespace std::chrono_literals;

const string kAnswer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

void answer_all(Wire& wire) {
  while (!wire.read_until("\r\n\r\n").empty()) wire.write(kAnswer);
}

string get(const Origin& origin) {
  return "GET http://127.0.0.1:" + std::to_string(origin.port()) + "/ HTTP/1.1\r\nHost: x\r\n\r\n";
}

// Asks, so that its idle time begins anew; true when it was answered.
bool ask(Wire& wire, const Origin& origin) {
  wire.write(get(origin));
  return wire.read_exactly(kAnswer.size()) == kAnswer;
}

struct Full : testing::Test {
  void start(std::size_t connections, unsigned threads = 1) {
    config.threads = threads;
    config.limits.connections = connections;
    world.start(config);
  }
  Counters counters() const { return world.proxy->counters(); }
  void wait_opened(std::size_t many) {
    ASSERT_TRUE(world.events.wait_until(
        [many](const auto& all) { return Events::count<ConnectionOpened>(all) == many; }));
  }

  Config config;
  World world;
};

TEST_F(Full, TheLongestIdleMakesRoom) {
  start(3);
  Origin origin(nullptr, answer_all);
  auto first = world.connect();
  ASSERT_TRUE(ask(first, origin));
  auto second = world.connect();
  ASSERT_TRUE(ask(second, origin));
  auto silent = world.connect();
  wait_opened(3);
  ASSERT_TRUE(ask(first, origin));  // now `second` is the oldest
  auto fourth = world.connect();
  EXPECT_TRUE(ask(fourth, origin));
  EXPECT_EQ(second.read_to_end(), "");
  EXPECT_TRUE(second.clean_end);
  auto fifth = world.connect();
  EXPECT_TRUE(ask(fifth, origin));
  EXPECT_EQ(silent.read_to_end(), "");
  EXPECT_TRUE(ask(first, origin));
  EXPECT_EQ(counters().idle_shed, 2u);
  EXPECT_EQ(counters().over_limit_closed, 0u);
  EXPECT_TRUE(wait_for([&] { return counters().active == 3; }));
  EXPECT_EQ(counters().accepted, 5u);
}

TEST_F(Full, TheLongestIdleOfAllThreadsDoes) {
  start(4, 4);
  Origin origin(nullptr, answer_all);
  std::vector<Wire> wires;
  for (int i = 0; i < 4; ++i) {
    wires.push_back(world.connect());
    ASSERT_TRUE(ask(wires.back(), origin));
  }
  for (const std::size_t i : {2, 0, 3, 1}) ASSERT_TRUE(ask(wires[i], origin));
  std::vector<Wire> more;
  for (const std::size_t i : {2, 0, 3, 1}) {
    more.push_back(world.connect());
    ASSERT_TRUE(ask(more.back(), origin));
    EXPECT_EQ(wires[i].read_to_end(), "") << i;
  }
  EXPECT_EQ(counters().idle_shed, 4u);
}

// Each of these is in the middle of something: a head, an answer, a body, a tunnel.
TEST_F(Full, WhoIsBusyIsNotShed) {
  start(4);
  std::atomic<bool> go = false;
  Origin origin(nullptr, [&](Wire& wire) {
    wire.read_until("\r\n\r\n");
    go.wait(false);
    wire.write(kAnswer);
    wire.read_to_end();
  });
  Origin server_first(nullptr, [](Wire& wire) {
    wire.write("220 ready\r\n");
    wire.read_to_end();
  });
  auto head = world.connect();
  head.write("GET http://unfinished");
  auto awaits = world.connect();
  awaits.write(get(origin));
  auto body = world.connect();
  body.write("POST http://127.0.0.1:" + std::to_string(origin.port()) +
             "/ HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n12");
  auto tunnel = world.connect_through("127.0.0.1:" + std::to_string(server_first.port()));
  EXPECT_EQ(tunnel.read_exactly(11), "220 ready\r\n");
  ASSERT_TRUE(wait_for([&] { return counters().requests == 2; }));
  auto fifth = world.connect();
  EXPECT_EQ(fifth.read_to_end(), "");
  EXPECT_EQ(counters().over_limit_closed, 1u);
  EXPECT_EQ(counters().idle_shed, 0u);
  go = true;
  go.notify_all();
  EXPECT_EQ(awaits.read_exactly(kAnswer.size()), kAnswer);
  auto sixth = world.connect();  // in the place of the one that was answered
  EXPECT_TRUE(ask(sixth, origin));
  EXPECT_EQ(counters().idle_shed, 1u);
}

TEST_F(Full, AnIdleClientOfHttp2IsToldGoaway) {
  start(1);
  Origin origin(world.origin_ca.server_context({.name = "origin.test", .http2 = true}), [](Wire& wire) {
    wire.write(frame(kSettings, 0, 0));
    wire.read_to_end();
  });
  auto client = world.open(origin, "origin.test", true);
  client.write(kHello);
  FrameLog log;
  while (log.of_type(kSettings).size() < 2) {  // the acknowledgement is the second
    const string got = client.read_some();
    ASSERT_FALSE(got.empty());
    log.feed(std::as_bytes(std::span(got)));
  }
  auto second = world.connect();
  const string rest = client.read_to_end();
  EXPECT_TRUE(client.clean_end);
  log.feed(std::as_bytes(std::span(rest)));
  const auto goaways = log.of_type(kGoaway);
  ASSERT_FALSE(goaways.empty());
  EXPECT_EQ(goaways.back().code(), 0u);
  EXPECT_EQ(counters().idle_shed, 1u);
}

TEST_F(Full, MemoryOverItsLimitEndsIdleClients) {
  std::atomic<std::uint64_t> memory = 1;
  config.limits.memory = 100;
  config.memory_in_use = [&] { return memory.load(); };
  start(10);
  Origin origin(nullptr, answer_all);
  auto first = world.connect();
  ASSERT_TRUE(ask(first, origin));
  auto second = world.connect();
  ASSERT_TRUE(ask(second, origin));
  memory = 101;
  EXPECT_EQ(first.read_to_end(), "");
  EXPECT_EQ(second.read_to_end(), "");
  EXPECT_EQ(counters().idle_shed, 2u);
  auto third = world.connect();
  EXPECT_EQ(third.read_to_end(), "");
  EXPECT_EQ(counters().over_limit_closed, 1u);
  memory = 100;
  EXPECT_TRUE(wait_for([&] {
    auto next = world.connect();
    next.write(get(origin));
    return !next.read_some().empty();
  }));
}

// A byte now and then, of content that has a length.
struct SlowBody : Full {
  SlowBody() {
    config.limits.body_pace = {100, 1s};  // a busy machine may hold a test for a while
    start(10);
  }
  void trickle(Wire& wire, const std::function<string(int)>& piece) {
    for (int i = 0; i < 100 && counters().slow_bodies_ended == 0; ++i, std::this_thread::sleep_for(50ms))
      wire.write(piece(i));
  }
};

TEST_F(SlowBody, EndsItsConnection) {
  Origin origin(world.origin_ca.server_context({"origin.test"}), [](Wire& wire) { wire.read_to_end(); });
  auto client = world.open(origin, "origin.test");
  client.write("POST / HTTP/1.1\r\nHost: o\r\nContent-Length: 1000\r\n\r\n");
  trickle(client, [](int) { return "x"; });
  EXPECT_EQ(counters().slow_bodies_ended, 1u) << "while it trickles";
  EXPECT_EQ(client.read_to_end(), "");
  EXPECT_EQ(counters().slow_bodies_ended, 1u);
}

TEST_F(SlowBody, EndsItsStreamAlone) {
  Origin origin(world.origin_ca.server_context({.name = "origin.test", .http2 = true}), [](Wire& wire) {
    wire.write(frame(kSettings, 0, 0));
    wire.read_to_end();
  });
  auto client = world.open(origin, "origin.test", true);
  client.write(kHello + head(1, request_fields({{"content-length", "1000"}}, "POST"), false) +
               head(3, request_fields({}, "POST"), false));
  trickle(client, [](int) { return data(1, "x", false) + data(3, "x", false); });
  EXPECT_EQ(counters().slow_bodies_ended, 1u);
  FrameLog log;
  while (log.of_type(kRst).empty()) {
    const string got = client.read_some();
    ASSERT_FALSE(got.empty());
    log.feed(std::as_bytes(std::span(got)));
  }
  EXPECT_EQ(log.of_type(kRst)[0].stream, 1u);
  EXPECT_EQ(log.of_type(kRst)[0].code(), 8u);
  EXPECT_TRUE(log.of_type(kGoaway).empty());
}

TEST_F(SlowBody, OfAClientOfHttp1EndsItAlsoBeforeAnUpstreamOfHttp2) {
  Origin origin(world.origin_ca.server_context({.name = "origin.test", .http2 = true}), [](Wire& wire) {
    wire.write(frame(kSettings, 0, 0));
    wire.read_to_end();
  });
  // The client offers nothing; this upstream takes HTTP/2 alone.
  auto client = world.open(origin, "origin.test");
  client.write("POST / HTTP/1.1\r\nHost: o.test\r\nContent-Length: 1000\r\n\r\n");
  trickle(client, [](int) { return "x"; });
  EXPECT_EQ(counters().slow_bodies_ended, 1u) << "while it trickles";
  EXPECT_EQ(client.read_to_end(), "");
  EXPECT_EQ(counters().slow_bodies_ended, 1u);
}

// It is the origin that is slow here, or the content has no length, or it comes as fast as it has to.
TEST_F(SlowBody, IsNotOneThatWaitsForTheOriginNorOneWithoutLengthNorOneThatComes) {
  std::atomic<bool> go = false;
  Origin origin(world.origin_ca.server_context({"origin.test"}), [&](Wire& wire) {
    if (wire.read_until("\r\n\r\n").find("/late") != string::npos) go.wait(false);
    wire.read_until("end");
    wire.write(kAnswer);
  });
  auto late = world.open(origin, "origin.test");
  const string much(30'000'000, 'x');
  late.write("POST /late HTTP/1.1\r\nHost: o\r\nContent-Length: 30000003\r\n\r\n");
  std::thread writer([&] { late.write(much + "end"); });
  auto chunked = world.open(origin, "origin.test");
  chunked.write("POST / HTTP/1.1\r\nHost: o\r\nTransfer-Encoding: chunked\r\n\r\n");
  auto steady = world.open(origin, "origin.test");
  steady.write("POST / HTTP/1.1\r\nHost: o\r\nContent-Length: 2003\r\n\r\n");
  for (int i = 0; i < 50; ++i, std::this_thread::sleep_for(50ms)) {
    chunked.write("1\r\nx\r\n");
    steady.write(string(40, 'x'));
  }
  steady.write("end");
  chunked.write("3\r\nend\r\n0\r\n\r\n");
  EXPECT_EQ(steady.read_exactly(kAnswer.size()), kAnswer);
  EXPECT_EQ(chunked.read_exactly(kAnswer.size()), kAnswer);
  go = true;
  go.notify_all();
  writer.join();
  EXPECT_EQ(late.read_exactly(kAnswer.size()), kAnswer);
  EXPECT_EQ(counters().slow_bodies_ended, 0u);
}

}  // namespace
}  // namespace weir::proxy::test
