// Two threads: one empties the ring, one looks for libraries and beats the heart. Neither waits for the
// other.
#include "agent/native_tap.h"

#include <condition_variable>
#include <mutex>
#include <stop_token>
#include <thread>

#include "agent/log.h"
#include "agent/process_info.h"

namespace weir::agent {
namespace {

constexpr std::chrono::milliseconds longest_wait{100};
constexpr std::chrono::milliseconds heartbeat_interval{250};
// How soon a library that appears while the agent runs is found (an upgrade, a container).
constexpr std::chrono::seconds scan_interval{10};
constexpr std::chrono::seconds least_between_looks{5};

std::expected<Descriptor, Error> open_task_iterator(BrokerClient& broker) {
  Request request;
  request.operation = Operation::task_iterator;
  auto iterator = broker.call(request);
  if (!iterator) return std::unexpected(iterator.error());
  if (iterator->reply.status != Status::ok || iterator->descriptors.empty()) {
    return std::unexpected(Error{iterator->reply.text.data(), ""});
  }
  return std::move(iterator->descriptors.front());
}

std::expected<void, Error> seed_processes(BrokerClient& broker, bpf::EventSource& source) {
  const auto iterator = open_task_iterator(broker);
  if (!iterator) return std::unexpected(iterator.error());
  const auto seeded = source.seed_processes(iterator->get());
  if (!seeded) return std::unexpected(to_error(seeded.error()));
  return {};
}

}  // namespace

struct NativeTap::State {
  State(BrokerClient& connection, std::unique_ptr<bpf::EventSource> event_source)
      : broker(connection), source(std::move(event_source)), targets(connection) {}

  void read_ring(const std::stop_token& stop) {
    while (!stop.stop_requested()) source->poll(longest_wait);
    source->drain_for_the_end();
  }

  void look_for_libraries(const std::stop_token& stop) {
    auto next_scan = std::chrono::steady_clock::now() + scan_interval;
    std::mutex mutex;
    std::condition_variable_any wake;
    std::unique_lock lock(mutex);
    while (!stop.stop_requested()) {
      source->beat();
      look_at_tasks_again();
      if (std::chrono::steady_clock::now() >= next_scan) {
        targets.scan();
        next_scan = std::chrono::steady_clock::now() + scan_interval;
      }
      wake.wait_for(lock, stop, heartbeat_interval, [] { return false; });
    }
  }

  // Process records that met a full ring are made up for by what the tasks are now. Seldom: on a host that
  // starts processes faster than they are read, this would only add to it.
  void look_at_tasks_again() {
    const std::uint64_t untold = source->counters().untold_processes;
    const auto now = std::chrono::steady_clock::now();
    if (untold == known_untold || now < next_look) return;
    next_look = now + least_between_looks;
    const auto iterator = open_task_iterator(broker);
    if (!iterator) return log_warning("processes may be missing: " + to_string(iterator.error()));
    known_untold = untold;
    if (const auto read = source->look_at_processes_again(iterator->get()); !read)
      log_warning("processes may be missing: " + to_string(to_error(read.error())));
  }

  BrokerClient& broker;
  std::unique_ptr<bpf::EventSource> source;
  Targets targets;
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
                                                                  EventPublisher& publisher) {
  bpf::EventSource::Descriptors handed{descriptors.ring.release(), descriptors.ring_bytes,
                                       descriptors.control.release(), descriptors.untold.release()};
  auto source = bpf::EventSource::create(handed, publisher, read_cgroup);
  if (!source) return std::unexpected(to_error(source.error()));
  auto state = std::make_unique<State>(broker, std::move(*source));
  if (auto seeded = seed_processes(broker, *state->source); !seeded) return std::unexpected(seeded.error());
  state->targets.scan();
  State* running = state.get();
  state->reader = std::jthread([running](const std::stop_token& stop) { running->read_ring(stop); });
  state->finder = std::jthread([running](const std::stop_token& stop) { running->look_for_libraries(stop); });
  return std::unique_ptr<NativeTap>(new NativeTap(std::move(state)));
}

void NativeTap::stop() {
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
