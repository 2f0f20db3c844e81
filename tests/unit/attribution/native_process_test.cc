// Who spoke: the process, what it ran and where, when it spoke.
#include "tests/unit/attribution/native.h"

namespace weir::test {
namespace {

using testing::IsEmpty;

TEST_F(Native, WeirsOwnProcessesAreInNoRecord) {
  opened(1, kOrigin, 0, kWorker);
  View(engine(), 1, Tap::native, kWorker).exchange("/own", "x", 1);
  closed(1, 2);
  View(engine(), 2, Tap::native, kWorker).exchange("/own", "x", 3);
  engine().finish(at(9));
  EXPECT_THAT(records_, IsEmpty());
}

TEST_F(Native, ForkInheritsAndExecReplaces) {
  ProcessEvent shell{.what = ProcessEvent::What::seen, .time = at(0), .process = kShell};
  shell.executable_path = "/bin/sh";
  shell.arguments = {"sh", "-c", "x"};
  shell.uid = 1234;
  shell.cgroup_path = "0::/system.slice/cron.service";
  engine().consume(shell);
  const ProcessKey child{901, 6'000'000'001};
  process(child, "", 1, ProcessEvent::What::started, kShell);
  opened(1, kOrigin, 1.1, child);
  View before(engine(), 1, Tap::native, child);
  before.exchange("/before", "x", 1.2);
  before.sent(get("/across"), 1.3);
  process(child, "/usr/bin/wget", 2, ProcessEvent::What::execed);
  before.received(ok("x"), 2.1);
  before.exchange("/after", "x", 2.2);

  ASSERT_EQ(exchanges().size(), 3u);
  EXPECT_EQ(text(*exchanges()[0], "process.executable.path"), "/bin/sh");
  EXPECT_EQ(text(*exchanges()[0], "process.pid"), "901");
  EXPECT_EQ(text(*exchanges()[0], "process.parent_pid"), "900");
  EXPECT_EQ(text(*exchanges()[0], "process.owner"), "1234");
  EXPECT_EQ(text(*exchanges()[1], "process.executable.path"), "/bin/sh");  // who began it
  EXPECT_EQ(text(*exchanges()[2], "process.executable.path"), "/usr/bin/wget");
  EXPECT_EQ(text(*exchanges()[2], "process.owner"), "1234");
  EXPECT_EQ(text(*exchanges()[2], "container.id"), "");
  EXPECT_EQ(text(*exchanges()[2], "weir.systemd.unit"), "cron.service");
}

// A child has its parent's arguments, and the next program its own.
TEST_F(Native, ArgumentsThatWereCutAreSaidToBe) {
  ProcessEvent shell{.what = ProcessEvent::What::seen, .time = at(0), .process = kShell};
  shell.executable_path = "/bin/sh";
  shell.arguments = {"sh", "xxx"};
  shell.arguments_truncated = true;
  engine().consume(shell);
  const ProcessKey child{901, 6'000'000'001};
  process(child, "", 1, ProcessEvent::What::started, kShell);
  opened(1, kOrigin, 1.1, child);
  View tls(engine(), 1, Tap::native, child);
  tls.exchange("/cut", "x", 1.2);
  process(child, "/usr/bin/wget", 2, ProcessEvent::What::execed);
  tls.exchange("/whole", "x", 2.2);
  ASSERT_EQ(exchanges().size(), 2u);
  EXPECT_EQ(text(*exchanges()[0], "weir.process.command_args.truncated"), "true");
  EXPECT_EQ(text(*exchanges()[1], "weir.process.command_args.truncated"), "(absent)");
}

TEST_F(Native, AProcessThatMovedIntoAContainerDoesNotKeepItsParentsPlace) {
  ProcessEvent shim{.time = at(0), .process = kShell};
  shim.cgroup_path = "0::/system.slice/containerd.service";
  shim.cgroup_id = 1;
  engine().consume(shim);
  const ProcessKey child{901, 6'000'000'001};
  process(child, "", 1, ProcessEvent::What::started, kShell);
  ProcessEvent exec{.what = ProcessEvent::What::execed, .time = at(2), .process = child};
  exec.cgroup_id = 2;
  engine().consume(exec);
  opened(1, kOrigin, 3, child);
  View tls(engine(), 1, Tap::native, child);
  tls.exchange("/unknown", "x", 3);
  ProcessEvent seen{.time = at(4), .process = child};
  seen.cgroup_path = "0::/system.slice/docker-" + std::string(64, 'a') + ".scope";
  seen.container = std::make_shared<const ContainerNames>(
      ContainerNames{"k8s_app_web-1_prod_u_0", "registry:5000/app:2", "prod", "web-1", "app"});
  engine().consume(seen);
  tls.exchange("/known", "x", 4);
  const ProcessKey grandchild{902, 7'000'000'001};
  process(grandchild, "", 5, ProcessEvent::What::started, child);
  opened(2, kOrigin, 6, grandchild);
  View(engine(), 2, Tap::native, grandchild).exchange("/inherited", "x", 6);
  EXPECT_EQ(text(*exchanges().at(0), "container.id"), "(absent)");
  EXPECT_EQ(text(*exchanges().at(0), "container.name"), "(absent)");
  for (const std::size_t i : {1, 2}) {
    const Record& record = *exchanges().at(i);
    EXPECT_EQ(text(record, "container.id"), std::string(64, 'a'));
    EXPECT_EQ(text(record, "container.name"), "k8s_app_web-1_prod_u_0");
    EXPECT_EQ(text(record, "container.image.name"), "registry:5000/app");
    EXPECT_EQ(text(record, "k8s.namespace.name"), "prod");
    EXPECT_EQ(text(record, "k8s.pod.name"), "web-1");
    EXPECT_EQ(text(record, "k8s.container.name"), "app");
  }
}

TEST_F(Native, AReusedPidIsAnotherProcess) {
  const ProcessKey reused{kCurl.pid, 9'000'000'003};
  process(kCurl, "", 1, ProcessEvent::What::exited);
  process(reused, "/usr/bin/python3", 2);
  opened(1, kOrigin, 0.5, kCurl);
  opened(2, kOrigin, 2.5, reused);
  View(engine(), 1, Tap::native, kCurl).exchange("/old", "x", 0.6);  // read late
  View(engine(), 2, Tap::native, reused).exchange("/new", "x", 2.6);
  EXPECT_EQ(text(*exchanges().at(0), "process.executable.name"), "curl");
  EXPECT_EQ(text(*exchanges().at(1), "process.executable.name"), "python3");
}

TEST_F(Native, StartTimesInTicksMeetExactOnes) {
  const ProcessKey ticks{kCurl.pid, kCurl.start_boottime_ns / 10'000'000 * 10'000'000};
  opened(1, kOrigin, 0, ticks);
  View(engine(), 1, Tap::native, ticks).exchange("/", "x", 1);
  EXPECT_EQ(text(*exchanges().at(0), "process.executable.name"), "curl");
}

// A server's worker gives up root without an exec.
TEST_F(Native, TheOwnerIsWhoTheProcessWasWhenItConnected) {
  ProcessEvent event{.time = at(0), .process = kCurl};
  event.uid = 0;
  engine().consume(event);
  opened(1, kOrigin, 1, kCurl, 33);
  View(engine(), 1, Tap::native).exchange("/", "x", 2);
  closed(1, 3);
  EXPECT_EQ(text(*exchanges().at(0), "process.owner"), "33");
  EXPECT_EQ(text(*connections().at(0), "process.owner"), "33");
}

TEST_F(Native, EachRecordHasItsOwnOwnerAndWhatIsKnownByThen) {
  ProcessEvent event{.time = at(0), .process = kCurl};
  event.uid = 0;
  engine().consume(event);
  const auto say = [&](std::uint64_t cookie, double when, std::optional<std::uint32_t> uid) {
    opened(cookie, kOrigin, when, kCurl, uid);
    View(engine(), cookie, Tap::native).exchange("/", "x", when + 0.1);
  };
  say(1, 1, 33);
  say(2, 2, 44);
  say(3, 3, std::nullopt);
  say(4, 4, 33);
  event.what = ProcessEvent::What::seen;
  event.time = at(5);
  event.inner_pid = 7;
  event.cgroup_path = "0::/system.slice/cron.service";
  engine().consume(event);
  say(5, 6, 33);

  const auto all = exchanges();
  ASSERT_EQ(all.size(), 5u);
  std::string owners;
  for (const RecordPtr& record : all) owners += text(*record, "process.owner") + " ";
  EXPECT_EQ(owners, "33 44 0 33 33 ");
  EXPECT_EQ(text(*all[3], "weir.process.inner_pid"), "(absent)");
  EXPECT_EQ(text(*all[4], "weir.process.inner_pid"), "7");
  EXPECT_EQ(text(*all[4], "weir.systemd.unit"), "cron.service");
}

TEST_F(Native, CreationTimeAndOwnersNameComeFromTheConfiguration) {
  EngineConfig config = default_config();
  config.boot_time = at(-5);
  config.user_name = [](std::uint32_t uid) { return uid == 33 ? "www-data" : ""; };
  use(config);
  ProcessEvent event{.time = at(0), .process = kCurl};
  event.uid = 33;
  engine().consume(event);
  opened(1, kOrigin);
  View(engine(), 1, Tap::native).exchange("/", "x", 1);
  EXPECT_EQ(text(*exchanges().at(0), "process.owner"), "www-data");
  EXPECT_EQ(text(*exchanges().at(0), "process.creation.time"),
            to_rfc3339(at(0) + std::chrono::nanoseconds(1)));
}

TEST_F(Native, AChildHasACreationTimeOfItsOwn) {
  EngineConfig config = default_config();
  config.boot_time = at(-5);
  use(config);
  process(kShell, "/bin/sh");
  opened(1, kOrigin, 0, kShell);
  View(engine(), 1, Tap::native, kShell).exchange("/parent", "x", 1);
  const ProcessKey child{901, 6'000'000'001};
  process(child, "", 2, ProcessEvent::What::started, kShell);
  opened(2, kOrigin, 2.1, child);
  View(engine(), 2, Tap::native, child).exchange("/child", "x", 3);
  EXPECT_EQ(text(*exchanges().at(1), "process.executable.path"), "/bin/sh");
  EXPECT_EQ(text(*exchanges().at(1), "process.creation.time"),
            to_rfc3339(at(1) + std::chrono::nanoseconds(1)));
}

TEST_F(Native, ADescriptorThatWasPassedOnHasItsNewOwner) {
  process(kShell, "/bin/sh");
  opened(1, kOrigin);
  engine().consume(OwnershipChanged{at(1), {1}, kShell});
  engine().consume(
      Bytes{at(2), {1}, {kShell, 0x77, 0}, {}, Tap::native, Direction::sent, 0, bytes_of(get("/"))});
  engine().consume(
      Bytes{at(3), {1}, {kShell, 0x77, 0}, {}, Tap::native, Direction::received, 0, bytes_of(ok("x"))});
  EXPECT_EQ(text(*exchanges().at(0), "process.pid"), "900");
}

TEST_F(Native, ContainerIdIsAbsentWhereNothingTellsHostFromContainer) {
  const auto id_with = [&](std::uint32_t pid, const std::string& cgroup, std::uint32_t inner) {
    ProcessEvent event{.time = at(0), .process = {pid, pid}};
    event.cgroup_path = cgroup;
    event.inner_pid = inner;
    engine().consume(event);
    opened(pid, kOrigin, 0, event.process);
    View(engine(), pid, Tap::native, event.process).exchange("/", "x", 1);
    return text(*exchanges().back(), "container.id");
  };
  EXPECT_EQ(id_with(50, "0::/some/runtime", 2), "(absent)");
  EXPECT_EQ(id_with(51, "0::/some/runtime", 51), "");
  EXPECT_EQ(id_with(52, "0::/system.slice/x.service", 0), "");
}

}  // namespace
}  // namespace weir::test
