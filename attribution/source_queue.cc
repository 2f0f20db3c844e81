// Admission and loss accounting. Payload is refused at the limit; facts (processes, connections, decisions)
// have as much room again, because losing one of them costs attribution, not only content.
#include "attribution/source_queue.h"

#include <algorithm>

namespace weir {
namespace {

constexpr std::size_t kLostStreamsKept =
    4'096;  // beyond it, only the engine's own offset accounts show a loss
constexpr std::size_t kKeptEvents = 256;

}  // namespace

void SourceQueue::push(Event event) {
  const auto* bytes = std::get_if<Bytes>(&event);
  const std::size_t payload = bytes == nullptr ? 0 : bytes->data.size();
  const std::lock_guard lock(mutex_);
  if (!fits(event, payload)) return drop(event, payload);
  move_gaps_to_queue();
  counters_.bytes_now += payload;
  events_.push_back(std::move(event));
}

void SourceQueue::take(std::vector<Event>& batch) {
  const std::lock_guard lock(mutex_);
  move_gaps_to_queue();
  // The emptied batch becomes the queue: not with the room that a burst once took, nor with any when nothing
  // comes. Assigning {} would keep it.
  const bool kept = batch.capacity() <= kKeptEvents && !events_.empty();
  if (!kept && events_.size() < batch.capacity() / 4) batch = std::vector<Event>();
  events_.swap(batch);
  counters_.bytes_now = 0;
}

SourceQueue::Counters SourceQueue::counters() const {
  const std::lock_guard lock(mutex_);
  Counters now = counters_;
  now.events_now = events_.size();
  return now;
}

bool SourceQueue::fits(const Event& event, std::size_t payload) const {
  if (!std::holds_alternative<Bytes>(event)) return events_.size() < 2 * event_limit_;
  return events_.size() < event_limit_ && counters_.bytes_now + payload <= byte_limit_;
}

void SourceQueue::drop(const Event& event, std::size_t payload) {
  counters_.dropped_events += 1;
  counters_.dropped_bytes += payload;
  const auto* bytes = std::get_if<Bytes>(&event);
  if (bytes == nullptr) return;
  const StreamKey key{bytes->cookie, bytes->object, bytes->tap, bytes->direction};
  auto found = lost_.find(key);
  if (found == lost_.end()) {
    if (lost_.size() >= kLostStreamsKept) return;
    found = lost_
                .emplace(key, Gap{.time = bytes->time,
                                  .cookie = bytes->cookie,
                                  .object = bytes->object,
                                  .tap = bytes->tap,
                                  .direction = bytes->direction,
                                  .offset = bytes->offset,
                                  .reason = Gap::Reason::queue_full})
                .first;
  }
  found->second.length = bytes->offset + payload - found->second.offset;
}

void SourceQueue::move_gaps_to_queue() {
  for (auto& [key, gap] : lost_) events_.emplace_back(gap);
  lost_.clear();
}

}  // namespace weir
