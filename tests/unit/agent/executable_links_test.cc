#include "agent/executable_links.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>

namespace weir::agent {
namespace {

using testing::ElementsAre;

// A program, a link to it, and a link to their directory.
class ExecutableLinks : public testing::Test {
 protected:
  ExecutableLinks() {
    std::string pattern = (std::filesystem::temp_directory_path() / "weir-links-XXXXXX").string();
    base_ = std::filesystem::canonical(::mkdtemp(pattern.data()));
    std::filesystem::create_directory(base_ / "bin");
    std::filesystem::copy_file("/bin/true", base_ / "bin/program");
    std::filesystem::create_symlink("program", base_ / "bin/link");
    std::filesystem::create_symlink("bin", base_ / "linked");
  }
  ~ExecutableLinks() override { std::filesystem::remove_all(base_); }
  std::string at(const std::string& name) const { return (base_ / name).string(); }

  std::filesystem::path base_;
};

TEST_F(ExecutableLinks, AreTakenForWhatTheyAre) {
  EXPECT_EQ(real_path_behind(at("bin/program")), std::nullopt);
  EXPECT_EQ(real_path_behind(at("bin/")), std::nullopt);
  EXPECT_EQ(real_path_behind(at("absent")), std::nullopt);
  EXPECT_EQ(real_path_behind("link"), std::nullopt) << "a name";
  EXPECT_EQ(real_path_behind(at("bin/link")), at("bin/program"));
  EXPECT_EQ(real_path_behind(at("linked/program")), at("bin/program"));
  EXPECT_EQ(real_path_behind(at("linked/")), at("bin/"));
}

TEST_F(ExecutableLinks, AreNamedWithTheirRulesAndSettings) {
  Policy policy;
  policy.rules.push_back({.name = "mine", .action = PolicyAction::deny, .line = 3});
  policy.rules[0].executables = {{at("bin/program"), false}, {at("bin/link"), false}, {at("linked/"), true}};
  policy.rules.push_back({.name = "in a container", .line = 4});
  policy.rules[1].executables = {{at("bin/link"), false}};
  policy.rules[1].containers = {{"web", true}};
  const std::string told = " is a link on this host and matches no process of it: write ";
  EXPECT_THAT(linked_executables(policy, "p.yaml"),
              ElementsAre("p.yaml:3: deny 'mine': executable: " + at("bin/link") + told + at("bin/program"),
                          "p.yaml:3: deny 'mine': executable: " + at("linked/") + told + at("bin/")));
  Config config;
  config.native_only = {"port:443", "process:" + at("bin/link")};
  config.native_except = {"process:" + at("bin/program"), "process:link"};
  config.transparent_processes = {"process:" + at("linked/link")};
  EXPECT_THAT(linked_executables(config),
              ElementsAre("native.only: process: " + at("bin/link") + told + at("bin/program"),
                          "transparent.processes: process: " + at("linked/link") + told + at("bin/program")));
}

}  // namespace
}  // namespace weir::agent
