#include "agent/mount_points.h"

#include <gtest/gtest.h>

#include <sstream>

namespace weir::agent {
namespace {

TEST(MountPoints, ThoseThatMayHoldPrograms) {
  std::istringstream mountinfo(
      "22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw\n"
      "23 22 0:21 / /proc rw,nosuid shared:12 - proc proc rw\n"
      "24 22 0:22 / /home/me rw - nfs4 server:/me rw\n"
      "25 22 0:23 / /mnt rw - fuse.sshfs me@server: rw\n"
      "26 22 0:24 / /run rw,nosuid - tmpfs tmpfs rw\n");
  EXPECT_EQ(mount_points_with_programs(mountinfo), (std::vector<std::string>{"/", "/run"}));
}

TEST(MountPoints, AreNamedAsTheFileSystemNamesThem) {
  std::istringstream mountinfo(
      "30 22 0:30 / /media/my\\040disk rw - ext4 /dev/sdb rw\n"
      "31 22 0:31 / /media/a\\134b\\011c rw - tmpfs tmpfs rw\n"
      "32 22 0:32 / /media/\\9 rw - tmpfs tmpfs rw\n");
  EXPECT_EQ(mount_points_with_programs(mountinfo),
            (std::vector<std::string>{"/media/my disk", "/media/a\\b\tc", "/media/\\9"}));
}

}  // namespace
}  // namespace weir::agent
