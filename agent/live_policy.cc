// A swap makes a new number; a thread whose number is another fetches the policy anew.
#include "agent/live_policy.h"

#include <utility>

namespace weir::agent {
namespace {

std::atomic<std::uint64_t> last_swap{0};

struct Reference {
  std::uint64_t swap = 0;
  std::shared_ptr<const CompiledPolicy> policy;
};

}  // namespace

void LivePolicy::set(std::shared_ptr<const CompiledPolicy> policy) {
  const std::lock_guard lock(mutex_);
  policy_ = std::move(policy);
  swap_.store(last_swap.fetch_add(1) + 1, std::memory_order_release);
}

std::shared_ptr<const CompiledPolicy> LivePolicy::current() const {
  const std::lock_guard lock(mutex_);
  return policy_;
}

const CompiledPolicy* LivePolicy::mine() {
  thread_local Reference reference;
  const std::uint64_t swap = swap_.load(std::memory_order_acquire);
  if (swap != reference.swap) {
    const std::lock_guard lock(mutex_);
    reference = {swap_.load(std::memory_order_relaxed), policy_};
  }
  return reference.policy.get();
}

Verdict LivePolicy::decide(const Client& client, const Destination& destination,
                           const RequestSummary* request) {
  const CompiledPolicy* policy = mine();
  if (policy == nullptr) return {};
  Verdict verdict = policy->decide({client.facts.get(), destination, request, client.hello});
  decisions_.fetch_add(1, std::memory_order_relaxed);
  if (!verdict.allowed) refused_.fetch_add(1, std::memory_order_relaxed);
  if (verdict.log) logged_.fetch_add(1, std::memory_order_relaxed);
  return verdict;
}

LivePolicy::Counters LivePolicy::counters() const {
  return {decisions_.load(std::memory_order_relaxed), refused_.load(std::memory_order_relaxed),
          logged_.load(std::memory_order_relaxed)};
}

}  // namespace weir::agent
