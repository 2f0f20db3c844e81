// Holds what has no socket yet. Never guesses a socket: only an event that carries both links them.
#include "attribution/object_linker.h"

#include <algorithm>
#include <utility>

namespace weir {
namespace {

constexpr std::chrono::seconds kLongestWait{10};
constexpr std::size_t kWaitingEventsPerObject = 4'096;
constexpr std::size_t kTotalInObjects = 64;  // all that wait together, in objects of the largest size

std::size_t payload(const Event& event) {
  const auto* bytes = std::get_if<Bytes>(&event);
  return bytes == nullptr ? 0 : bytes->data.size();
}

void set_cookie(Event& event, SocketCookie cookie) {
  std::visit(
      [&](auto& one) {
        if constexpr (requires { one.cookie; }) one.cookie = cookie;
      },
      event);
}

}  // namespace

void ObjectLinker::take(Event event, const Pass& pass) {
  const TlsObjectId* id = object_of(event);
  if (id == nullptr) return pass(std::move(event));

  Object& known = object(*id, time_of(event));
  const SocketCookie cookie = cookie_of(event);
  if (!cookie && !known.cookie) return wait(known, std::move(event));

  if (cookie) known.cookie = cookie;
  if (!known.waiting.empty()) {
    std::vector<Event> waiting = std::exchange(known.waiting, {});
    waiting_bytes_ -= std::exchange(known.bytes, 0);
    --waiting_objects_;
    for (Event& one : waiting) {
      set_cookie(one, known.cookie);
      pass(std::move(one));
    }
  }
  set_cookie(event, known.cookie);
  pass(std::move(event));
}

void ObjectLinker::advance(Time now) {
  if (waiting_objects_ == 0) return;
  for (auto& [id, one] : objects_) {
    if (!one.waiting.empty() && one.since + kLongestWait <= now) drop_waiting(one);
  }
}

ObjectLinker::Object& ObjectLinker::object(const TlsObjectId& id, Time time) {
  if (const auto found = objects_.find(id); found != objects_.end()) return found->second;
  while (order_.size() >= std::max<std::size_t>(object_limit_, 1)) {
    const auto oldest = objects_.find(order_.front());
    drop_waiting(oldest->second);
    objects_.erase(oldest);
    order_.pop_front();
  }
  order_.push_back(id);
  Object& created = objects_[id];
  created.since = time;
  return created;
}

// What no longer fits leaves a jump in the stream's offsets, which the engine counts as a gap.
void ObjectLinker::wait(Object& object, Event event) {
  const std::size_t size = payload(event);
  const bool full = object.bytes + size > byte_limit_ || object.waiting.size() >= kWaitingEventsPerObject ||
                    waiting_bytes_ + size > byte_limit_ * kTotalInObjects;
  if (full) {
    dropped_bytes_ += size;
    return;
  }
  if (object.waiting.empty()) {
    ++waiting_objects_;
    object.since = time_of(event);
  }
  object.bytes += size;
  waiting_bytes_ += size;
  object.waiting.push_back(std::move(event));
}

void ObjectLinker::drop_waiting(Object& object) {
  if (object.waiting.empty()) return;
  --waiting_objects_;
  waiting_bytes_ -= object.bytes;
  dropped_bytes_ += std::exchange(object.bytes, 0);
  object.waiting.clear();
}

}  // namespace weir
