// What outlives an agent: who may take over, what goes with whom, what is listed. Needs root.
#include "bpf/pins.h"

#include <bpf/bpf.h>
#include <gtest/gtest.h>
#include <linux/magic.h>
#include <sys/mount.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <optional>

namespace weir::bpf {
namespace {

namespace fs = std::filesystem;

constexpr const char* kFileSystem = "/sys/fs/bpf";

// systemd mounts it; a container has none.
struct PinsTest : testing::Test {
  static void SetUpTestSuite() {
    struct statfs there{};
    if (::statfs(kFileSystem, &there) == 0 && there.f_type == BPF_FS_MAGIC) return;
    ASSERT_EQ(::mount("bpf", kFileSystem, "bpf", 0, "mode=0700"), 0);
    mounted_ = true;
  }
  static void TearDownTestSuite() {
    if (mounted_) ::umount2(kFileSystem, MNT_DETACH);
  }
  void SetUp() override { ASSERT_GE(table.get(), 0) << "cannot make a table"; }
  void TearDown() override {
    if (auto last = Pins::take(owner)) last->remove_earlier();
    EXPECT_FALSE(fs::exists(place));
  }
  std::optional<PinnedPlace> listed() const {
    const auto all = pinned_places();
    const auto found = std::ranges::find(all, place, &PinnedPlace::path);
    return found == all.end() ? std::nullopt : std::optional(*found);
  }

  const std::string owner = "test-" + std::to_string(::getpid());
  const fs::path place = fs::path(kFileSystem) / "weir" / owner;
  const Descriptor table{::bpf_map_create(BPF_MAP_TYPE_ARRAY, "pins_test", 4, 8, 1, nullptr)};
  static inline bool mounted_ = false;
};

TEST_F(PinsTest, WhatIsNotKeptGoes) {
  {
    auto pins = Pins::take(owner);
    ASSERT_TRUE(pins) << pins.error().what;
    EXPECT_FALSE(Pins::are_there(owner));
    ASSERT_TRUE(pins->pin("marks", table.get()));
    EXPECT_TRUE(Pins::are_there(owner));
  }
  EXPECT_FALSE(Pins::are_there(owner));
  EXPECT_FALSE(fs::exists(place));
}

TEST_F(PinsTest, WhatIsKeptIsTakenOverOnceAndListed) {
  {
    auto first = Pins::take(owner);
    ASSERT_TRUE(first);
    ASSERT_TRUE(first->pin("marks", table.get()));
    first->keep();
    const auto second = Pins::take(owner);
    ASSERT_FALSE(second) << "two agents of one owner";
    EXPECT_EQ(second.error().what, place.string() + " is held by another agent");
    ASSERT_TRUE(listed());
    EXPECT_TRUE(listed()->held);
  }
  ASSERT_TRUE(listed());
  EXPECT_FALSE(listed()->held);

  const std::uint32_t zero = 0;
  const std::uint64_t seven = 7;
  ASSERT_EQ(::bpf_map_update_elem(table.get(), &zero, &seven, BPF_ANY), 0);
  auto heir = Pins::take(owner);
  ASSERT_TRUE(heir);
  EXPECT_LT(heir->earlier_table("marks", 4, 4).get(), 0) << "of another layout";
  EXPECT_LT(heir->earlier_table("others", 4, 8).get(), 0);
  const Descriptor earlier = heir->earlier_table("marks", 4, 8);
  std::uint64_t value = 0;
  ASSERT_EQ(::bpf_map_lookup_elem(earlier.get(), &zero, &value), 0);
  EXPECT_EQ(value, 7u);
  ASSERT_TRUE(heir->pin("marks", table.get()));
  heir->remove_earlier();
  EXPECT_FALSE(fs::exists(place / "1"));
  EXPECT_TRUE(fs::exists(place / "2" / "marks"));
}

// Nothing of it is followed, nor removed.
TEST_F(PinsTest, WhatIsNotRootsOwnIsLeftAlone) {
  {
    auto pins = Pins::take(owner);
    ASSERT_TRUE(pins && pins->pin("marks", table.get()));
    pins->keep();
  }
  const uid_t nobody = 65534;
  for (const fs::path& one : {place, place / "1"}) {
    ASSERT_EQ(::chown(one.c_str(), nobody, nobody), 0);
    EXPECT_FALSE(Pins::are_there(owner));
    EXPECT_FALSE(listed());
    {
      const auto taken = Pins::take(owner);
      EXPECT_EQ(taken.has_value(), one != place);
    }
    EXPECT_TRUE(fs::exists(place / "1" / "marks"));
    ASSERT_EQ(::chown(one.c_str(), 0, 0), 0);
  }
  EXPECT_TRUE(Pins::are_there(owner));
}

}  // namespace
}  // namespace weir::bpf
