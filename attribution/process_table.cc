// Fork inherits, exec replaces, what was merely seen fills in what is missing. Reads no /proc: sources do.
#include "attribution/process_table.h"

#include <algorithm>
#include <iterator>

#include "attribution/sparse_table.h"

namespace weir {
namespace {

constexpr std::chrono::seconds kKeptAfterExit{60};
constexpr std::size_t kImagesKept = 8;
constexpr std::size_t kNotesKept = 8;
// A program's files are mapped, and may be told of, before its exec is over.
constexpr std::chrono::milliseconds kExecTakes{20};

// A process that has moved (into its container, after the fork) must not keep its parent's place.
void set_cgroup(ProcessImage& image, const ProcessEvent& event) {
  const bool moved = event.cgroup_id != 0 && image.cgroup_id != 0 && event.cgroup_id != image.cgroup_id;
  if (moved || !event.cgroup_path.empty()) {
    image.cgroup_path = event.cgroup_path;
    image.container = event.container;
  }
  if (event.cgroup_id != 0) image.cgroup_id = event.cgroup_id;
}

void set_arguments(ProcessImage& image, const ProcessEvent& event) {
  image.arguments = event.arguments;
  image.arguments_truncated = event.arguments_truncated;
}

void fill_missing(ProcessImage& image, const ProcessEvent& event) {
  if (image.executable_path.empty()) image.executable_path = event.executable_path;
  if (image.arguments.empty()) set_arguments(image, event);
  if (!image.uid) image.uid = event.uid;
  if (event.exec_id != 0) image.exec_id = event.exec_id;
  set_cgroup(image, event);
}

void push_exec(Process& process, const ProcessEvent& event, Time since) {
  ProcessImage image = process.images.back();
  image.since = since;
  image.inherited = false;
  image.generation += 1;
  image.exec_id = event.exec_id;
  image.executable_path = event.executable_path;
  set_arguments(image, event);
  if (event.uid) image.uid = event.uid;
  set_cgroup(image, event);
  process.images.push_back(std::move(image));
  if (process.images.size() > kImagesKept) process.images.erase(process.images.begin());
}

// Seen with another program than the one that it has from its parent: its exec was not told. When that was
// isn't known; most processes exec before they do anything else.
bool missed_exec(const Process& process, const ProcessEvent& event) {
  const ProcessImage& last = process.images.back();
  return event.what == ProcessEvent::What::seen && last.inherited && last.since <= event.time &&
         !event.executable_path.empty() && event.executable_path != last.executable_path;
}

}  // namespace

const ProcessImage& Process::image_at(Time when) const {
  const auto later = std::ranges::upper_bound(images, when, {}, &ProcessImage::since);
  return later == images.begin() ? images.front() : *std::prev(later);
}

bool Process::reached(std::uint64_t exec_id) const {
  const std::uint64_t known = images.back().exec_id;
  return known == 0 || known >= exec_id;
}

std::vector<TlsNote> Process::tls_notes_at(Time when) const {
  const auto next = std::ranges::upper_bound(images, when, {}, &ProcessImage::since);
  const Time until = next == images.end() ? Time::max() : next->since;
  const Time since = image_at(when).since;
  std::vector<TlsNote> notes;
  std::ranges::copy_if(tls_notes, std::back_inserter(notes), [&](const TlsNote& note) {
    const bool before = until != Time::max() && note.since + kExecTakes >= until;
    return note.since + kExecTakes >= since && !before;
  });
  return notes;
}

bool ProcessTable::apply(const ProcessEvent& event) {
  if (!event.process) return false;
  const auto known = lookup(event.process);
  Process& process = known ? **known : insert(event);
  for (ProcessImage& image : process.images) image.text.reset();
  if (process.key.start_boottime_ns % 10'000'000 == 0 && event.process.start_boottime_ns != 0) {
    process.key = event.process;  // the more exact of the two
  }
  if (event.parent) process.parent = event.parent;
  if (event.inner_pid != 0) process.inner_pid = event.inner_pid;
  const std::uint64_t exec_id = process.images.back().exec_id;
  if (known && event.what == ProcessEvent::What::execed) {
    push_exec(process, event, event.time);
  } else if (known && missed_exec(process, event)) {
    push_exec(process, event, process.images.back().since);
  } else if (event.what != ProcessEvent::What::exited) {
    fill_missing(process.images.back(), event);
  } else {
    exited_.emplace_back(event.time, process.key);
  }
  return !known || process.images.back().exec_id != exec_id;
}

void ProcessTable::note(const TlsLibraryNoted& event) {
  Process* process = find(event.process);
  if (process == nullptr) return;
  auto& notes = process->tls_notes;
  const Time since = event.time == Time{} ? process->images.back().since : event.time;
  notes.push_back({since, event.library, event.unreadable});
  if (notes.size() > kNotesKept) notes.erase(notes.begin());
}

Process* ProcessTable::find(const ProcessKey& key) {
  const auto entry = lookup(key);
  if (!entry) return nullptr;
  const Entry found = *entry;
  processes_.splice(processes_.begin(), processes_, found);
  return &*found;
}

void ProcessTable::forget_exited(Time now) {
  while (!exited_.empty() && exited_.front().first + kKeptAfterExit <= now) {
    if (const auto entry = lookup(exited_.front().second)) erase(*entry);
    exited_.pop_front();
  }
}

Process& ProcessTable::insert(const ProcessEvent& event) {
  ProcessImage image{.since = event.time};
  if (event.what == ProcessEvent::What::started) {
    if (const auto parent = lookup(event.parent)) {
      image = (*parent)->images.back();
      image.since = event.time;
      image.inherited = true;
      image.generation = 0;
    }
  }
  std::vector<TlsNote> notes;
  if (const auto parent = image.inherited ? lookup(event.parent) : std::nullopt) {
    notes = (*parent)->tls_notes_at(event.time);
    for (TlsNote& note : notes) note.since = event.time;
  }
  while (processes_.size() >= std::max<std::size_t>(limit_, 1)) {
    erase(std::prev(processes_.end()));
    ++evicted_;
  }
  processes_.push_front(
      Process{.key = event.process, .images = {std::move(image)}, .tls_notes = std::move(notes)});
  by_pid_.emplace(event.process.pid, processes_.begin());
  return processes_.front();
}

void ProcessTable::erase(Entry entry) {
  const auto [first, last] = by_pid_.equal_range(entry->key.pid);
  by_pid_.erase(std::find_if(first, last, [&](const auto& pair) { return pair.second == entry; }));
  shrink_if_sparse(by_pid_);
  processes_.erase(entry);
}

std::optional<ProcessTable::Entry> ProcessTable::lookup(const ProcessKey& key) {
  const auto [first, last] = by_pid_.equal_range(key.pid);
  std::optional<Entry> best;
  for (auto it = first; it != last; ++it) {
    const ProcessKey& candidate = it->second->key;
    if (!start_matches(candidate.start_boottime_ns, key.start_boottime_ns)) continue;
    if (!best || candidate.start_boottime_ns > (*best)->key.start_boottime_ns) best = it->second;
  }
  return best;
}

}  // namespace weir
