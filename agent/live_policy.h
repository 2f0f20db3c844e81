// The policy that is in force: swapped on reload while any number of threads ask. Who asks takes a lock only
// for the first question after a swap.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>

#include "attribution/policy_rules.h"

namespace weir::agent {

class LivePolicy final : public PolicyDecider {
 public:
  struct Counters {
    std::uint64_t decisions = 0;
    std::uint64_t refused = 0;
    std::uint64_t logged = 0;
  };

  // Null: all is allowed.
  void set(std::shared_ptr<const CompiledPolicy> policy);
  std::shared_ptr<const CompiledPolicy> current() const;

  Verdict decide(const Client& client, const Destination& destination,
                 const RequestSummary* request) override;
  Counters counters() const;

 private:
  const CompiledPolicy* mine();  // the calling thread's own reference, kept until it asks after a swap

  mutable std::mutex mutex_;
  std::shared_ptr<const CompiledPolicy> policy_;
  std::atomic<std::uint64_t> swap_{0};  // unique over all objects; 0: never set
  std::atomic<std::uint64_t> decisions_{0};
  std::atomic<std::uint64_t> refused_{0};
  std::atomic<std::uint64_t> logged_{0};
};

}  // namespace weir::agent
