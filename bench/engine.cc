// What the engine's thread takes of an HTTP/1 exchange that the native tap read: from its queue to the queue
// of a sink. A synthetic load, so neither root nor a server is needed: keep-alive GETs with small answers on
// several connections of one process, published in batches as the ring's reader does.
//
//   cmake --build --preset release --target weir_bench_engine
//   build/bench_engine [EXCHANGES [ROUNDS]]     200000 if not said, 5 rounds
//
// Prints the CPU time of an exchange in microseconds: each round's, and their median.
#include <ctime>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <iostream>
#include <string>
#include <vector>

#include "agent/memory.h"
#include "agent/process_info.h"
#include "attribution/runner.h"
#include "sinks/sink.h"

namespace {

using namespace weir;

constexpr std::size_t kConnections = 8;
constexpr std::size_t kBatch = 100;  // exchanges: what a saturated server does in 5 ms
constexpr ProcessKey kServer{.pid = 4242, .start_boottime_ns = 77'123'456'789};
constexpr Time kStart{std::chrono::seconds(1'700'000'000)};
constexpr std::string_view kCgroup =
    "0::/system.slice/docker-4f3c2b1a09f8e7d6c5b4a392817065544332211000ffeeddccbbaa9988776655.scope";

class NoSink final : public sinks::Sink {
 public:
  std::string name() const override { return "none"; }
  std::expected<void, sinks::Error> write(std::span<const RecordPtr>) override { return {}; }
  std::chrono::milliseconds batch_delay() const override { return std::chrono::milliseconds(5); }
};

std::vector<std::byte> bytes_of(const std::string& text) {
  const auto bytes = std::as_bytes(std::span(text));
  return {bytes.begin(), bytes.end()};
}

std::string request(std::size_t number) {
  return "GET /api/items/" + std::to_string(number) +
         "?page=2&limit=50 HTTP/1.1\r\n"
         "Host: service.example.org:8443\r\n"
         "User-Agent: client/1.0 (linux; x86_64)\r\n"
         "Accept: application/json\r\n"
         "Accept-Encoding: gzip, deflate\r\n"
         "Authorization: Bearer abcdefghijklmnopqrstuvwxyz0123456789\r\n"
         "X-Request-Id: 7b0c0f5e-51c2-4b58-9e7d-2d4f0d3a9c11\r\n"
         "Cache-Control: no-cache\r\n"
         "Connection: keep-alive\r\n\r\n";
}

const std::string kResponse =
    "HTTP/1.1 200 OK\r\n"
    "Server: nginx/1.22.1\r\n"
    "Date: Tue, 14 Nov 2023 22:13:20 GMT\r\n"
    "Content-Type: application/json\r\n"
    "Content-Length: 64\r\n"
    "Connection: keep-alive\r\n"
    "ETag: \"6553f1e0-40\"\r\n\r\n" +
    std::string(64, 'x');

struct Conversation {
  SocketCookie cookie;
  TlsObjectId object;
  std::uint64_t sent = 0;
  std::uint64_t received = 0;
};

class Load {
 public:
  explicit Load(EventPublisher& to) : to_(to) {
    to_.publish(ProcessEvent{.time = kStart,
                             .process = kServer,
                             .parent = {.pid = 4000},
                             .inner_pid = 7,
                             .executable_path = "/usr/local/bin/client",
                             .arguments = {"/usr/local/bin/client", "--config", "/etc/client.conf",
                                           "--loop=https://service.example.org:8443/api", "--verbose"},
                             .uid = 0,
                             .cgroup_path = std::string(kCgroup),
                             .cgroup_id = 9});
    for (std::size_t i = 0; i < kConnections; ++i) open(i);
  }

  void exchange(std::size_t number) {
    Conversation& one = conversations_[number % kConnections];
    now_ += std::chrono::microseconds(20);
    say(one, Direction::sent, one.sent, request(number));
    now_ += std::chrono::microseconds(20);
    say(one, Direction::received, one.received, kResponse);
  }

 private:
  void open(std::size_t i) {
    const std::uint8_t local[] = {10, 0, 0, 7};
    const std::uint8_t peer[] = {192, 168, 100, 20};
    Conversation& one = conversations_.emplace_back(
        Conversation{.cookie = {1000 + i},
                     .object = {.process = kServer, .pointer = 0x55d0c0de0000 + i * 4096, .generation = 1}});
    to_.publish(ConnectionOpened{.time = now_,
                                 .cookie = one.cookie,
                                 .tuple = {.local = {IpAddress::v4(local), std::uint16_t(40000 + i)},
                                           .peer = {IpAddress::v4(peer), 8443}},
                                 .owner = kServer,
                                 .owner_uid = 0});
    to_.publish(Handshake{.time = now_,
                          .cookie = one.cookie,
                          .object = one.object,
                          .library = TlsLibrary::openssl,
                          .version = "1.3",
                          .sni = "service.example.org",
                          .alpn = "http/1.1",
                          .completed = true});
  }

  void say(Conversation& one, Direction direction, std::uint64_t& offset, const std::string& text) {
    to_.publish(Bytes{.time = now_,
                      .cookie = one.cookie,
                      .object = one.object,
                      .process = kServer,
                      .direction = direction,
                      .offset = offset,
                      .data = bytes_of(text)});
    offset += text.size();
  }

  EventPublisher& to_;
  std::vector<Conversation> conversations_;
  Time now_ = kStart;
};

double thread_cpu_us() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return double(now.tv_sec) * 1e6 + double(now.tv_nsec) / 1e3;
}

// The engine's own thread reads its clock: at its first record and at its last.
double run(std::size_t exchanges) {
  double began = 0;
  double ended = 0;
  std::size_t records = 0;
  sinks::SinkThread sink(std::make_unique<NoSink>());
  RunnerConfig config;
  config.engine.host_id = "5e1f8f0a7b6c4d3e9a8b7c6d5e4f3a2b";
  config.engine.boot_id = "0b9c7d52-31ae-4c55-8d3f-6e0a1c2b3d4e";
  config.engine.boot_time = kStart - std::chrono::hours(1);
  config.engine.user_name = agent::UserNames();
  EngineRunner runner(config, [&](const RecordPtr& record) {
    if (records == 0) began = thread_cpu_us();
    sink.submit(record);
    if (++records == exchanges) ended = thread_cpu_us();
  });
  EventPublisher& source = runner.add_source();
  runner.start();
  Load load(source);
  for (std::size_t i = 0; i < exchanges; ++i) {
    load.exchange(i);
    if (i % kBatch == kBatch - 1) runner.drain();
  }
  runner.stop();
  if (records < exchanges || sink.counters().dropped != 0) {
    std::cerr << "bench_engine: lost some of " << exchanges << " exchanges\n";
    std::exit(1);
  }
  return (ended - began) / double(exchanges);
}

}  // namespace

int main(int argc, char** argv) {
  weir::agent::return_memory_when_idle();
  const std::size_t exchanges = argc > 1 ? std::strtoull(argv[1], nullptr, 10) : 200'000;
  const std::size_t rounds = argc > 2 ? std::strtoull(argv[2], nullptr, 10) : 5;
  std::vector<double> figures;
  for (std::size_t i = 0; i < std::max<std::size_t>(rounds, 1); ++i) {
    figures.push_back(run(std::max<std::size_t>(exchanges, 1)));
    std::cout << "engine thread: " << figures.back() << " us an exchange\n";
  }
  std::ranges::sort(figures);
  std::cout << "median: " << figures[figures.size() / 2] << " us an exchange\n";
}
