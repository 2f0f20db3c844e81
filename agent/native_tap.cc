// Two threads: one empties the ring, one looks for libraries and beats the heart. Neither waits for the
// other.
#include "agent/native_tap.h"

#include <poll.h>
#include <sys/eventfd.h>

#include <stop_token>
#include <thread>
#include <vector>

#include "agent/log.h"
#include "agent/memory.h"
#include "agent/process_info.h"
#include "attribution/idle_hook.h"

namespace weir::agent {
namespace {

constexpr std::chrono::milliseconds longest_wait{100};
constexpr std::chrono::milliseconds heartbeat_interval{250};
// What is no longer mapped is released so soon; what appears is told by the mapping events.
constexpr std::chrono::seconds scan_interval{10};
constexpr std::chrono::seconds changed_scan_delay{1};
constexpr std::chrono::seconds least_between_looks{5};

std::chrono::steady_clock::time_point now_and(std::chrono::seconds later) {
  return std::chrono::steady_clock::now() + later;
}

std::expected<Descriptor, Error> open_iterator(BrokerClient& broker, Operation which) {
  Request request;
  request.operation = which;
  auto iterator = broker.call(request);
  if (!iterator) return std::unexpected(iterator.error());
  if (iterator->reply.status != Status::ok || iterator->descriptors.empty()) {
    return std::unexpected(Error{iterator->reply.text.data(), ""});
  }
  return std::move(iterator->descriptors.front());
}

std::expected<void, Error> seed_processes(BrokerClient& broker, bpf::EventSource& source) {
  const auto iterator = open_iterator(broker, Operation::task_iterator);
  if (!iterator) return std::unexpected(iterator.error());
  const auto seeded = source.seed_processes(iterator->get());
  if (!seeded) return std::unexpected(to_error(seeded.error()));
  return {};
}

// Without it, a connection that is older than the tap is known from its first use on.
void seed_connections(BrokerClient& broker, bpf::EventSource& source) {
  const auto iterator = open_iterator(broker, Operation::socket_iterator);
  if (!iterator)
    return log_warning("older connections are known from their first use on: " + to_string(iterator.error()));
  if (const auto seeded = source.seed_connections(iterator->get()); !seeded)
    log_warning("older connections may be missing: " + to_string(to_error(seeded.error())));
}

// Without the events, what appears is found by the next scan.
std::expected<std::unique_ptr<bpf::MappingWatch>, Error> watch_mappings(BrokerClient& broker) {
  std::vector<int> descriptors;
  for (std::uint32_t processor = 0;; ++processor) {
    Request request;
    request.operation = Operation::mapping_events;
    request.number = processor;
    auto answer = broker.call(request);
    if (!answer) return std::unexpected(answer.error());
    if (answer->reply.status == Status::ok && !answer->descriptors.empty()) {
      descriptors.push_back(answer->descriptors.front().release());
    } else if (answer->reply.status != Status::not_there) {
      break;
    }
  }
  auto watch = bpf::MappingWatch::create(std::move(descriptors));
  if (watch) return std::move(*watch);
  log_warning("new TLS libraries will be noticed late: " + to_string(to_error(watch.error())));
  return std::move(*bpf::MappingWatch::create({}));
}

}  // namespace

struct NativeTap::State {
  State(BrokerClient& connection, std::unique_ptr<bpf::EventSource> event_source, const bpf::Filters& filters,
        std::unique_ptr<bpf::MappingWatch> mapping_watch, Descriptor file_changes, Descriptor waiting_execs)
      : broker(connection),
        exec_event(std::move(waiting_execs)),
        source(std::move(event_source)),
        watch(std::move(mapping_watch)),
        targets(connection, *source, filters, std::move(file_changes), exec_event.get()) {}

  void read_ring(const std::stop_token& stop) {
    IdleHook idle(return_thread_memory);
    while (!stop.stop_requested()) {
      const bool any = source->poll(longest_wait) != 0;
      idle.turn(any);
    }
    source->drain_for_the_end();
  }

  void look_for_libraries(const std::stop_token& stop) {
    auto next_scan = now_and(scan_interval);
    IdleHook idle(return_thread_memory);
    std::vector<pollfd> waits{{stopping.get(), POLLIN, 0},
                              {exec_event.get(), POLLIN, 0},
                              {targets.changes_descriptor(), POLLIN, 0}};
    for (const int descriptor : watch->descriptors()) waits.push_back({descriptor, POLLIN, 0});
    while (!stop.stop_requested()) {
      source->beat();
      look_at_tasks_again();
      bool all_told = true;
      const int ready = ::poll(waits.data(), waits.size(), heartbeat_interval.count());
      // First: what is known of a file that was changed must not serve for what comes now.
      if (ready > 0 && targets.look_at_changes())
        next_scan = std::min(next_scan, now_and(changed_scan_delay));
      if (ready > 0) targets.look_at_execs();
      if (ready > 0) all_told = watch->read([this](const bpf::Mapped& mapped) { targets.look(mapped); });
      if (!all_told || std::chrono::steady_clock::now() >= next_scan) {
        targets.scan();
        next_scan = now_and(scan_interval);
      }
      idle.turn(ready > 0);
    }
  }

  // Process records that met a full ring are made up for by what the tasks are now. Seldom: on a host that
  // starts processes faster than they are read, this would only add to it.
  void look_at_tasks_again() {
    const std::uint64_t untold = source->counters().untold_processes;
    const auto now = std::chrono::steady_clock::now();
    if (untold == known_untold || now < next_look) return;
    next_look = now + least_between_looks;
    const auto iterator = open_iterator(broker, Operation::task_iterator);
    if (!iterator) return log_warning("processes may be missing: " + to_string(iterator.error()));
    known_untold = untold;
    if (const auto read = source->look_at_processes_again(iterator->get()); !read)
      log_warning("processes may be missing: " + to_string(to_error(read.error())));
  }

  BrokerClient& broker;
  Descriptor exec_event;
  std::unique_ptr<bpf::EventSource> source;
  std::unique_ptr<bpf::MappingWatch> watch;
  Targets targets;
  Descriptor stopping{::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
  std::uint64_t known_untold = 0;  // the finder's
  std::chrono::steady_clock::time_point next_look;
  std::jthread reader;
  std::jthread finder;
};

NativeTap::NativeTap(std::unique_ptr<State> state) : state_(std::move(state)) {}
NativeTap::~NativeTap() {
  stop();
}

std::expected<std::unique_ptr<NativeTap>, Error> NativeTap::start(BrokerClient& broker,
                                                                  Descriptors descriptors,
                                                                  EventPublisher& publisher,
                                                                  const bpf::Filters& filters) {
  bpf::EventSource::Descriptors handed{descriptors.ring.release(), descriptors.ring_bytes,
                                       descriptors.control.release(), descriptors.untold.release()};
  auto source = bpf::EventSource::create(handed, publisher, read_cgroup);
  if (!source) return std::unexpected(to_error(source.error()));
  auto watch = watch_mappings(broker);
  if (!watch) return std::unexpected(watch.error());
  auto state =
      std::make_unique<State>(broker, std::move(*source), filters, std::move(*watch),
                              std::move(descriptors.file_changes), std::move(descriptors.exec_event));
  if (auto seeded = seed_processes(broker, *state->source); !seeded) return std::unexpected(seeded.error());
  seed_connections(broker, *state->source);
  state->targets.scan();
  state->source->publish(TlsLibraryNoted{
      .time = std::chrono::time_point_cast<std::chrono::nanoseconds>(std::chrono::system_clock::now())});
  State* running = state.get();
  state->reader = std::jthread([running](const std::stop_token& stop) { running->read_ring(stop); });
  state->finder = std::jthread([running](const std::stop_token& stop) { running->look_for_libraries(stop); });
  return std::unique_ptr<NativeTap>(new NativeTap(std::move(state)));
}

void NativeTap::stop() {
  state_->finder.request_stop();
  ::eventfd_write(state_->stopping.get(), 1);
  state_->finder = {};
  state_->reader = {};
}

bpf::SourceCounters NativeTap::counters() const {
  return state_->source->counters();
}
Targets::Counts NativeTap::targets() const {
  return state_->targets.counts();
}

}  // namespace weir::agent
