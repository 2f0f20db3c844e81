// A table of facts by process, program and user. What is found out about a process is held against its start
// time: a pid may be another's by then.
#include "agent/client_facts.h"

#include <map>
#include <mutex>
#include <string_view>
#include <tuple>
#include <utility>

#include "agent/process_info.h"
#include "attribution/container.h"

namespace weir::agent {
namespace {

constexpr std::size_t kMostKnown = 16'384;
constexpr std::string_view kDeleted = " (deleted)";

// The line of cgroup v2 in /proc/PID/cgroup.
std::string unified_path(std::string_view text) {
  while (!text.empty()) {
    const auto end = std::min(text.find('\n'), text.size());
    if (const auto line = text.substr(0, end); line.starts_with("0::")) return std::string(line.substr(3));
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  return {};
}

class FactsResolver final : public ClientResolver {
 public:
  FactsResolver(std::unique_ptr<ClientResolver> resolver, FindExecutable find, ContainerTable& containers)
      : resolver_(std::move(resolver)), find_(std::move(find)), containers_(containers) {}

  std::expected<Client, std::string> resolve(const Tuple& client_view) override {
    auto client = resolver_->resolve(client_view);
    if (client && !client->facts) client->facts = facts(*client);
    return client;
  }

 private:
  using Key = std::tuple<ProcessKey, std::uint64_t, std::optional<std::uint32_t>>;

  std::shared_ptr<const ClientFacts> facts(const Client& client) {
    const Key key{client.process, client.exec_id, client.uid};
    {
      const std::lock_guard lock(mutex_);
      if (const auto found = known_.find(key); found != known_.end()) return found->second;
    }
    auto fresh = look(client);
    if (!fresh) return nullptr;
    // The runtime's files may tell more in a while.
    if (!fresh->container_names_known()) return fresh;
    const std::lock_guard lock(mutex_);
    if (known_.size() >= kMostKnown) known_.clear();
    return known_[key] = std::move(fresh);
  }

  std::shared_ptr<const ClientFacts> look(const Client& client) {
    const std::string executable = find_(client.process.pid);
    auto process = read_process(client.process.pid);
    if (!process || !start_matches(process->process.start_boottime_ns, client.process.start_boottime_ns))
      return nullptr;
    process->executable_path = executable;
    containers_.name(*process);
    return facts_of(*process, client.uid);
  }

  std::unique_ptr<ClientResolver> resolver_;
  FindExecutable find_;
  ContainerTable& containers_;
  std::mutex mutex_;
  std::map<Key, std::shared_ptr<const ClientFacts>> known_;
};

}  // namespace

std::shared_ptr<const ClientFacts> facts_of(const ProcessEvent& process, std::optional<std::uint32_t> uid) {
  ClientFacts facts;
  facts.executable_path = process.executable_path;
  if (facts.executable_path.ends_with(kDeleted))
    facts.executable_path.resize(facts.executable_path.size() - kDeleted.size());
  facts.uid = uid ? uid : process.uid;
  facts.cgroup_known = !process.cgroup_path.empty();
  facts.cgroup_path = unified_path(process.cgroup_path);
  ContainerFacts container = container_facts(process.cgroup_path);
  facts.container_id = std::move(container.container_id);
  facts.container_claimed = container.claimed;
  facts.container = process.container;
  return std::make_shared<const ClientFacts>(std::move(facts));
}

std::unique_ptr<ClientResolver> make_facts_resolver(std::unique_ptr<ClientResolver> resolver,
                                                    FindExecutable find, ContainerTable& containers) {
  return std::make_unique<FactsResolver>(std::move(resolver), std::move(find), containers);
}

}  // namespace weir::agent
