// Gives each event of a TLS object the cookie of its socket. Events of an object that has not met its socket
// yet wait here, bounded, and are passed on in order once another event of the same object names the socket.
#pragma once

#include <deque>
#include <functional>
#include <unordered_map>

#include "attribution/events.h"

namespace weir {

class ObjectLinker {
 public:
  using Pass = std::function<void(Event)>;

  // `objects`: tracked at once; `bytes_per_object`: payload that waits for one of them.
  ObjectLinker(std::size_t objects, std::size_t bytes_per_object)
      : object_limit_(objects), byte_limit_(bytes_per_object) {}

  void take(Event event, const Pass& pass);
  // Gives up on objects that have waited too long.
  void advance(Time now);
  std::uint64_t dropped_bytes() const { return dropped_bytes_; }

 private:
  struct Object {
    SocketCookie cookie;
    std::vector<Event> waiting;
    std::size_t bytes = 0;
    Time since{};
  };

  Object& object(const TlsObjectId& id, Time time);
  void wait(Object& object, Event event);
  void drop_waiting(Object& object);

  std::size_t object_limit_;
  std::size_t byte_limit_;
  std::unordered_map<TlsObjectId, Object> objects_;
  std::deque<TlsObjectId> order_;  // as they came: the oldest goes first
  std::size_t waiting_objects_ = 0;
  std::size_t waiting_bytes_ = 0;
  std::uint64_t dropped_bytes_ = 0;
};

}  // namespace weir
