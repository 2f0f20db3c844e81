// The worker's half of the native tap: reads the ring buffer it was handed and publishes events. Needs no
// capability. One thread calls poll(); the publisher and the enricher are called on it.
#pragma once

#include <chrono>
#include <cstdint>
#include <expected>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "attribution/events.h"
#include "attribution/policy.h"

namespace weir::bpf {

struct SourceError {
  std::string what;
  std::string remedy;
};

struct SourceCounters {
  std::uint64_t records = 0;
  std::uint64_t bytes = 0;
  std::uint64_t malformed = 0;  // ring records that no kernel side of ours would write
  // As the kernel side counts them:
  std::uint64_t ring_full = 0;  // records dropped
  std::uint64_t ring_full_bytes = 0;
  std::uint64_t unreadable_bytes = 0;   // in user memory that could not be read
  std::uint64_t unaddressed_bytes = 0;  // sent or received by calls that don't say where: sendfile, splice...
  std::uint64_t faults = 0;             // calls that either was met in
  std::uint64_t table_full = 0;
  std::uint64_t calls_lost = 0;  // TLS calls that could not be followed: how much they moved is not known
  std::uint64_t filtered_connections = 0;
  std::uint64_t redirected_connections = 0;
  std::uint64_t unredirected_connections =
      0;  // of processes that are to be redirected: nobody was there to take them
  std::uint64_t refused_datagrams = 0;  // their QUIC
  std::uint64_t unmarked_children = 0;  // of marked processes, which are not redirected: too many
  // Met a full ring, but are not lost: connections are read from a table, processes from the task iterator.
  std::uint64_t untold_connections = 0;
  std::uint64_t untold_processes = 0;
  std::uint64_t policy_refused = 0;
  std::uint64_t policy_unjudged = 0;
  std::uint64_t steered_connections = 0;
  std::uint64_t untold_policy = 0;
};

// What is published from outside (on any thread, while poll() runs) is published in its turn: after what the
// ring holds by then. Who says something about a process by another way than the ring can so not overtake the
// process itself.
class EventSource : public EventPublisher {
 public:
  struct Descriptors {
    int ring = -1;  // taken over
    std::size_t ring_bytes = 0;
    int control = -1;  // taken over
    int untold = -1;   // taken over
  };
  // `cgroup_of` gives the text of a process's /proc/PID/cgroup, "" when it is gone. Called at exec and for
  // processes seen at the start; the result is carried in the ProcessEvent.
  static std::expected<std::unique_ptr<EventSource>, SourceError> create(
      Descriptors descriptors, EventPublisher& publisher,
      std::function<std::string(std::uint32_t pid)> cgroup_of);

  // Publishes what the ring holds, waiting up to `wait` for something to come. Returns the records consumed.
  virtual std::size_t poll(std::chrono::milliseconds wait) = 0;
  // Publishes what the ring holds by now, but not what comes meanwhile: a busy host's ring is never empty.
  virtual void drain_for_the_end() = 0;
  // Publishes processes that existed before: the descriptor of KernelSide::open_task_iterator().
  virtual std::expected<std::size_t, SourceError> seed_processes(int task_iterator) = 0;
  // Publishes connections that existed before: the descriptor of KernelSide::open_socket_iterator(). Before
  // the first poll(): what the ring tells of them comes later.
  virtual std::expected<std::size_t, SourceError> seed_connections(int socket_iterator) = 0;
  // As seed_processes(), while poll() runs, on another thread: in its turn, as publish().
  virtual std::expected<void, SourceError> look_at_processes_again(int task_iterator) = 0;
  // Says "the worker lives" in the shared control page.
  virtual void beat() = 0;
  virtual SourceCounters counters() const = 0;  // thread-safe
};

// Turns one ring record into an event; the decoder behind EventSource, apart for tests and fuzzing. Returns
// nothing for a record that is malformed.
struct ClockOffset {
  std::chrono::nanoseconds boot_to_wall{};
};
std::optional<Event> decode(std::span<const std::byte> record, ClockOffset clock);

// Answers resolve() from the kernel side's table of tuples, and for redirected connections that of
// redirections. Thread-safe; a look-up is a system call of ~2 us. The descriptors are not taken over.
std::unique_ptr<ClientResolver> make_kernel_resolver(int tuples_descriptor, int redirections_descriptor,
                                                     std::uint64_t network_namespace_cookie);

}  // namespace weir::bpf
