// Counting rejections, and their end.
#include "proxy/rejections.h"

namespace weir::proxy {

Rejections::Entries::iterator Rejections::find(const Who& who) {
  const auto found = by_who_.find(who);
  if (found == by_who_.end()) return entries_.end();
  entries_.splice(entries_.begin(), entries_, found->second);
  return found->second;
}

void Rejections::drop(Entries::iterator entry) {
  by_who_.erase(entry->who);
  entries_.erase(entry);
  empty_.store(entries_.empty(), std::memory_order_relaxed);
}

void Rejections::forget() {
  const std::lock_guard lock(mutex_);
  by_who_.clear();
  entries_.clear();
  empty_.store(true, std::memory_order_relaxed);
}

void Rejections::rejected(const Who& who, Clock::time_point now) {
  if (limits_.most == 0 || who.executable_path.empty()) return;
  const std::lock_guard lock(mutex_);
  auto entry = find(who);
  if (entry == entries_.end()) {
    entries_.push_front({who});
    entry = entries_.begin();
    by_who_.emplace(who, entry);
    empty_.store(false, std::memory_order_relaxed);
  }
  if (++entry->rejections >= limits_.most) entry->until = now + limits_.passed_for;
  if (entries_.size() > limits_.entries) drop(std::prev(entries_.end()));
}

void Rejections::taken(const Who& who) {
  if (empty()) return;
  const std::lock_guard lock(mutex_);
  if (const auto entry = find(who); entry != entries_.end()) drop(entry);
}

std::optional<Rejections::Clock::time_point> Rejections::passed_until(const Who& who, Clock::time_point now) {
  if (empty()) return std::nullopt;
  const std::lock_guard lock(mutex_);
  const auto entry = find(who);
  if (entry == entries_.end() || !entry->until) return std::nullopt;
  if (now < *entry->until) return entry->until;
  drop(entry);
  return std::nullopt;
}

std::vector<Rejections::Passed> Rejections::passed(Clock::time_point now) const {
  const std::lock_guard lock(mutex_);
  std::vector<Passed> found;
  for (const Entry& entry : entries_)
    if (entry.until && now < *entry.until) found.push_back({entry.who, *entry.until});
  return found;
}

}  // namespace weir::proxy
