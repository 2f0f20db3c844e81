// Which of a shard's connections could end without a loss: those between two requests, and those that have
// not spoken yet. When the proxy is full, the one that has been idle longest makes room for another. All of
// it belongs to the shard's thread, but IdleQueue::oldest().
#pragma once

#include <atomic>
#include <boost/intrusive/list.hpp>

#include "proxy/stream.h"

namespace weir::proxy {

class IdleQueue;

// One connection's place in the queue, which must outlive it, as must the client's stream.
class IdlePlace : public boost::intrusive::list_base_hook<> {
 public:
  IdlePlace(IdleQueue& queue, Stream& client) : queue_(queue), client_(client) {}
  ~IdlePlace() { end(); }
  IdlePlace(const IdlePlace&) = delete;
  IdlePlace& operator=(const IdlePlace&) = delete;

  // Nothing when it is idle already, or to end.
  void begin();
  void end();
  void set(bool idle) { idle ? begin() : end(); }
  bool idle() const { return is_linked(); }

 private:
  friend class IdleQueue;
  IdleQueue& queue_;
  Stream& client_;
  Stream::Clock::time_point since_{};
};

class IdleQueue {
 public:
  using Clock = Stream::Clock;

  // Makes the one that has been idle longest end, and forgets it; false when none is. One whose client speaks
  // just now is not idle.
  bool shed_oldest();
  // Since when that one has been idle; max() when none is. Thread-safe.
  Clock::time_point oldest() const { return Clock::time_point(Clock::duration(oldest_.load())); }

 private:
  friend class IdlePlace;
  void remove(IdlePlace& place);
  void note_oldest();

  boost::intrusive::list<IdlePlace> places_;  // the oldest first
  std::atomic<Clock::rep> oldest_ = Clock::time_point::max().time_since_epoch().count();
};

}  // namespace weir::proxy
