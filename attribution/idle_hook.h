// For a thread's loop: calls a function from time to time while there is nothing to do. What a thread keeps
// at hand for its work can so be given back. Belongs to its thread.
#pragma once

#include <chrono>
#include <functional>
#include <utility>

namespace weir {

class IdleHook {
 public:
  using Clock = std::chrono::steady_clock;
  static constexpr std::chrono::seconds kAfter{5};

  explicit IdleHook(std::function<void()> hook) : hook_(std::move(hook)) {}

  // To be called in each turn of the loop, which takes turns also while it has nothing to do.
  void turn(bool worked, Clock::time_point now = Clock::now()) {
    if (worked) idle_since_ = now;
    if (now - idle_since_ < kAfter) return;
    idle_since_ = now;
    if (hook_) hook_();
  }

 private:
  std::function<void()> hook_;
  Clock::time_point idle_since_ = Clock::now();
};

}  // namespace weir
