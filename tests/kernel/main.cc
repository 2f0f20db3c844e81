// The kernel tests need root: without it they are skipped as a whole (CTest's SKIP_RETURN_CODE).
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdio>

int main(int argc, char** argv) {
  ::testing::InitGoogleTest(&argc, argv);
  if (::geteuid() != 0) {
    std::puts("skipped: loading BPF programs needs root");
    return 77;
  }
  return RUN_ALL_TESTS();
}
