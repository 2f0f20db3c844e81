// Which files a command's trust hangs on, found among decoys.
#include "agent/trust_places.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>

#include <fstream>
#include <map>

namespace weir::agent {

using ::testing::Contains;
using ::testing::IsSupersetOf;
using ::testing::Not;

namespace {

namespace fs = std::filesystem;

class TrustPlacesTest : public ::testing::Test {
 protected:
  TrustPlacesTest() {
    std::string pattern = (fs::temp_directory_path() / "weir-places-XXXXXX").string();
    directory_ = fs::canonical(mkdtemp(pattern.data()));
  }
  ~TrustPlacesTest() override { fs::remove_all(directory_); }

  fs::path put(const fs::path& name, const std::string& content = "x") {
    const fs::path file = directory_ / name;
    fs::create_directories(file.parent_path());
    std::ofstream(file) << content;
    fs::permissions(file, fs::perms::owner_all);
    return file;
  }

  std::vector<fs::path> places(const std::string& command,
                               std::map<std::string, std::string> variables = {}) {
    return trust_places({command, [&](std::string_view name) -> std::optional<std::string> {
                           const auto found = variables.find(std::string(name));
                           if (found == variables.end()) return std::nullopt;
                           return found->second;
                         }});
  }

  fs::path directory_;
};

TEST_F(TrustPlacesTest, PythonsBundlesOfTheCommandsOwnEnvironment) {
  const fs::path certifi = put("venv/lib/python3.11/site-packages/certifi/cacert.pem");
  const fs::path pips = put("venv/lib/python3.11/site-packages/pip/_vendor/certifi/cacert.pem");
  put("venv/lib/other3/site-packages/certifi/cacert.pem");
  // A virtual environment's interpreter is a link to the system's.
  fs::create_directories(directory_ / "venv/bin");
  fs::create_symlink("/bin/sh", directory_ / "venv/bin/python3");
  const fs::path script = put("elsewhere/tool", "#!" + (directory_ / "venv/bin/python3").string() + " -B\n");
  for (const std::string& command : {(directory_ / "venv/bin/python3").string(), script.string()}) {
    EXPECT_THAT(places(command), IsSupersetOf({certifi, pips})) << command;
    for (const fs::path& place : places(command))
      EXPECT_EQ(place.string().find("other3"), std::string::npos) << place;
  }
  EXPECT_THAT(places("python3", {{"PATH", "/nowhere:" + (directory_ / "venv/bin").string()}}),
              Contains(certifi));
  EXPECT_THAT(places("tool", {{"PATH", (directory_ / "elsewhere").string()}}), Contains(certifi));
  EXPECT_THAT(places("/bin/true"), Not(Contains(certifi)));
}

TEST_F(TrustPlacesTest, WhatTheEnvironmentNames) {
  const fs::path certifi = put("packages/certifi/cacert.pem");
  const fs::path home = put("home/.local/lib/python3.9/site-packages/botocore/cacert.pem");
  const fs::path pyenv = put("pyenv/versions/3.8.1/lib/python3.8/site-packages/certifi/cacert.pem");
  const fs::path own = put("own.pem");
  fs::create_symlink(own, directory_ / "link.pem");
  const std::string root = directory_.string();
  EXPECT_THAT(places("/bin/true", {{"PYTHONPATH", "/nowhere:" + root + "/packages"},
                                   {"HOME", root + "/home"},
                                   {"PYENV_ROOT", root + "/pyenv"},
                                   {"SSL_CERT_FILE", root + "/link.pem"}}),
              IsSupersetOf({certifi, home, pyenv, own}));
  EXPECT_THAT(places("/bin/true", {{"SSL_CERT_FILE", root + "/missing"}, {"NODE_EXTRA_CA_CERTS", root}}),
              Not(Contains(directory_)));
}

TEST_F(TrustPlacesTest, TheStoreOfTheCommandsJdk) {
  const fs::path store = put("jdk/lib/security/cacerts");
  put("jdk/bin/java");
  EXPECT_THAT(places((directory_ / "jdk/bin/java").string()), Contains(store));
  EXPECT_THAT(places("/bin/true"), Not(Contains(store)));
}

TEST_F(TrustPlacesTest, EachOnceByItsRealPath) {
  const auto found = places("/bin/true");
  for (const fs::path& place : found) {
    EXPECT_EQ(fs::canonical(place), place);
    EXPECT_EQ(std::ranges::count(found, place), 1) << place;
  }
  EXPECT_THAT(found, Contains(fs::canonical("/etc/ssl/certs/ca-certificates.crt")));
}

}  // namespace
}  // namespace weir::agent
