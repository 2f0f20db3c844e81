#include "proxy/idle.h"

namespace weir::proxy {

void IdlePlace::begin() {
  if (idle() || client_.expired()) return;
  since_ = Stream::Clock::now();
  queue_.places_.push_back(*this);
  queue_.note_oldest();
}

void IdlePlace::end() {
  if (idle()) queue_.remove(*this);
}

bool IdleQueue::shed_oldest() {
  for (IdlePlace& place : places_) {
    if (place.client_.readable_now()) continue;
    remove(place);
    place.client_.expire();
    return true;
  }
  return false;
}

void IdleQueue::remove(IdlePlace& place) {
  places_.erase(places_.iterator_to(place));
  note_oldest();
}

void IdleQueue::note_oldest() {
  const auto oldest = places_.empty() ? Clock::time_point::max() : places_.front().since_;
  oldest_.store(oldest.time_since_epoch().count(), std::memory_order_relaxed);
}

}  // namespace weir::proxy
