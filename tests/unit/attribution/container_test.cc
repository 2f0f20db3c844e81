// Lines of /proc/PID/cgroup as the runtimes write them.
#include "attribution/container.h"

#include <gtest/gtest.h>

namespace weir {
namespace {

const std::string kId = "4f5e2a6b7c8d9e0f1a2b3c4d5e6f708192a3b4c5d6e7f8091a2b3c4d5e6f7081";
const std::string kOuter = "aaaabbbbccccddddeeeeffff0000111122223333444455556666777788889999";
const std::string kPod = "0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9";
const std::string kPodUnderscored = "0a1b2c3d_4e5f_6071_8293_a4b5c6d7e8f9";

struct Case {
  std::string text;
  std::string id;
  std::string pod;
  std::string unit;
};

TEST(Container, NamesOfEveryRuntime) {
  const std::string docker = "docker-" + kId + ".scope";
  const std::string slice = "kubepods-burstable-pod" + kPodUnderscored + ".slice";
  const Case cases[] = {
      {"0::/", "", "", ""},
      {"0::/system.slice/ssh.service", "", "", "ssh.service"},
      {"0::/user.slice/user-1000.slice/user@1000.service/app.slice/app-x.service", "", "", "app-x.service"},
      {"0::/user.slice/user-0.slice/session-3.scope", "", "", "session-3.scope"},
      {"1:name=systemd:/system.slice/cron.service\n0::/", "", "", "cron.service"},
      {"0::/system.slice/" + docker, kId, "", docker},
      {"12:memory:/docker/" + kId + "\n0::/", kId, "", ""},
      {"0::/docker/" + kOuter + "/docker/" + kId, kId, "", ""},
      {"0::/machine.slice/libpod-" + kId + ".scope/container", kId, "", "libpod-" + kId + ".scope"},
      {"0::/libpod_parent/libpod-" + kId, kId, "", ""},
      {"0::/machine.slice/libpod-conmon-" + kId + ".scope", "", "", "libpod-conmon-" + kId + ".scope"},
      {"0::/kubepods.slice/kubepods-burstable.slice/" + slice + "/cri-containerd-" + kId + ".scope", kId,
       kPod, "cri-containerd-" + kId + ".scope"},
      {"0::/kubepods.slice/" + slice + "/crio-" + kId + ".scope", kId, kPod, "crio-" + kId + ".scope"},
      {"3:cpu:/kubepods/besteffort/pod" + kPod + "/" + kId, kId, kPod, ""},
      {"0::/" + slice + ":cri-containerd:" + kId, kId, kPod, ""},
      {"0::/kubepods/pod00112233445566778899aabbccddeeff/" + kId, kId, "00112233445566778899aabbccddeeff",
       ""},
      {"0::/deadbeef/" + kId + "0", "", "", ""},
      {"not a line\n::\n", "", "", ""},
      {"", "", "", ""},
  };
  for (const Case& one : cases) {
    SCOPED_TRACE(one.text);
    const ContainerFacts facts = container_facts(one.text);
    EXPECT_EQ(facts.container_id, one.id);
    EXPECT_EQ(facts.pod_uid, one.pod);
    EXPECT_EQ(facts.systemd_unit, one.unit);
  }
}

TEST(Container, WhoMayMakeACgroupMayClaimAnothersId) {
  const std::string other(64, 'b');
  const auto claimed = [](const std::string& path) { return container_facts("0::" + path).claimed; };
  EXPECT_FALSE(claimed("/system.slice/docker-" + kId + ".scope"));
  EXPECT_FALSE(claimed("/user.slice/user-0.slice/session-1.scope/libpod-" + kId + "/container"));
  EXPECT_FALSE(claimed("/kubepods.slice/x.slice/cri-containerd-" + kId + ".scope"));
  EXPECT_FALSE(claimed("/a/" + kId + "/" + kId));
  EXPECT_TRUE(claimed("/user.slice/user-1000.slice/user@1000.service/app.slice/docker-" + kId + ".scope"));
  EXPECT_TRUE(claimed("/user.slice/user-1000.slice/session-2.scope/" + kId));
  EXPECT_TRUE(claimed("/system.slice/docker-" + other + ".scope/docker-" + kId + ".scope"));
  EXPECT_TRUE(container_facts("2:cpu:/docker/" + other + "\n0::/docker/" + kId).claimed);
}

TEST(Container, AnImagesNameIsWithoutTagAndDigest) {
  const auto parts = [](std::string_view image) {
    const ImageName split = split_image(image);
    return std::string(split.name) + " " + std::string(split.tag);
  };
  EXPECT_EQ(parts("nginx"), "nginx ");
  EXPECT_EQ(parts("nginx:1.25"), "nginx 1.25");
  EXPECT_EQ(parts("registry:5000/app"), "registry:5000/app ");
  EXPECT_EQ(parts("registry:5000/a/app:2@sha256:0123"), "registry:5000/a/app 2");
  EXPECT_EQ(parts("app@sha256:0123"), "app ");
  EXPECT_EQ(parts(""), " ");
}

TEST(Container, OnlyTheHostsOwnPathsAreTheHosts) {
  const std::pair<std::string, bool> cases[] = {
      {"0::/", true},
      {"0::/init.scope", true},
      {"0::/user.slice/user-0.slice/session-3.scope", true},
      {"1:name=systemd:/system.slice/cron.service\n0::/", true},
      {"0::/app.slice/x.service", true},
      {"0::/lxc.payload.web/system.slice/x.service", false},
      {"0::/system.slice/docker-" + kId + ".scope", false},
      {"0::/machine.slice/machine-web.scope", false},
      {"0::/kubepods.slice/x.scope", false},
      {"0::/buildkit/abc\n1:cpu:/", false},
      {"0::/../other", false},
      {"", false},
  };
  for (const auto& [text, host] : cases) EXPECT_EQ(container_facts(text).host, host) << text;
}

}  // namespace
}  // namespace weir
