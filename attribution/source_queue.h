// The queue from one source to one shard. The source never waits: what doesn't fit is dropped, counted, and
// told to the engine as gaps, before any later event of the same queue.
#pragma once

#include <map>
#include <mutex>
#include <tuple>
#include <vector>

#include "attribution/events.h"

namespace weir {

class SourceQueue {
 public:
  SourceQueue(std::size_t event_limit, std::size_t byte_limit)
      : event_limit_(event_limit), byte_limit_(byte_limit) {}

  struct Counters {
    std::uint64_t dropped_events = 0;
    std::uint64_t dropped_bytes = 0;
    std::uint64_t events_now = 0;
    std::uint64_t bytes_now = 0;
  };

  void push(Event event);
  // Swaps `batch`, which must be empty, for what is queued.
  void take(std::vector<Event>& batch);
  Counters counters() const;

 private:
  using StreamKey = std::tuple<SocketCookie, TlsObjectId, Tap, Direction>;

  bool fits(const Event& event, std::size_t payload) const;
  void drop(const Event& event, std::size_t payload);
  void move_gaps_to_queue();

  const std::size_t event_limit_;
  const std::size_t byte_limit_;
  mutable std::mutex mutex_;  // held for an append or a swap, never while an event is consumed
  std::vector<Event> events_;
  std::map<StreamKey, Gap> lost_;
  Counters counters_;
};

}  // namespace weir
