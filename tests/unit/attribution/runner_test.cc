// The engine on threads: several sources, several shards, and queues that fill.
#include "attribution/runner.h"

#include <gtest/gtest.h>

#include <atomic>
#include <future>
#include <map>
#include <mutex>
#include <thread>

#include "tests/unit/attribution/scenario.h"

namespace weir::test {
namespace {

Time now() {
  return std::chrono::time_point_cast<std::chrono::nanoseconds>(std::chrono::system_clock::now());
}

Bytes message(std::uint64_t cookie, Tap tap, Direction direction, std::uint64_t offset,
              std::string_view data) {
  const TlsObjectId object = tap == Tap::native ? TlsObjectId{kCurl, 0x1000 + cookie, 0} : TlsObjectId{};
  return {now(), {cookie}, object, kCurl, tap, direction, offset, bytes_of(data)};
}

ConnectionOpened opening(std::uint64_t cookie, Endpoint peer) {
  ConnectionOpened event{.time = now(), .cookie = {cookie}};
  event.tuple = {endpoint("10.0.0.1", 40000), peer};
  event.owner = kCurl;
  return event;
}

ProcessEvent curl_seen() {
  ProcessEvent event{.time = now(), .process = kCurl};
  event.executable_path = "/usr/bin/curl";
  return event;
}

class Collected {
 public:
  void add(const RecordPtr& record) {
    const std::lock_guard lock(mutex_);
    if (record->kind == RecordKind::exchange) exchanges_[text(*record, "url.full")].push_back(record);
    if (record->kind == RecordKind::connection) ++connections_;
  }
  std::map<std::string, std::vector<RecordPtr>> exchanges() const {
    const std::lock_guard lock(mutex_);
    return exchanges_;
  }
  int connections() const {
    const std::lock_guard lock(mutex_);
    return connections_;
  }

 private:
  mutable std::mutex mutex_;
  std::map<std::string, std::vector<RecordPtr>> exchanges_;
  int connections_ = 0;
};

TEST(Runner, TwoSourcesAndTwoShardsGiveEachExchangeOnce) {
  constexpr std::uint64_t kConnections = 500;
  Collected collected;
  EngineRunner runner({.engine = default_config(), .shards = 2},
                      [&](RecordPtr record) { collected.add(record); });
  std::atomic<std::uint64_t> observed{0};
  runner.set_observer([&](const Event&) { ++observed; });
  EventPublisher& kernel = runner.add_source();
  EventPublisher& proxy = runner.add_source();
  runner.start();

  // Even cookies are bumped: both taps see them. Odd ones go straight.
  std::thread kernel_thread([&] {
    kernel.publish(curl_seen());
    for (std::uint64_t cookie = 1; cookie <= kConnections; ++cookie) {
      kernel.publish(opening(cookie, cookie % 2 == 0 ? kProxy : kOrigin));
      kernel.publish(message(cookie, Tap::native, Direction::sent, 0, get("/" + std::to_string(cookie))));
      kernel.publish(message(cookie, Tap::native, Direction::received, 0, ok("x")));
      ConnectionClosed close{.time = now(), .cookie = {cookie}};
      close.bytes_sent = close.bytes_received = 1;
      kernel.publish(close);
    }
  });
  std::thread proxy_thread([&] {
    for (std::uint64_t cookie = 2; cookie <= kConnections; cookie += 2) {
      proxy.publish(opening(cookie, kProxy));
      proxy.publish(DecisionMade{.time = now(), .cookie = {cookie}, .server_name = "example.test"});
      proxy.publish(message(cookie, Tap::proxy, Direction::sent, 0, get("/" + std::to_string(cookie))));
      proxy.publish(message(cookie, Tap::proxy, Direction::received, 0, ok("x")));
      proxy.publish(StreamEnded{now(), {cookie}, {}, Tap::proxy, Direction::sent});
      proxy.publish(StreamEnded{now(), {cookie}, {}, Tap::proxy, Direction::received});
    }
  });
  kernel_thread.join();
  proxy_thread.join();
  runner.drain();

  const auto exchanges = collected.exchanges();
  EXPECT_EQ(exchanges.size(), kConnections);
  for (const auto& [url, records] : exchanges) {
    ASSERT_EQ(records.size(), 1u) << url;
    const bool even = std::stoull(text(*records[0], "weir.socket.cookie")) % 2 == 0;
    EXPECT_EQ(text(*records[0], "weir.source"), even ? "proxy" : "native") << url;
    EXPECT_EQ(text(*records[0], "process.executable.name"), "curl") << url;
  }
  EXPECT_EQ(collected.connections(), static_cast<int>(kConnections));
  const RunnerCounters counters = runner.counters();
  EXPECT_EQ(counters.queue_dropped_events, 0u);
  EXPECT_EQ(counters.engine.exchanges, kConnections);
  EXPECT_EQ(counters.engine.gap_bytes, 0u);
  EXPECT_EQ(observed, 1 + kConnections * 4 + kConnections / 2 * 6);
  ASSERT_EQ(runner.coverage().size(), 1u);
  EXPECT_EQ(runner.coverage()[0].connections, kConnections);
  EXPECT_EQ(runner.coverage()[0].readable_connections, kConnections);
  runner.stop();
  EXPECT_EQ(runner.counters().engine.exchanges, kConnections);
}

TEST(Runner, WhatAFullQueueDropsIsAccountedToTheByte) {
  constexpr std::uint64_t kStreams = 7;
  constexpr std::uint64_t kPieces = 200;
  constexpr std::size_t kPiece = 1000;
  Collected collected;
  RunnerConfig config{.engine = default_config(), .shards = 2, .queue_events = 300, .queue_bytes = 40'000};
  EngineRunner runner(config, [&](RecordPtr record) { collected.add(record); });
  EventPublisher& source = runner.add_source();
  source.publish(curl_seen());
  std::map<std::uint64_t, std::uint64_t> offsets;
  const auto send = [&](std::uint64_t cookie, Direction direction, const std::string& data) {
    std::uint64_t& offset = offsets[cookie * 2 + (direction == Direction::sent ? 0 : 1)];
    source.publish(message(cookie, Tap::native, direction, offset, data));
    offset += data.size();
  };
  for (std::uint64_t cookie = 1; cookie <= kStreams; ++cookie) {
    source.publish(opening(cookie, kOrigin));
    send(cookie, Direction::sent, get("/" + std::to_string(cookie)));
    send(cookie, Direction::received,
         "HTTP/1.1 200 OK\r\nContent-Length: " + std::to_string(kPieces * kPiece) + "\r\n\r\n");
  }
  // Nothing empties the queues yet: most of this doesn't fit.
  for (std::uint64_t piece = 0; piece < kPieces / 2; ++piece) {
    for (std::uint64_t cookie = 1; cookie <= kStreams; ++cookie)
      send(cookie, Direction::received, std::string(kPiece, 'x'));
  }
  const std::uint64_t dropped = runner.counters().queue_dropped_bytes;
  EXPECT_GT(dropped, 0u);
  EXPECT_LE(runner.counters().queue_bytes_now, 2 * config.queue_bytes);
  runner.start();
  runner.drain();
  for (std::uint64_t piece = kPieces / 2; piece < kPieces; ++piece) {
    for (std::uint64_t cookie = 1; cookie <= kStreams; ++cookie)
      send(cookie, Direction::received, std::string(kPiece, 'x'));
    runner.drain();
  }
  for (std::uint64_t cookie = 1; cookie <= kStreams; ++cookie) {
    source.publish(ConnectionClosed{.time = now(), .cookie = {cookie}});
  }
  runner.drain();

  EXPECT_EQ(runner.counters().queue_dropped_bytes, dropped);
  EXPECT_EQ(runner.counters().engine.gap_bytes, dropped);
  std::uint64_t missing = 0;
  const auto exchanges = collected.exchanges();
  EXPECT_EQ(exchanges.size(), kStreams);
  for (const auto& [url, records] : exchanges) {
    ASSERT_EQ(records.size(), 1u);
    missing += std::stoull(text(*records[0], "weir.gap.bytes"));
    EXPECT_EQ(text(*records[0], "http.response.body.size"), std::to_string(kPieces * kPiece));
  }
  EXPECT_EQ(missing, dropped);
}

TEST(Runner, ALossAtTheEndOfAStreamIsToldWithoutAnotherEvent) {
  Collected collected;
  EngineRunner runner({.engine = default_config(), .queue_events = 10, .queue_bytes = 200},
                      [&](RecordPtr record) { collected.add(record); });
  EventPublisher& source = runner.add_source();
  source.publish(curl_seen());
  source.publish(opening(1, kOrigin));
  source.publish(message(1, Tap::native, Direction::sent, 0, get("/a")));
  source.publish(message(1, Tap::native, Direction::received, 0, std::string(500, 'x')));
  runner.start();
  runner.drain();
  EXPECT_EQ(runner.counters().engine.gap_bytes, 500u);
  runner.stop();
  EXPECT_EQ(collected.exchanges().size(), 1u);
}

TEST(Runner, UnlinkedBytesReachTheShardOfTheirSocket) {
  Collected collected;
  EngineRunner runner({.engine = default_config(), .shards = 4},
                      [&](RecordPtr record) { collected.add(record); });
  EventPublisher& source = runner.add_source();
  runner.start();
  source.publish(curl_seen());
  for (std::uint64_t cookie = 1; cookie <= 32; ++cookie) {
    source.publish(opening(cookie, kOrigin));
    Bytes early = message(cookie, Tap::native, Direction::sent, 0, get("/" + std::to_string(cookie)));
    early.cookie = {};
    source.publish(early);
    source.publish(message(cookie, Tap::native, Direction::received, 0, ok("x")));
  }
  runner.drain();
  EXPECT_EQ(collected.exchanges().size(), 32u);
}

TEST(Runner, StoppingWritesWhatIsOpen) {
  Collected collected;
  EngineRunner runner({.engine = default_config()}, [&](RecordPtr record) { collected.add(record); });
  EventPublisher& source = runner.add_source();
  runner.start();
  source.publish(curl_seen());
  source.publish(opening(1, kOrigin));
  source.publish(message(1, Tap::native, Direction::sent, 0, get("/open")));
  runner.stop();
  ASSERT_EQ(collected.exchanges().size(), 1u);
  EXPECT_EQ(text(*collected.exchanges().begin()->second[0], "weir.incomplete"), "closed_early");
  EXPECT_EQ(collected.connections(), 1);
  runner.stop();
}

TEST(Runner, TimePassesByItself) {
  Collected collected;
  EngineRunner runner({.engine = default_config()}, [&](RecordPtr record) { collected.add(record); });
  EventPublisher& source = runner.add_source();
  runner.start();
  DecisionMade decision{.time = now(), .cookie = {1}};
  source.publish(decision);
  source.publish(message(1, Tap::proxy, Direction::sent, 0, get("/a")));
  source.publish(message(1, Tap::proxy, Direction::received, 0, ok("x")));
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  while (collected.exchanges().empty() && std::chrono::steady_clock::now() < deadline) runner.drain();
  EXPECT_EQ(collected.exchanges().size(), 1u);
}

TEST(Runner, SaysThatItHasNothingToDo) {
  std::promise<std::thread::id> idle;
  std::once_flag first;
  RunnerConfig config{.engine = default_config()};
  config.when_idle = [&] { std::call_once(first, [&] { idle.set_value(std::this_thread::get_id()); }); };
  EngineRunner runner(config, [](const RecordPtr&) {});
  runner.start();
  auto told = idle.get_future();
  ASSERT_EQ(told.wait_for(std::chrono::seconds(60)), std::future_status::ready);
  EXPECT_NE(told.get(), std::this_thread::get_id());
}

}  // namespace
}  // namespace weir::test
