// The worker's native tap: the threads around the event source and target discovery.
#pragma once

#include <memory>
#include <string>

#include "agent/channel.h"
#include "agent/error.h"
#include "agent/targets.h"
#include "bpf/event_source.h"

namespace weir::agent {

class NativeTap {
 public:
  struct Descriptors {
    Descriptor ring;
    Descriptor control;
    Descriptor untold;
    Descriptor file_changes;
    Descriptor exec_event;  // none: execs don't wait
    std::uint64_t ring_bytes = 0;
  };
  // Seeds the process table, attaches to the TLS libraries and starts reading. The publisher is used on a
  // thread of the tap's own from then on.
  static std::expected<std::unique_ptr<NativeTap>, Error> start(BrokerClient& broker, Descriptors descriptors,
                                                                EventPublisher& publisher,
                                                                const bpf::Filters& filters);
  ~NativeTap();  // as stop()

  // Publishes what the ring still holds, and ends the threads.
  void stop();
  bpf::SourceCounters counters() const;
  Targets::Counts targets() const;

 private:
  struct State;
  explicit NativeTap(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace weir::agent
