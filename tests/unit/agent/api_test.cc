// The API as its clients see it: the unix socket for the owner, TCP for those with the token, live feeds that
// never hold up the agent.
#include "agent/api.h"

#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <fstream>
#include <future>
#include <thread>

#include "sinks/sqlite.h"
#include "tests/unit/sinks/support.h"

namespace weir::agent {
namespace {

using test::make_record;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::StartsWith;

// A client that is not ours: it sends bytes and reads bytes.
class RawClient {
 public:
  explicit RawClient(const std::filesystem::path& path)
      : descriptor_(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    path.string().copy(address.sun_path, sizeof(address.sun_path) - 1);
    EXPECT_EQ(::connect(descriptor_, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  }
  explicit RawClient(const Endpoint& endpoint)
      : descriptor_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(endpoint.port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    EXPECT_EQ(::connect(descriptor_, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  }
  ~RawClient() { ::close(descriptor_); }
  RawClient(const RawClient&) = delete;
  RawClient& operator=(const RawClient&) = delete;

  void send(const std::string& text) const {
    EXPECT_EQ(::send(descriptor_, text.data(), text.size(), MSG_NOSIGNAL), static_cast<ssize_t>(text.size()));
  }

  // What comes until `enough` says so, or the end.
  template <typename Enough>
  std::string read_until(Enough enough) const {
    std::string text;
    char buffer[65'536];
    for (ssize_t size = 1; size > 0 && !enough(text);) {
      size = ::read(descriptor_, buffer, sizeof(buffer));
      if (size > 0) text.append(buffer, static_cast<std::size_t>(size));
    }
    return text;
  }
  std::string read_all() const {
    return read_until([](const std::string&) { return false; });
  }

 private:
  const int descriptor_;
};

std::string get(const std::string& target, const std::string& headers) {
  return "GET " + target + " HTTP/1.1\r\n" + headers + "\r\n";
}

class Api : public testing::Test {
 protected:
  void SetUp() override { start({}); }

  void start(ApiConfig config) {
    server_.reset();
    config.unix_socket = socket_;
    config.tcp = Endpoint{parse_ip_address("127.0.0.1"), 0};
    config.token = "secret";
    auto created =
        ApiServer::create(config, {[] { return R"({"ready":true})"; }, [] { return ""; }, database_});
    ASSERT_TRUE(created) << created.error().what;
    server_ = std::move(*created);
    server_->start();
  }

  std::vector<std::string> lines_of(const std::string& target) {
    std::vector<std::string> lines;
    const auto result = api_get(socket_, target, [&](std::string_view line) {
      lines.emplace_back(line);
      return true;
    });
    EXPECT_TRUE(result) << result.error().what;
    return lines;
  }

  std::string over_tcp(const std::string& request) {
    const RawClient client(*server_->address());
    client.send(request);
    return client.read_all();
  }

  const test::TemporaryDirectory directory_;
  const std::filesystem::path socket_ = directory_.path() / "agent.sock";
  const std::filesystem::path database_ = directory_.path() / "weir.db";
  std::unique_ptr<ApiServer> server_;
};

TEST_F(Api, AnswersOnASocketThatIsTheOwnersAlone) {
  EXPECT_THAT(lines_of("/v1/status"), ElementsAre(R"({"ready":true})"));
  struct stat status{};
  ASSERT_EQ(::stat(socket_.c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0600u);
}

TEST_F(Api, TellsAnAgentThatIsNotRunningApart) {
  const auto ignore = [](std::string_view) { return true; };
  server_->stop();
  const auto gone = api_get(socket_, "/v1/status", ignore);
  ASSERT_FALSE(gone);
  EXPECT_TRUE(gone.error().not_running);
  std::ofstream(directory_.path() / "file").flush();
  const auto no_socket = api_get(directory_.path() / "file", "/v1/status", ignore);
  ASSERT_FALSE(no_socket);
}

TEST_F(Api, ReplacesAStaleSocketButNothingElse) {
  const int stale = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  server_.reset();
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  socket_.string().copy(address.sun_path, sizeof(address.sun_path) - 1);
  ASSERT_EQ(::bind(stale, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  ::close(stale);
  start({});
  EXPECT_THAT(lines_of("/v1/status"), ElementsAre(R"({"ready":true})"));

  server_.reset();
  std::ofstream(socket_) << "precious";
  const auto refused = ApiServer::create({.unix_socket = socket_, .tcp = {}, .token = ""}, {});
  ASSERT_FALSE(refused);
  EXPECT_THAT(refused.error().what, HasSubstr("not a socket"));
  EXPECT_EQ(std::filesystem::file_size(socket_), 8u);
}

TEST_F(Api, ALongSocketPathAndATakenPortAreErrorsWithAdvice) {
  const auto too_long =
      ApiServer::create({.unix_socket = "/tmp/" + std::string(110, 'x'), .tcp = {}, .token = ""}, {});
  ASSERT_FALSE(too_long);
  EXPECT_THAT(too_long.error().what, HasSubstr("at most 107 bytes"));
  EXPECT_EQ(too_long.error().remedy, "choose a shorter --state-dir");
  const auto taken = ApiServer::create(
      {.unix_socket = directory_.path() / "other", .tcp = server_->address(), .token = "t"}, {});
  ASSERT_FALSE(taken);
  EXPECT_THAT(taken.error().what, HasSubstr(server_->address()->to_string() + ": Address already in use"));
}

TEST_F(Api, TcpNeedsTheTokenAndAHostThatCannotBeRebound) {
  const std::string token = "Authorization: Bearer secret\r\n";
  const std::string host = "Host: 127.0.0.1\r\n";
  const struct {
    std::string headers;
    const char* status_line;
  } cases[] = {
      {host + token, "HTTP/1.1 200 "},
      {"Host: [::1]:7480\r\n" + token, "HTTP/1.1 200 "},
      {"Host: LOCALHOST:1\r\n" + token, "HTTP/1.1 200 "},
      {host, "HTTP/1.1 401 "},
      {host + "Authorization: Bearer secreT\r\n", "HTTP/1.1 401 "},
      {host + "Authorization: Bearer secret1\r\n", "HTTP/1.1 401 "},
      {host + "Authorization: Bearer \r\n", "HTTP/1.1 401 "},
      {"Host: evil.example\r\n" + token, "HTTP/1.1 403 "},
      {"Host: 127.0.0.1.evil.example\r\n" + token, "HTTP/1.1 403 "},
      {"Host: \r\n" + token, "HTTP/1.1 403 "},
      {token, "HTTP/1.1 400 "},
      {host + host + token, "HTTP/1.1 400 "},
      {host + token + "Content-Length: 5\r\n", "HTTP/1.1 4"},
      {host + token + "X: " + std::string(10'000, 'x') + "\r\n", "HTTP/1.1 400 "},
  };
  for (const auto& [headers, status_line] : cases) {
    EXPECT_THAT(over_tcp(get("/v1/status", headers)), StartsWith(status_line)) << headers;
  }
  EXPECT_THAT(over_tcp("POST /v1/status HTTP/1.1\r\n" + host + token + "\r\n"), StartsWith("HTTP/1.1 405 "));
}

TEST_F(Api, UnknownPathsAndParametersAreRefusedWithTheReason) {
  const auto ignore = [](std::string_view) { return true; };
  EXPECT_EQ(api_get(socket_, "/v2", ignore).error().what, "the agent answered 404: no such path\n");
  EXPECT_THAT(api_get(socket_, "/v1/tail?pid=x", ignore).error().what,
              HasSubstr("400: pid: a process's number"));
}

TEST_F(Api, RecordsComeFromTheStoreThroughTheFilter) {
  std::vector<RecordPtr> records;
  for (int i = 1; i <= 2'000; ++i) {
    records.push_back(make_record(
        {.id = std::to_string(i), .second = i, .pid = i % 2 == 0 ? 7u : 8u, .url = std::string(500, 'u')}));
  }
  auto sink = sinks::make_sqlite_sink({.path = database_});
  ASSERT_TRUE(sink);
  ASSERT_TRUE((*sink)->write(records));
  EXPECT_EQ(lines_of("/v1/records").size(), 2'000u);
  EXPECT_THAT(lines_of("/v1/records?pid=7&limit=2"), ElementsAre(records[1'997]->json, records[1'999]->json));
  int seen = 0;
  EXPECT_TRUE(api_get(socket_, "/v1/records", [&](std::string_view) { return ++seen < 3; }));
  EXPECT_EQ(seen, 3) << "a client may stop early";
}

TEST_F(Api, AMissingStoreIsSaid) {
  const auto result = api_get(socket_, "/v1/records", [](std::string_view) { return true; });
  ASSERT_FALSE(result);
  EXPECT_THAT(result.error().what, HasSubstr("weir.db"));
}

TEST_F(Api, ATailGetsWhatItAskedForAndEndsWithTheAgent) {
  std::promise<void> subscribed;
  std::vector<std::string> lines;
  std::thread reader([&] {
    const auto result = api_get(socket_, "/v1/tail?pid=7&connections=opaque", [&](std::string_view line) {
      if (line.empty()) subscribed.set_value();
      if (!line.empty()) lines.emplace_back(line);
      return true;
    });
    EXPECT_TRUE(result) << result.error().what;
  });
  subscribed.get_future().wait();
  const auto wanted = make_record({.id = "wanted", .pid = 7});
  const auto opaque =
      make_record({.id = "opaque", .kind = RecordKind::connection, .pid = 7, .opaque = "quic"});
  server_->publish(wanted);
  server_->publish(make_record({.id = "other", .pid = 8}));
  server_->publish(make_record({.id = "readable", .kind = RecordKind::connection, .pid = 7}));
  server_->publish(opaque);
  server_->stop();
  reader.join();
  EXPECT_THAT(lines, ElementsAre(wanted->json, opaque->json));
}

TEST_F(Api, ASlowReaderIsToldHowManyRecordsItMissed) {
  constexpr std::size_t kPublished = 60;
  start({.unix_socket = {}, .tcp = {}, .token = "", .tail_queue = 4});
  const RawClient client(socket_);
  client.send(get("/v1/tail", "Host: localhost\r\n"));
  client.read_until([](const std::string& text) { return text.ends_with("1\r\n\n\r\n"); });
  const std::string large(200'000, 'x');
  for (std::size_t i = 0; i < kPublished; ++i) server_->publish(make_record({.id = "r", .url = large}));
  lines_of("/v1/status");  // answered by the thread that hands records out: they are all handed out
  server_->publish(make_record({.id = "last"}));
  std::size_t received = 0;
  std::size_t dropped = 0;
  const auto count = [&](const std::string& text) {
    received = dropped = 0;
    for (auto at = text.find("weir.record.id"); at != std::string::npos;
         at = text.find("weir.record.id", at + 1))
      ++received;
    constexpr std::string_view kDropped = "weir.tail.dropped\":";
    for (auto at = text.find(kDropped); at != std::string::npos; at = text.find(kDropped, at + 1)) {
      dropped += std::stoul(text.substr(at + kDropped.size()));
    }
    return received + dropped >= kPublished + 1;
  };
  client.read_until(count);
  EXPECT_EQ(received + dropped, kPublished + 1);
  EXPECT_GT(dropped, 40u);
  EXPECT_GE(received, 4u);
}

TEST_F(Api, TooManyClientsAreTurnedAwayAndTheirPlacesReused) {
  start({.unix_socket = {}, .tcp = {}, .token = "", .connections = 1});
  {
    const RawClient first(socket_);
    first.send(get("/v1/tail", "Host: localhost\r\n"));
    first.read_until([](const std::string& text) { return text.ends_with("\n\r\n"); });
    const auto refused = api_get(socket_, "/v1/status", [](std::string_view) { return true; });
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().what, "the agent answered 503: too many connections\n");
    EXPECT_THAT(over_tcp(get("/v1/status", "Host: localhost\r\nAuthorization: Bearer secret\r\n")),
                HasSubstr(" 200 "));
  }
  // The server notices the first client's end by itself.
  const auto ask = [&] {
    return api_get(socket_, "/v1/status", [](std::string_view) { return true; }).has_value();
  };
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(10);
  bool admitted = ask();
  while (!admitted && std::chrono::steady_clock::now() < deadline) admitted = ask();
  EXPECT_TRUE(admitted);
}

}  // namespace
}  // namespace weir::agent
