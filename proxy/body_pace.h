// Whether a request's content comes too slowly. One that trickles would hold its connection for ever: each
// byte starts the idle timeout anew. Only content whose length the client has said is held to it: what
// streams (gRPC, an upgraded connection) has none, and may pause.
#pragma once

#include <chrono>
#include <cstddef>

namespace weir::proxy {

class BodyPace {
 public:
  using Clock = std::chrono::steady_clock;

  // At least so many bytes in each such time.
  struct Limits {
    std::size_t bytes = 1024;
    std::chrono::milliseconds time{300'000};
  };

  void received(std::size_t size) { received_ += size; }
  // To be asked now and then. `awaited`: it is the client that is waited for, and not who takes the content.
  bool is_slow(const Limits& limits, bool awaited, Clock::time_point now) {
    if (!awaited || began_ == Clock::time_point()) {
      began_ = now;
      received_ = 0;
      return false;
    }
    if (now - began_ < limits.time) return false;
    const bool slow = received_ < limits.bytes;
    began_ = now;
    received_ = 0;
    return slow;
  }

 private:
  Clock::time_point began_{};
  std::size_t received_ = 0;
};

}  // namespace weir::proxy
