// What is known of processes: who they are, and what each of them was running at a given time. Kept for a
// while after exit, because bytes of a process may be read later than its exit. Bounded: the least recently
// used goes first.
#pragma once

#include <deque>
#include <list>
#include <memory>
#include <unordered_map>

#include "attribution/container.h"
#include "attribution/events.h"

namespace weir {

// How records put what they say of an image.
struct ImageText {
  std::string executable_name;
  ContainerFacts container;
  std::optional<std::uint32_t> owner{};  // with whom `fields` says it
  std::string fields{};                  // all that a record says of it, as JSON; "": not made yet
};

// What a process runs between two execs.
struct ProcessImage {
  Time since{};
  std::uint32_t generation = 0;
  bool inherited = false;     // by fork
  std::uint64_t exec_id = 0;  // 0: not known
  std::string executable_path{};
  std::vector<std::string> arguments{};
  bool arguments_truncated = false;
  std::optional<std::uint32_t> uid{};
  std::string cgroup_path{};
  std::uint64_t cgroup_id = 0;
  std::shared_ptr<const ContainerNames> container{};  // null: not known, or in none
  mutable std::shared_ptr<ImageText> text{};  // made by the first record that asks; apply() forgets it
};

// What is known of a TLS library that the process has mapped.
struct TlsNote {
  Time since{};
  TlsLibrary library = TlsLibrary::unknown;
  std::string unreadable;  // why; "": probed since then
  bool operator==(const TlsNote&) const = default;
};

struct Process {
  ProcessKey key;
  ProcessKey parent{};
  std::uint32_t inner_pid = 0;
  std::vector<ProcessImage> images;  // never empty; oldest first
  std::vector<TlsNote> tls_notes;    // oldest first
  std::uint64_t connections = 0;
  std::uint64_t readable_connections = 0;

  const ProcessImage& image_at(Time when) const;
  // False while an exec that led to it is not told yet.
  bool reached(std::uint64_t exec_id) const;
  // The notes of the image at that time.
  std::vector<TlsNote> tls_notes_at(Time when) const;
};

class ProcessTable {
 public:
  explicit ProcessTable(std::size_t limit) : limit_(limit) {}

  // True when the process, or its program, was not known before.
  bool apply(const ProcessEvent& event);
  // Without effect on a process that is not known.
  void note(const TlsLibraryNoted& event);
  // A key without a start time finds the latest process of that pid. Null when unknown; valid until the next
  // apply() or forget_exited().
  Process* find(const ProcessKey& key);
  void forget_exited(Time now);

  std::uint64_t evicted() const { return evicted_; }
  const std::list<Process>& all() const { return processes_; }

 private:
  using Entry = std::list<Process>::iterator;

  Process& insert(const ProcessEvent& event);
  void erase(Entry entry);
  std::optional<Entry> lookup(const ProcessKey& key);

  std::size_t limit_;
  std::list<Process> processes_;  // most recently used first
  std::unordered_multimap<std::uint32_t, Entry> by_pid_;
  std::deque<std::pair<Time, ProcessKey>> exited_;
  std::uint64_t evicted_ = 0;
};

}  // namespace weir
