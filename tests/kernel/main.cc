// The kernel tests need root: without it they fail, as a skip would hide that nothing was tested.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdio>

int main(int argc, char** argv) {
  ::testing::InitGoogleTest(&argc, argv);
  if (::geteuid() != 0) {
    std::fputs("loading BPF programs needs root: run this with sudo\n", stderr);
    return 1;
  }
  return RUN_ALL_TESTS();
}
