// Gives each event of a TLS object the cookie of its socket. Events of an object that has not met its socket
// yet wait here, bounded, and are passed on in order once another event of the same object names the socket.
#pragma once

#include <deque>
#include <functional>
#include <list>
#include <unordered_map>
#include <utility>

#include "attribution/events.h"

namespace weir {

class ObjectLinker {
 public:
  using Pass = std::function<void(Event&&)>;

  // `objects`: tracked at once; `bytes_per_object`: payload that waits for one of them.
  ObjectLinker(std::size_t objects, std::size_t bytes_per_object)
      : object_limit_(objects), byte_limit_(bytes_per_object) {}

  void take(Event&& event, const Pass& pass);
  // Gives up on objects that have waited too long.
  void advance(Time now);
  std::uint64_t dropped_bytes() const { return dropped_bytes_; }

 private:
  struct Object {
    SocketCookie cookie;
    std::vector<Event> waiting;
    std::size_t bytes = 0;
    Time since{};
    bool ended[2] = {false, false};  // by direction
    std::list<TlsObjectId>::iterator place;
  };
  using Objects = std::unordered_map<TlsObjectId, Object>;

  Objects::iterator object(const TlsObjectId& id);
  void wait(Objects::value_type& known, Event event);
  bool still_waits(const TlsObjectId& id, Time since) const;
  void forget(Objects::iterator found);
  void drop_waiting(Object& object);

  std::size_t object_limit_;
  std::size_t byte_limit_;
  Objects objects_;
  std::list<TlsObjectId> order_;                      // as they came: the oldest goes first
  std::deque<std::pair<Time, TlsObjectId>> waiting_;  // since when; some entries no longer wait
  std::size_t waiting_bytes_ = 0;
  std::uint64_t dropped_bytes_ = 0;
};

}  // namespace weir
