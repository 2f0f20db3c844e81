// What the sinks take of a record: CPU time of a sink's own thread, at a load's pace, and how large the store
// gets. Writes to a directory of its own under TMPDIR, which goes away.
//
// Usage: build/bench_sinks [SECONDS [ROUNDS [RECORDS_A_SECOND [WHICH]]]]     5 if not said, 3, 22000, all of
// json, jsonl, sqlite and sqlite-full (a store at its limit). Build: the target weir_bench_sinks.
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <thread>
#include <vector>

#include "attribution/record_json.h"
#include "sinks/jsonl.h"
#include "sinks/sqlite.h"

namespace weir {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kConnections = 64;
constexpr const char* kBootId = "3f0c1f6e-7a0b-4a55-9d2c-5d1f0a9e7c11";

// As the engine writes an exchange of HTTP/1.1 that the native tap read.
std::string json_of(const Record& record, std::uint64_t number, const std::string& cookie) {
  RecordWriter out(record);
  const auto add = [&](std::string_view key, const auto& value) { out.field(key, value); };
  const auto list = [&](std::string_view key, std::string_view value) {
    out.begin_list(key, {});
    out.item(value);
    out.end_list();
  };
  add("host.id", "0d1e2f3a4b5c6d7e8f901a2b3c4d5e6f");
  add("weir.boot.id", kBootId);
  list("weir.source", "native");
  add("weir.tls.library", "openssl");
  add("weir.socket.cookie", cookie);
  add("weir.connection.id", std::string(kBootId) + "-" + cookie);
  add("process.pid", std::uint64_t{record.pid});
  add("process.creation.time", "2026-01-31T12:00:00.123456789Z");
  add("process.executable.name", record.executable_name);
  add("process.executable.path", "/usr/bin/python3.11");
  add("process.command_args", std::vector<std::string>{"python3", "-m", "service"});
  add("process.owner", "www-data");
  add("container.id", record.container_id);
  add("network.transport", "tcp");
  add("network.local.address", "10.1.2.3");
  add("network.local.port", std::uint64_t{40'000 + number % kConnections});
  add("network.peer.address", "10.9.8.7");
  add("network.peer.port", std::uint64_t{443});
  add("network.protocol.name", "http");
  add("network.protocol.version", "1.1");
  add("server.address", record.server_address);
  add("server.port", std::uint64_t{443});
  add("tls.protocol.version", "1.3");
  add("http.request.method", "GET");
  add("url.full", "https://api.example.com/v1/items/" + std::to_string(number) + "?page=3&order=asc");
  add("http.response.status_code", std::uint64_t{200});
  list("http.request.header.host", "api.example.com");
  list("http.request.header.user-agent", "python-requests/2.28.1");
  list("http.request.header.accept-encoding", "gzip, deflate, br");
  list("http.request.header.accept", "application/json");
  list("http.request.header.connection", "keep-alive");
  list("http.request.header.authorization", "[redacted]");
  list("http.request.header.x-request-id", "7c9e6679");
  list("http.request.header.if-none-match", R"("33a64df551425fcc")");
  list("http.response.header.content-type", "application/json; charset=utf-8");
  list("http.response.header.content-length", "1234");
  list("http.response.header.date", "Sat, 31 Jan 2026 12:00:00 GMT");
  list("http.response.header.server", "nginx/1.25.3");
  list("http.response.header.etag", R"("33a64df551425fcc")");
  list("http.response.header.cache-control", "private, max-age=0");
  add("http.request.body.size", std::uint64_t{0});
  add("http.response.body.size", std::uint64_t{1'234});
  add("weir.duration_ns", std::int64_t{1'234'567});
  return out.finish();
}

RecordPtr exchange(std::uint64_t number) {
  static const std::int64_t began = std::chrono::system_clock::now().time_since_epoch().count();
  auto record = std::make_shared<Record>();
  record->timestamp = Time(std::chrono::nanoseconds(began + static_cast<std::int64_t>(number) * 45'123));
  const auto connection = number % kConnections;
  const std::string cookie = std::to_string(1'048'576 + connection * 37 % kConnections);
  record->id = std::string(kBootId) + "-" + cookie + "-" +
               std::to_string(record->timestamp.time_since_epoch().count()) + "-" +
               std::to_string(number / kConnections);
  record->pid = static_cast<std::uint32_t>(4'200 + connection / 16);
  record->executable_name = "python3.11";
  record->server_address = "api.example.com";
  record->status_code = 200;
  record->container_id = "c0ffee00c0ffee00c0ffee00c0ffee00c0ffee00c0ffee00c0ffee00c0ffee00";
  record->json = json_of(*record, number, cookie);
  return record;
}
struct Cost {
  double user = 0;
  double system = 0;
};

double seconds(const timeval& time) {
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) / 1e6;
}

// Another sink, and what its thread has taken when the last batch was written.
class Timed : public sinks::Sink {
 public:
  Timed(std::unique_ptr<Sink> sink, Cost& cost) : sink_(std::move(sink)), cost_(cost) {}
  std::string name() const override { return sink_->name(); }
  std::chrono::milliseconds batch_delay() const override { return sink_->batch_delay(); }
  std::uint64_t removed() const override { return sink_->removed(); }
  std::expected<std::chrono::milliseconds, sinks::Error> tidy() override { return sink_->tidy(); }
  std::expected<void, sinks::Error> write(std::span<const RecordPtr> batch) override {
    auto result = sink_->write(batch);
    rusage usage{};
    ::getrusage(RUSAGE_THREAD, &usage);
    cost_ = {seconds(usage.ru_utime), seconds(usage.ru_stime)};
    return result;
  }

 private:
  const std::unique_ptr<Sink> sink_;
  Cost& cost_;
};

struct Load {
  int seconds = 5;
  int rounds = 3;
  int a_second = 22'000;
  std::string which = "";

  bool wants(const char* name) const { return which.empty() || which == name; }
};

using MakeSink = std::function<std::unique_ptr<sinks::Sink>(const std::filesystem::path&)>;

// In one round; `records` counts those that were written.
Cost round(const Load& load, const MakeSink& make, std::uint64_t& records, std::uint64_t& bytes) {
  std::string name = (std::filesystem::temp_directory_path() / "weir-bench-XXXXXX").string();
  const std::filesystem::path directory = ::mkdtemp(name.data());
  Cost cost;
  {
    sinks::SinkThread thread(std::make_unique<Timed>(make(directory), cost));
    auto next = Clock::now();
    std::uint64_t number = 0;
    for (int tick = 0; tick < load.seconds * 1'000; ++tick) {
      next += std::chrono::milliseconds(1);
      std::this_thread::sleep_until(next);
      for (int i = 0; i < load.a_second / 1'000; ++i) thread.submit(exchange(number++));
    }
    thread.stop();
    records = thread.counters().written;
    const auto counters = thread.counters();
    if (counters.dropped > 0) {
      std::printf("  %lu dropped: %s\n", counters.dropped, counters.last_error.c_str());
    }
  }
  bytes = 0;
  for (const auto& file : std::filesystem::directory_iterator(directory)) bytes += file.file_size();
  std::filesystem::remove_all(directory);
  return cost;
}

double median(std::vector<double> values) {
  std::ranges::sort(values);
  return values[values.size() / 2];
}

void print(const char* name, const Load& load, const MakeSink& make) {
  if (!load.wants(name)) return;
  std::vector<double> user, system, both, size;
  for (int i = 0; i < load.rounds; ++i) {
    std::uint64_t records = 0, bytes = 0;
    const Cost cost = round(load, make, records, bytes);
    const auto count = static_cast<double>(records);
    user.push_back(1e6 * cost.user / count);
    system.push_back(1e6 * cost.system / count);
    both.push_back(user.back() + system.back());
    size.push_back(static_cast<double>(bytes) / count);
  }
  std::printf("%-22s %6.2f us a record: user %.2f, system %.2f; %.0f bytes\n", name, median(both),
              median(user), median(system), median(size));
}

void print_json(int rounds) {
  constexpr std::uint64_t kRecords = 2'000;
  const RecordPtr record = exchange(1);
  std::vector<double> times;
  for (int i = 0; i < rounds * 20; ++i) {
    timespec before{}, after{};
    ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &before);
    for (std::uint64_t number = 0; number < kRecords; ++number) json_of(*record, number, "1048576");
    ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &after);
    times.push_back(
        static_cast<double>((after.tv_sec - before.tv_sec) * 1'000'000'000 + after.tv_nsec - before.tv_nsec) /
        1e3 / static_cast<double>(kRecords));
  }
  std::printf("%-22s %6.2f us a record; %zu bytes\n", "json", median(times), record->json.size());
}

std::unique_ptr<sinks::Sink> store(const std::filesystem::path& directory, std::uint64_t max_bytes) {
  auto made = sinks::make_sqlite_sink({.path = directory / "weir.db", .max_bytes = max_bytes});
  if (!made) {
    std::fprintf(stderr, "%s\n", to_string(made.error()).c_str());
    std::exit(1);
  }
  return std::move(*made);
}

int bench(int argc, char** argv) {
  Load load;
  if (argc > 1) load.seconds = std::atoi(argv[1]);
  if (argc > 2) load.rounds = std::atoi(argv[2]);
  if (argc > 3) load.a_second = std::atoi(argv[3]);
  if (argc > 4) load.which = argv[4];
  if (load.wants("json")) print_json(load.rounds);
  print("jsonl", load, [](const auto& directory) {
    return std::move(*sinks::make_jsonl_sink((directory / "weir.jsonl").string()));
  });
  print("sqlite", load, [](const auto& directory) { return store(directory, std::uint64_t{4} << 30); });
  print("sqlite-full", load, [](const auto& directory) { return store(directory, std::uint64_t{64} << 20); });
  return 0;
}

}  // namespace
}  // namespace weir

int main(int argc, char** argv) {
  return weir::bench(argc, argv);
}
