#include "agent/live_policy.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <thread>

#include "agent/client_facts.h"
#include "agent/process_info.h"

namespace weir::agent {
namespace {

std::shared_ptr<const CompiledPolicy> that_says(PolicyAction action) {
  return std::make_shared<const CompiledPolicy>(Policy{action, {}});
}

TEST(LivePolicy, AllowsEverythingUntilThereIsOne) {
  LivePolicy live;
  EXPECT_TRUE(live.decide({}, {"a", 1}, nullptr).allowed);
  live.set(that_says(PolicyAction::deny));
  EXPECT_FALSE(live.decide({}, {"a", 1}, nullptr).allowed);
  LivePolicy other;
  EXPECT_TRUE(other.decide({}, {"a", 1}, nullptr).allowed) << "each has its own";
  EXPECT_FALSE(live.decide({}, {"a", 1}, nullptr).allowed);
  EXPECT_EQ(live.counters().refused, 2u);
}

TEST(LivePolicy, IsSwappedWhileOthersAsk) {
  LivePolicy live;
  live.set(that_says(PolicyAction::allow));
  std::atomic<bool> over = false;
  std::atomic<int> asking = 0;
  std::vector<std::jthread> threads;
  for (int i = 0; i < 2; ++i) {
    threads.emplace_back([&] {
      ++asking;
      while (!over) live.decide({}, {"a", 1}, nullptr);
      EXPECT_FALSE(live.decide({}, {"a", 1}, nullptr).allowed) << "the last one";
    });
  }
  while (asking < 2) std::this_thread::yield();
  for (int i = 0; i < 1000; ++i) live.set(that_says(i % 2 ? PolicyAction::deny : PolicyAction::allow));
  over = true;
}

class OwnResolver : public ClientResolver {
 public:
  std::expected<Client, std::string> resolve(const Tuple&) override { return client; }
  Client client;
};

TEST(ClientFacts, AreLookedUpOnceForEachProgram) {
  const auto own = read_process(static_cast<std::uint32_t>(::getpid()));
  ASSERT_TRUE(own);
  auto inner = std::make_unique<OwnResolver>();
  OwnResolver& asked = *inner;
  asked.client = {.cookie = {1}, .process = own->process, .uid = 4711, .exec_id = 1};
  ContainerTable no_containers(
      [](const std::string&, std::uint32_t) -> std::optional<ContainerTable::File> { return std::nullopt; });
  int looks = 0;
  auto resolver = make_facts_resolver(
      std::move(inner),
      [&](std::uint32_t pid) {
        EXPECT_EQ(pid, own->process.pid);
        ++looks;
        return std::string("/usr/bin/curl (deleted)");
      },
      no_containers);
  for (int i = 0; i < 3; ++i) {
    const auto client = resolver->resolve({});
    ASSERT_TRUE(client && client->facts);
    EXPECT_EQ(client->facts->executable_path, "/usr/bin/curl");
    EXPECT_EQ(client->facts->uid, 4711u) << "when it connected";
    EXPECT_TRUE(client->facts->cgroup_known);
  }
  EXPECT_EQ(looks, 1);
  asked.client.exec_id = 2;
  EXPECT_TRUE(resolver->resolve({})->facts);
  EXPECT_EQ(looks, 2);
  asked.client.process.start_boottime_ns += 1'000'000'000;
  EXPECT_FALSE(resolver->resolve({})->facts) << "another process by now";
}

}  // namespace
}  // namespace weir::agent
