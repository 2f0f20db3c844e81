// What a process ran at a given time, from events that may be incomplete.
#include "attribution/process_table.h"

#include <gtest/gtest.h>

namespace weir {
namespace {

constexpr ProcessKey kParent{100, 1'000};
constexpr ProcessKey kChild{101, 2'000};

Time at(int seconds) {
  return Time(std::chrono::seconds(seconds));
}

ProcessEvent event(ProcessEvent::What what, Time time, ProcessKey process, std::string path = "") {
  ProcessEvent event;
  event.what = what;
  event.time = time;
  event.process = process;
  event.parent = kParent;
  event.executable_path = std::move(path);
  return event;
}

TEST(ProcessTable, AnExecThatWasNotToldShowsWhenTheProcessIsSeen) {
  ProcessTable table(10);
  table.apply(event(ProcessEvent::What::seen, at(1), kParent, "/bin/sh"));
  table.apply(event(ProcessEvent::What::started, at(2), kChild));
  table.apply(event(ProcessEvent::What::seen, at(9), kChild, "/usr/bin/curl"));
  Process* child = table.find(kChild);
  ASSERT_NE(child, nullptr);
  EXPECT_EQ(child->image_at(at(3)).executable_path, "/usr/bin/curl");  // what it said before it was seen, too
  EXPECT_EQ(child->image_at(at(10)).executable_path, "/usr/bin/curl");
  EXPECT_EQ(child->image_at(at(10)).generation, 1u);
}

// A program that is renamed is the same program.
TEST(ProcessTable, AnExecThatWasToldIsNotOverruled) {
  ProcessTable table(10);
  table.apply(event(ProcessEvent::What::seen, at(1), kParent, "/bin/sh"));
  table.apply(event(ProcessEvent::What::started, at(2), kChild));
  table.apply(event(ProcessEvent::What::execed, at(3), kChild, "/opt/app"));
  table.apply(event(ProcessEvent::What::seen, at(9), kChild, "/opt/app.old"));
  const Process* child = table.find(kChild);
  ASSERT_NE(child, nullptr);
  EXPECT_EQ(child->image_at(at(2)).executable_path, "/bin/sh");
  EXPECT_EQ(child->image_at(at(10)).executable_path, "/opt/app");
  EXPECT_EQ(child->image_at(at(10)).generation, 1u);
}

TEST(ProcessTable, SeenAgainChangesNothing) {
  ProcessTable table(10);
  table.apply(event(ProcessEvent::What::seen, at(1), kParent, "/bin/sh"));
  table.apply(event(ProcessEvent::What::execed, at(2), kParent, "/bin/bash"));
  table.apply(event(ProcessEvent::What::seen, at(3), kParent, "/bin/bash"));
  const Process* parent = table.find(kParent);
  ASSERT_NE(parent, nullptr);
  EXPECT_EQ(parent->image_at(at(1)).executable_path, "/bin/sh");
  EXPECT_EQ(parent->image_at(at(4)).generation, 1u);
}

}  // namespace
}  // namespace weir
