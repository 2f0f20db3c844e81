// How containers are called: what their runtimes write, and where it is looked for.
#include "agent/container_names.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <vector>

#include "agent/container_files.h"

namespace weir::agent {
namespace {

namespace fs = std::filesystem;

const std::string kId(64, 'a');
const std::string kOther(64, 'b');

ContainerNames names_in(const std::string& text) {
  ContainerNames names;
  EXPECT_EQ(read_container_state(text, kId, names), Told::names) << text;
  return names;
}

TEST(ContainerState, Docker) {
  EXPECT_EQ(names_in(R"({"ID":"x","Name":"/web","Config":{"Image":"nginx:1.25","Labels":{"a":"b"}}})"),
            (ContainerNames{.name = "web", .image = "nginx:1.25"}));
  EXPECT_EQ(names_in(R"({"Name":"/k8s_app_web-1_prod_u_0","Config":{"Image":"sha256:0123"}})"),
            (ContainerNames{"k8s_app_web-1_prod_u_0", "", "prod", "web-1", "app"}));
}

TEST(ContainerState, ContainerdsForKubernetes) {
  EXPECT_EQ(names_in(R"({"ociVersion":"1.1.0","annotations":{"io.kubernetes.cri.container-name":"app",
              "io.kubernetes.cri.container-type":"container","io.kubernetes.cri.image-name":"docker.io/library/nginx:1",
              "io.kubernetes.cri.sandbox-name":"web-1","io.kubernetes.cri.sandbox-namespace":"prod"}})"),
            (ContainerNames{"app", "docker.io/library/nginx:1", "prod", "web-1", "app"}));
  EXPECT_EQ(names_in(R"({"ociVersion":"1.0.2"})"), ContainerNames());
}

TEST(ContainerState, TheListOfContainersStorage) {
  const std::string list = R"([{"id":")" + kOther + R"(","names":["other"]},{"id":")" + kId +
                           R"(","names":["web"],"metadata":"{\"image-name\":\"localhost/web:latest\"}"}])";
  EXPECT_EQ(names_in(list), (ContainerNames{.name = "web", .image = "localhost/web:latest"}));
  EXPECT_EQ(names_in(R"([{"id":")" + kId + R"(","names":["k8s_app_web-1_prod_u_0"]}])"),
            (ContainerNames{"k8s_app_web-1_prod_u_0", "", "prod", "web-1", "app"}));
  ContainerNames none;
  EXPECT_EQ(read_container_state(list, std::string(64, 'c'), none), Told::nothing);
  EXPECT_EQ(none, ContainerNames());
}

// Docker and podman take an image's over.
TEST(ContainerState, WhatAnImageMaySayIsNotBelieved) {
  const std::string labels = R"({"io.kubernetes.pod.namespace":"prod","io.kubernetes.container.name":"web",
      "io.kubernetes.cri-o.Name":"web","io.kubernetes.cri.sandbox-namespace":"prod"})";
  EXPECT_EQ(names_in(R"({"Name":"/mine","Config":{"Image":"x","Labels":)" + labels + "}}"),
            (ContainerNames{.name = "mine", .image = "x"}));
  EXPECT_EQ(names_in(R"({"Name":"/mine","Config":{},"annotations":)" + labels + "}"),
            (ContainerNames{.name = "mine"}));
  EXPECT_EQ(names_in(R"({"ociVersion":"1","annotations":{"io.kubernetes.pod.namespace":"prod",
                         "io.kubernetes.cri-o.Name":"web"}})"),
            ContainerNames());
}

TEST(ContainerState, ANameLikeTheKubeletsHasAllItsParts) {
  for (const std::string name : {"k8s_app_web_prod_u", "k8s_app_web_prod_u_0_1", "k8s_app__prod_u_0",
                                 "K8s_a_b_c_d_0", "x_app_web_prod_u_0"})
    EXPECT_EQ(names_in(R"({"Name":"/)" + name + R"(","Config":{}})"), ContainerNames{.name = name});
}

TEST(ContainerState, WhatIsKnownStays) {
  ContainerNames names{.name = "web"};
  EXPECT_EQ(read_container_state(R"({"Name":"/other","Config":{"Image":"nginx"}})", kId, names), Told::names);
  EXPECT_EQ(names, (ContainerNames{.name = "web", .image = "nginx"}));
}

TEST(ContainerState, WhatIsNoneSaysNothing) {
  const auto told = [](const std::string& text) {
    ContainerNames names;
    const Told answer = read_container_state(text, kId, names);
    EXPECT_EQ(names, ContainerNames()) << text;
    return answer;
  };
  for (const std::string text : {"", "{", "null", "7", "{}", R"({"Name":"/web"})", R"({"Config":[]})"})
    EXPECT_EQ(told(text), Told::unreadable) << text;
  for (const std::string text : {"[]", "[7]", R"([{"id":7}])", R"([{"id":"x","names":7,"metadata":7}])"})
    EXPECT_EQ(told(text), Told::nothing) << text;
  EXPECT_EQ(names_in(R"([{"id":")" + kId + R"(","names":7,"metadata":"{"}])"), ContainerNames());
  EXPECT_EQ(names_in(R"({"ociVersion":1,"annotations":{"io.kubernetes.cri.sandbox-name":["a"]}})"),
            ContainerNames());
  const std::string long_name(5000, 'n');
  EXPECT_EQ(names_in(R"({"Name":")" + long_name + R"(","Config":{}})"), ContainerNames());
}

class ContainerFilesTest : public testing::Test {
 protected:
  ContainerFilesTest() {
    std::string name = testing::TempDir() + "weir-containers-XXXXXX";
    root_ = ::mkdtemp(name.data());
  }
  ~ContainerFilesTest() override { fs::remove_all(root_); }

  fs::path write(const fs::path& place, const std::string& text) {
    fs::create_directories((root_ / place).parent_path());
    std::ofstream(root_ / place) << text;
    return root_ / place;
  }
  // What a table over these files finds; counts how often it looks.
  ContainerTable::Open open() {
    return [this](const std::string& id,
                  std::uint32_t number) -> std::expected<std::optional<ContainerTable::File>, Error> {
      looks_ += number == 0 ? 1 : 0;
      if (number >= fails_at_) return std::unexpected(Error{"gone", ""});
      auto found = ContainerFiles({root_.string()}).open(id, number);
      if (!found) return std::nullopt;
      return ContainerTable::File{found->number, std::move(found->file)};
    };
  }
  bool finds(std::string_view id) { return ContainerFiles({root_.string()}).open(id, 0).has_value(); }

  fs::path root_;
  int looks_ = 0;
  std::uint32_t fails_at_ = UINT32_MAX;
};

TEST_F(ContainerFilesTest, AreReadTogetherAndOnce) {
  write("io.containerd.runtime.v2.task/k8s.io/" + kId + "/config.json",
        R"({"ociVersion":"1","annotations":{"io.kubernetes.cri.sandbox-namespace":"prod"}})");
  write("overlay-containers/volatile-containers.json", R"([{"id":")" + kId + R"(","names":["web"]}])");
  ContainerTable table(open());
  const auto names = table.find(kId);
  ASSERT_TRUE(names);
  EXPECT_EQ(*names, (ContainerNames{.name = "web", .k8s_namespace = "prod"}));
  EXPECT_EQ(table.find(kId), names);
  EXPECT_EQ(looks_, 1);
  EXPECT_EQ(table.find(""), nullptr);
  EXPECT_EQ(looks_, 1);
}

// Half of what is known would be taken for all of it.
TEST_F(ContainerFilesTest, AreAllReadOrNoneIs) {
  write("k8s.io/" + kId + "/config.json", R"({"ociVersion":"1"})");
  const auto list = write("overlay-containers/containers.json", "[");
  EXPECT_EQ(ContainerTable(open()).find(kId), nullptr) << "a file that is being written";
  fs::remove(list);
  fails_at_ = 1;
  EXPECT_EQ(ContainerTable(open()).find(kId), nullptr) << "the broker doesn't answer";
  fails_at_ = UINT32_MAX;
  EXPECT_NE(ContainerTable(open()).find(kId), nullptr);
}

TEST_F(ContainerFilesTest, AreNotLookedForWithEachProcess) {
  write("overlay-containers/containers.json", "[]");
  ContainerTable table(open());
  EXPECT_EQ(table.find(kId), nullptr);
  EXPECT_EQ(table.find(kId), nullptr);
  EXPECT_EQ(looks_, 1);
}

TEST_F(ContainerFilesTest, AreOnlyTheRuntimesOwn) {
  const std::string place = "containers/" + kId + "/config.v2.json";
  const fs::path file = write("elsewhere", R"({"Name":"/web","Config":{}})");
  fs::create_directories((root_ / place).parent_path());
  EXPECT_FALSE(finds(kId));
  fs::create_symlink(file, root_ / place);
  EXPECT_FALSE(finds(kId)) << "a link";
  fs::remove(root_ / place);
  fs::create_directory(root_ / place);
  EXPECT_FALSE(finds(kId)) << "a directory";
  fs::remove(root_ / place);
  fs::copy(file, root_ / place);
  EXPECT_TRUE(finds(kId));
  if (::geteuid() == 0) {
    ASSERT_EQ(::chown((root_ / place).c_str(), 65'534, 65'534), 0);
    EXPECT_FALSE(finds(kId)) << "another user's";
  }
}

TEST_F(ContainerFilesTest, AreNamedByAnIdAlone) {
  write("overlay-containers/containers.json", "[]");
  EXPECT_TRUE(finds(kId));
  for (const std::string& id :
       {std::string(), std::string("../../etc"), std::string(63, 'a'), std::string(65, 'a'),
        std::string(63, 'a') + "/", std::string(64, 'A'), std::string(64, '\0')})
    EXPECT_FALSE(finds(id)) << id;
}

class Kept final : public EventPublisher {
 public:
  void publish(Event event) override { events.push_back(std::move(event)); }
  std::vector<Event> events;
};

TEST_F(ContainerFilesTest, NamesComeWithTheProcess) {
  write("containers/" + kId + "/config.v2.json", R"({"Name":"/web","Config":{"Image":"nginx"}})");
  ContainerTable table(open());
  Kept kept;
  const auto publisher = with_container_names(kept, table);
  ProcessEvent inside;
  inside.cgroup_path = "0::/system.slice/docker-" + kId + ".scope";
  publisher->publish(inside);
  ProcessEvent claiming;
  claiming.cgroup_path =
      "0::/user.slice/user-1000.slice/user@1000.service/app.slice/docker-" + kId + ".scope";
  publisher->publish(claiming);
  ProcessEvent outside;
  outside.cgroup_path = "0::/system.slice/cron.service";
  publisher->publish(outside);
  publisher->publish(ConnectionClosed{});
  ASSERT_EQ(kept.events.size(), 4u);
  const auto& named = std::get<ProcessEvent>(kept.events[0]).container;
  ASSERT_TRUE(named);
  EXPECT_EQ(named->name, "web");
  EXPECT_FALSE(std::get<ProcessEvent>(kept.events[1]).container);
  EXPECT_FALSE(std::get<ProcessEvent>(kept.events[2]).container);
}

}  // namespace
}  // namespace weir::agent
