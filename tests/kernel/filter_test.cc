// What the filters leave out, as the loaded programs judge real processes. Needs root.
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <optional>
#include <sstream>
#include <string>

#include "tests/kernel/support.h"

namespace weir::test {
namespace {

// Below the root of cgroup v2, wherever that is mounted; empty when it goes.
class Cgroup {
 public:
  explicit Cgroup(const std::string& path) {
    std::ifstream mounts("/proc/self/mountinfo");
    for (std::string line; std::getline(mounts, line);) {
      if (line.find(" - cgroup2 ") == line.npos) continue;
      std::istringstream words(line);
      for (int word = 0; word < 5; ++word) words >> root_;
      break;
    }
    directory_ = root_ + path;
    std::filesystem::create_directory(directory_);
  }
  ~Cgroup() {
    // A process that has ended leaves its cgroup a little later.
    for (int tries = 0; tries < 500 && ::rmdir(directory_.c_str()) != 0; ++tries) ::usleep(10'000);
  }
  Cgroup(const Cgroup&) = delete;
  Cgroup& operator=(const Cgroup&) = delete;
  // A command's prefix that runs it there.
  std::vector<std::string> enter() const {
    return {"sh", "-c", "echo $$ > " + directory_ + "/cgroup.procs; exec \"$@\"", "sh"};
  }
  std::uint64_t id() const {
    struct stat status{};
    return ::stat(directory_.c_str(), &status) == 0 ? status.st_ino : 0;
  }

 private:
  std::string root_;
  std::string directory_;
};

class Filters : public ::testing::Test {
 protected:
  void load(const std::vector<std::string>& only, const std::vector<std::string>& except) {
    bpf::LoadOptions options = default_options();
    for (const std::string& text : only) options.filters.only.push_back(bpf::parse_filter(text).value());
    for (const std::string& text : except) options.filters.except.push_back(bpf::parse_filter(text).value());
    tap_.emplace(options);
    const int file = libssl_.open();
    auto target = tap_->kernel().attach(file, libssl_.sites());
    ::close(file);
    ASSERT_TRUE(target) << target.error().what;
    const std::uint32_t own = static_cast<std::uint32_t>(::getpid());
    tap_->kernel().set_own_processes({&own, 1});
  }

  std::string copy_of_curl(const std::string& name) {
    const auto copy = programs_.path() / name;
    std::filesystem::copy_file("/usr/bin/curl", copy);
    return copy;
  }

  // Runs one request to its end; gives the client's pid.
  std::uint32_t get(const std::string& curl, const TlsOrigin& origin, std::vector<std::string> prefix = {}) {
    const std::string url = "https://127.0.0.1:" + std::to_string(origin.port()) + "/20";
    prefix.insert(prefix.end(), {curl, "-sk4", url});
    Child child(prefix, {libssl_.environment()});
    const std::uint32_t pid = child.pid();
    EXPECT_EQ(child.finish().size(), 20u);
    return pid;
  }

  void expect_told(std::uint32_t pid) {
    ASSERT_TRUE(tap_->wait_for([&] {
      const auto opened = tap_->events().opened_by(pid);
      return !opened.empty() && !tap_->events().closed(opened.front()->cookie).empty();
    }));
    EXPECT_GE(bytes_of(pid), 2u);
  }
  // To be asked when something later was told.
  void expect_silent(std::uint32_t pid) {
    EXPECT_TRUE(tap_->events().opened_by(pid).empty());
    EXPECT_EQ(bytes_of(pid), 0u);
    EXPECT_TRUE(tap_->events()
                    .all<Handshake>([=](const auto& one) { return one.object.process.pid == pid; })
                    .empty());
    EXPECT_TRUE(tap_->events()
                    .all<StreamEnded>([=](const auto& one) { return one.object.process.pid == pid; })
                    .empty());
  }
  std::size_t bytes_of(std::uint32_t pid) {
    return tap_->events().all<Bytes>([=](const auto& event) { return event.process.pid == pid; }).size();
  }

  std::optional<Tap> tap_;
  PrivateLibssl libssl_;
  TemporaryDirectory programs_;
};

TEST_F(Filters, WhatIsExceptedIsNotTold) {
  const TlsOrigin origin, other;
  const std::string suffix = std::to_string(::getpid());
  const Cgroup by_path("/weir-test-path-" + suffix), by_id("/weir-test-id-" + suffix);
  const std::string name = copy_of_curl("excepted-by-name"), path = copy_of_curl("excepted-by-path");
  // Its pid is known before it connects.
  Child by_pid(
      {"sh", "-c", "read go; exec curl -sk4 https://127.0.0.1:" + std::to_string(origin.port()) + "/20"},
      {libssl_.environment()});
  load({}, {"process:excepted-by-name", "process:" + path, "cgroup:/weir-test-path-" + suffix,
            "cgroup:" + std::to_string(by_id.id()), "port:" + std::to_string(other.port()),
            "pid:" + std::to_string(by_pid.pid())});
  by_pid.write_line("go");
  EXPECT_EQ(by_pid.finish().size(), 20u);
  const std::uint32_t silent[] = {get(name, origin),
                                  get(path, origin),
                                  get("curl", origin, by_path.enter()),
                                  get("curl", origin, by_id.enter()),
                                  get("curl", other),
                                  by_pid.pid()};
  expect_told(get("curl", origin));
  for (const std::uint32_t pid : silent) expect_silent(pid);
  EXPECT_EQ(tap_->source().counters().filtered_connections, std::size(silent));
}

TEST_F(Filters, OnlyWhatMatchesInEachKindIsTold) {
  const TlsOrigin origin, other;
  const std::string suffix = std::to_string(::getpid());
  const Cgroup chosen("/weir-test-only-" + suffix), below("/weir-test-only-" + suffix + "/below");
  const std::string wanted = copy_of_curl("wanted"), refused = copy_of_curl("refused");
  load({"process:wanted", "process:refused", "cgroup:/weir-test-only-" + suffix,
        "port:" + std::to_string(origin.port())},
       {"process:" + refused});
  const std::uint32_t silent[] = {get(wanted, origin), get("curl", origin, chosen.enter()),
                                  get(wanted, other, chosen.enter()), get(refused, origin, chosen.enter())};
  expect_told(get(wanted, origin, chosen.enter()));
  expect_told(get(wanted, origin, below.enter()));
  for (const std::uint32_t pid : silent) expect_silent(pid);
}

}  // namespace
}  // namespace weir::test
