// Lines are appended whole, to files that only their owner can read, and a reader that went away is an error.
#include "sinks/jsonl.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <csignal>
#include <fstream>
#include <sstream>

#include "tests/unit/sinks/support.h"

namespace weir::sinks {
namespace {

using test::make_record;

std::string content_of(const std::filesystem::path& path) {
  std::ifstream file(path);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

std::expected<void, Error> write_one(Sink& sink, const RecordPtr& record) {
  return sink.write({&record, 1});
}

TEST(Jsonl, AppendsALineForEachRecordToANewPrivateFile) {
  const test::TemporaryDirectory directory;
  const auto path = directory.path() / "feed.jsonl";
  const auto record = make_record({.id = "a"});
  for (int opened = 0; opened < 2; ++opened) {
    auto sink = make_jsonl_sink(path.string());
    ASSERT_TRUE(sink) << sink.error().what;
    ASSERT_TRUE(write_one(**sink, record));
  }
  EXPECT_EQ(content_of(path), record->json + "\n" + record->json + "\n");
  struct stat status{};
  ASSERT_EQ(::stat(path.c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0600u);
}

TEST(Jsonl, ALargeBatchIsWrittenInOrder) {
  const test::TemporaryDirectory directory;
  const auto path = directory.path() / "feed.jsonl";
  const std::vector<RecordPtr> batch = {
      make_record({.id = "a"}), make_record({.id = "b", .url = std::string(1'000'000, 'x')}),
      make_record({.id = "c", .url = std::string(100'000, 'x')}),
      make_record({.id = "d", .url = std::string(100'000, '"')}), make_record({.id = "e"})};
  ASSERT_TRUE((*make_jsonl_sink(path.string()))->write(batch));
  std::string expected;
  for (const auto& record : batch) expected += record->json + "\n";
  EXPECT_EQ(content_of(path), expected);
}

TEST(Jsonl, LeavesTheModeOfAFileThatIsThere) {
  const test::TemporaryDirectory directory;
  const auto path = directory.path() / "feed.jsonl";
  std::ofstream(path) << "before\n";
  ::chmod(path.c_str(), 0644);
  auto sink = make_jsonl_sink(path.string());
  ASSERT_TRUE(sink);
  ASSERT_TRUE(write_one(**sink, make_record({.id = "a"})));
  EXPECT_TRUE(content_of(path).starts_with("before\n{"));
  struct stat status{};
  ::stat(path.c_str(), &status);
  EXPECT_EQ(status.st_mode & 0777, 0644u);
}

TEST(Jsonl, AMissingDirectoryIsAnErrorWithAdvice) {
  const auto sink = make_jsonl_sink("/nonexistent/feed.jsonl");
  ASSERT_FALSE(sink);
  EXPECT_EQ(to_string(sink.error()),
            "/nonexistent/feed.jsonl: No such file or directory: make its directory first");
}

TEST(Jsonl, AClosedPipeIsAnErrorOfEachBatch) {
  int ends[2];
  ASSERT_EQ(::pipe2(ends, O_CLOEXEC), 0);
  ::close(ends[0]);
  SinkThread thread(make_jsonl_sink(ends[1], "a pipe"));  // it is the thread that blocks SIGPIPE
  thread.submit(make_record({.id = "a"}));
  thread.stop();
  EXPECT_EQ(thread.counters().dropped, 1u);
  EXPECT_EQ(thread.counters().last_error, "a pipe: Broken pipe: its reader has gone");
}

TEST(Jsonl, ALineCutShortByAFullDiskDoesNotSwallowTheNext) {
  const test::TemporaryDirectory directory;
  const auto path = directory.path() / "feed.jsonl";
  const auto record = make_record({.id = "after"});
  const int descriptor = ::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
  const auto sink = make_jsonl_sink(descriptor, path.string());
  // A file size limit stands in for the full disk: the write that crosses it is cut, the next one fails.
  struct rlimit before{};
  ::getrlimit(RLIMIT_FSIZE, &before);
  const struct rlimit small{64, before.rlim_max};
  const auto old_handler = ::signal(SIGXFSZ, SIG_IGN);
  ::setrlimit(RLIMIT_FSIZE, &small);
  const auto result = write_one(*sink, make_record({.id = std::string(200, 'x')}));
  ::setrlimit(RLIMIT_FSIZE, &before);
  ::signal(SIGXFSZ, old_handler);
  ASSERT_FALSE(result);
  ASSERT_TRUE(write_one(*sink, record));
  EXPECT_TRUE(content_of(path).ends_with("\n" + record->json + "\n"));
}

}  // namespace
}  // namespace weir::sinks
