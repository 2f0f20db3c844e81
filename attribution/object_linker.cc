// Holds what has no socket yet. Never guesses a socket: only an event that carries both links them.
#include "attribution/object_linker.h"

#include <algorithm>
#include <utility>

#include "attribution/sparse_table.h"

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

void ObjectLinker::take(Event&& event, const Pass& pass) {
  const TlsObjectId* id = object_of(event);
  if (id == nullptr) return pass(std::move(event));

  const auto found = object(*id);
  Object& known = found->second;
  if (const auto* end = std::get_if<StreamEnded>(&event))
    known.ended[static_cast<std::size_t>(end->direction)] = true;
  const SocketCookie cookie = cookie_of(event);
  if (!cookie && !known.cookie) return wait(*found, std::move(event));

  if (cookie) known.cookie = cookie;
  waiting_bytes_ -= std::exchange(known.bytes, 0);
  for (Event& one : std::exchange(known.waiting, {})) {
    set_cookie(one, known.cookie);
    pass(std::move(one));
  }
  set_cookie(event, known.cookie);
  if (known.ended[0] && known.ended[1]) forget(found);
  pass(std::move(event));
}

void ObjectLinker::advance(Time now) {
  while (!waiting_.empty() && waiting_.front().first + kLongestWait <= now) {
    const auto [since, id] = waiting_.front();
    waiting_.pop_front();
    if (!still_waits(id, since)) continue;
    const auto found = objects_.find(id);
    drop_waiting(found->second);
    if (found->second.ended[0] && found->second.ended[1]) forget(found);
  }
}

ObjectLinker::Objects::iterator ObjectLinker::object(const TlsObjectId& id) {
  if (const auto found = objects_.find(id); found != objects_.end()) return found;
  while (order_.size() >= std::max<std::size_t>(object_limit_, 1)) forget(objects_.find(order_.front()));
  const auto place = order_.insert(order_.end(), id);
  const auto created = objects_.try_emplace(id).first;
  created->second.place = place;
  return created;
}

void ObjectLinker::forget(Objects::iterator found) {
  drop_waiting(found->second);
  order_.erase(found->second.place);
  objects_.erase(found);
  shrink_if_sparse(objects_);
}

bool ObjectLinker::still_waits(const TlsObjectId& id, Time since) const {
  const auto found = objects_.find(id);
  return found != objects_.end() && !found->second.waiting.empty() && found->second.since == since;
}

// What no longer fits leaves a jump in the stream's offsets, which the engine counts as a gap.
void ObjectLinker::wait(Objects::value_type& known, Event event) {
  auto& [id, object] = known;
  const std::size_t size = payload(event);
  const bool full = object.bytes + size > byte_limit_ || object.waiting.size() >= kWaitingEventsPerObject ||
                    waiting_bytes_ + size > byte_limit_ * kTotalInObjects;
  if (full) {
    dropped_bytes_ += size;
    return;
  }
  if (object.waiting.empty()) {
    // At most object_limit_ of them wait; what is beyond twice that is left over.
    if (waiting_.size() > 2 * object_limit_)
      std::erase_if(waiting_, [&](const auto& one) { return !still_waits(one.second, one.first); });
    object.since = time_of(event);
    waiting_.emplace_back(object.since, id);
  }
  object.bytes += size;
  waiting_bytes_ += size;
  object.waiting.push_back(std::move(event));
}

void ObjectLinker::drop_waiting(Object& object) {
  if (object.waiting.empty()) return;
  waiting_bytes_ -= object.bytes;
  dropped_bytes_ += std::exchange(object.bytes, 0);
  object.waiting.clear();
}

}  // namespace weir
