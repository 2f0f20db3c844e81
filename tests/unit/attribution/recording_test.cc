// What is recorded and replayed gives the same events, and so the same records.
#include "attribution/recording.h"

#include <gmock/gmock.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fstream>

#include "tests/unit/attribution/scenario.h"

namespace weir::test {
namespace {

using testing::HasSubstr;

class TemporaryFile {
 public:
  TemporaryFile() {
    std::string name = testing::TempDir() + "weir-recording-XXXXXX";
    const int descriptor = mkstemp(name.data());
    close(descriptor);
    path_ = name;
    std::filesystem::remove(path_);
  }
  ~TemporaryFile() { std::filesystem::remove(path_); }
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

RecordingSession session() {
  return {"host", "boot", at(1), {kOrigin}, {7, 8}};
}
const auto ignore_session = [](const RecordingSession&) {};

// Every member of every event, none at its default.
std::vector<Event> one_of_each() {
  const TlsObjectId object{kCurl, 0xffff'ffff'ffff'fff0, 3};
  return {
      ProcessEvent{ProcessEvent::What::execed,
                   at(1),
                   kCurl,
                   kShell,
                   7,
                   11,
                   "/bin/\xff",
                   {"a", "", "\xfe"},
                   true,
                   33u,
                   "0::/x\n1:name=systemd:/y",
                   8,
                   std::make_shared<const ContainerNames>(ContainerNames{"n", "i:\xff", "ns", "p", "c"}),
                   9},
      ConnectionOpened{
          at(2), {18446744073709551615u}, {endpoint("::1", 1), kOrigin}, kCurl, 5, 6, 7, true, true},
      ConnectionClosed{at(3), {2}, 1u, std::nullopt, 3u, 4u, 111},
      OwnershipChanged{at(4), {2}, kShell},
      Handshake{at(5), {2}, object, Tap::proxy, TlsLibrary::go, "1.3", "sni", "h2", std::uint8_t{48}, true},
      DecisionMade{
          at(6), {2}, Decision::upstream_failed, 3, "r", "e", "n", 443, kOrigin, endpoint("10.0.0.1", 5)},
      Bytes{at(7),
            {2},
            object,
            kCurl,
            Tap::proxy,
            Direction::received,
            1'000'000'000'000,
            bytes_of("\x00\xff\n")},
      Gap{at(8), {2}, object, Tap::proxy, Direction::received, 5, 6, Gap::Reason::fault},
      StreamEnded{at(9), {2}, object, Tap::proxy, Direction::received, 12u},
      Dns{at(10), kCurl, "q", {"a", "b"}},
  };
}

TEST(Recording, EveryEventSurvivesItsLine) {
  for (const Event& event : one_of_each()) {
    const std::string line = to_line(event);
    EXPECT_EQ(line.find('\n'), std::string::npos);
    const auto back = from_line(line);
    ASSERT_TRUE(back) << back.error() << " " << line;
    EXPECT_EQ(back->index(), event.index());
    EXPECT_EQ(to_line(*back), line);
    EXPECT_EQ(time_of(*back), time_of(event));
  }
  const auto bytes = std::get<Bytes>(*from_line(to_line(one_of_each()[6])));
  EXPECT_EQ(bytes.data, bytes_of("\x00\xff\n"));
  EXPECT_EQ(bytes.object, (TlsObjectId{kCurl, 0xffff'ffff'ffff'fff0, 3}));
  const auto process = std::get<ProcessEvent>(*from_line(to_line(one_of_each()[0])));
  EXPECT_EQ(process.executable_path, "/bin/\xff");
  EXPECT_EQ(process.arguments, (std::vector<std::string>{"a", "", "\xfe"}));
  ASSERT_TRUE(process.container);
  EXPECT_EQ(*process.container, (ContainerNames{"n", "i:\xff", "ns", "p", "c"}));
  const auto opened = std::get<ConnectionOpened>(*from_line(to_line(one_of_each()[1])));
  EXPECT_EQ(opened.cookie.value, 18446744073709551615u);
  EXPECT_EQ(opened.tuple.peer, kOrigin);
}

TEST(Recording, RefusesWhatIsNoEvent) {
  const std::pair<const char*, const char*> cases[] = {
      {"", "not JSON"},
      {"[]", "no \"event\""},
      {R"({"event":3})", "no \"event\""},
      {R"({"event":"nonsense"})", "unknown event \"nonsense\""},
      {R"({"event":"bytes","data":"*"})", "bad value of \"data\""},
      {R"({"event":"bytes","tap":2})", "bad value of \"tap\""},
      {R"({"event":"bytes","offset":-1})", "bad value of \"offset\""},
      {R"({"event":"opened","tuple":[["x",1],["",0]]})", "bad value of \"tuple\""},
      {R"({"event":"opened","owner":[4294967296,0]})", "bad value of \"owner\""},
      {R"({"event":"closed","error":1e3})", "bad value of \"error\""},
      {R"({"event":"dns","time":-1})", "bad value of \"time\""},
      {R"({"event":"dns","time":9223372036854775807})", "bad value of \"time\""},
  };
  for (const auto& [line, error] : cases) {
    const auto event = from_line(line);
    ASSERT_FALSE(event) << line;
    EXPECT_THAT(event.error(), HasSubstr(error));
  }
}

TEST(Recording, AReplayGivesTheSameRecords) {
  TemporaryFile file;
  std::vector<std::string> live;
  {
    auto recorder = EventRecorder::open(file.path(), session());
    ASSERT_TRUE(recorder) << recorder.error();
    struct stat status{};
    ASSERT_EQ(stat(file.path().c_str(), &status), 0);
    EXPECT_EQ(status.st_mode & 0777, 0600u);

    Engine engine(default_config(), [&](RecordPtr record) { live.push_back(record->json); });
    const auto publish = [&](Event event) {
      (*recorder)->record(event);
      const Time when = time_of(event);
      engine.consume(std::move(event));
      engine.advance(when);
    };
    ProcessEvent curl{.time = at(0), .process = kCurl};
    curl.executable_path = "/usr/bin/curl";
    publish(curl);
    for (std::uint64_t cookie = 1; cookie <= 20; ++cookie) {
      publish(ConnectionOpened{
          at(1), {cookie}, {endpoint("10.0.0.1", 4000), cookie % 2 == 0 ? kProxy : kOrigin}, kCurl});
      if (cookie % 4 == 0)
        publish(DecisionMade{.time = at(1), .cookie = {cookie}, .server_name = "example.test"});
      const Tap tap = cookie % 4 == 0 ? Tap::proxy : Tap::native;
      publish(Bytes{
          at(2), {cookie}, {}, kCurl, tap, Direction::sent, 0, bytes_of(get("/" + std::to_string(cookie)))});
      publish(Bytes{at(3), {cookie}, {}, kCurl, tap, Direction::received, 0, bytes_of(ok("x"))});
      publish(ConnectionClosed{.time = at(4), .cookie = {cookie}, .bytes_sent = 1, .bytes_received = 2});
    }
    engine.finish(at(4));
    (*recorder)->flush();
  }
  ASSERT_EQ(live.size(), 40u);

  std::vector<std::string> replayed;
  Engine engine(default_config(), [&](RecordPtr record) { replayed.push_back(record->json); });
  const auto done = replay(file.path(), ignore_session, [&](Event event) {
    const Time when = time_of(event);
    engine.consume(std::move(event));
    engine.advance(when);
  });
  ASSERT_TRUE(done) << done.error();
  engine.finish(at(4));
  EXPECT_EQ(replayed, live);
}

TEST(Recording, ABadLineIsNamedAndWhatStandsBeforeItIsDelivered) {
  TemporaryFile file;
  {
    auto recorder = EventRecorder::open(file.path(), session());
    ASSERT_TRUE(recorder);
    (*recorder)->record(one_of_each()[3]);
  }
  std::ofstream(file.path(), std::ios::app) << "{\"event\":\"by";
  int delivered = 0;
  const auto done = replay(file.path(), ignore_session, [&](Event) { ++delivered; });
  ASSERT_FALSE(done);
  EXPECT_THAT(done.error(), HasSubstr(file.path().string() + ":3: not JSON"));
  EXPECT_EQ(delivered, 1);

  std::ofstream(file.path()) << "something else\n";
  EXPECT_THAT(replay(file.path(), ignore_session, [](Event) {}).error(), HasSubstr(":1: not a recording"));
  EXPECT_THAT(replay("/nonexistent/file", ignore_session, [](Event) {}).error(),
              HasSubstr("/nonexistent/file: No such file"));
  EXPECT_THAT(replay("/", ignore_session, [](Event) {}).error(), HasSubstr("/: Is a directory"));
  EXPECT_THAT(replay("/dev/null", ignore_session, [](Event) {}).error(), HasSubstr("empty"));
  EXPECT_THAT(replay("/dev/zero", ignore_session, [](Event) {}).error(), HasSubstr("not a recording"));
  EXPECT_FALSE(EventRecorder::open("/nonexistent/file", session()));
}

}  // namespace
}  // namespace weir::test
