// The broker's part in redirecting connections to the proxy: makes the listeners, tells the kernel side when
// they are served, and marks processes that ask for it. Single-threaded; never waits.
//
// Who wants its connections redirected connects to the socket `agent.redirect` in the state directory and is
// answered with one line: "" for yes, or why not. It says nothing itself: the kernel says who it is, and a
// process can have nobody marked but itself. All that it starts from then on is redirected, too.
#pragma once

#include <poll.h>
#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <expected>
#include <list>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "agent/descriptor.h"
#include "agent/error.h"
#include "agent/state_dir.h"
#include "attribution/identity.h"
#include "bpf/redirection.h"

namespace weir::agent {

// In another network namespace than ours, listeners are made when a process there is marked, or is to be
// redirected for the first time; they go when it has no process any more, for they would keep it.
class Redirector {
 public:
  struct Setting {
    bpf::KernelSide* kernel = nullptr;  // null, or without redirection(): who asks is told `why_not`
    std::string why_not;
    bool wanted = false;     // the configuration names processes
    uid_t socket_owner = 0;  // of upstream sockets
  };
  static std::expected<Redirector, Error> open(const Descriptor& state_directory, Setting setting);

  // What to wait for, to be given to handle() afterwards, and how long at most (milliseconds; -1: no limit).
  std::vector<pollfd> waits() const;
  int time_to_beat() const;
  void handle(std::span<const pollfd> waits);
  void beat();

  // The next listener that this worker has not been given: a duplicate. event_descriptor() is readable when
  // there is one. Who has a listener that was shut down is to close it.
  struct Listener {
    Descriptor descriptor;
    std::uint32_t network_namespace = 0;  // 0: ours
    std::uint64_t network_namespace_cookie = 0;
  };
  std::optional<Listener> next_listener();
  int event_descriptor() const { return event_.get(); }
  // A TCP socket in one of the namespaces.
  std::expected<Descriptor, Error> upstream_socket(std::uint32_t network_namespace, bool v6);

  // It serves all listeners, and those to come. `ours`: its others, which redirected processes reach as ever.
  void worker_ready(const std::vector<Endpoint>& ours);
  void worker_gone();

 private:
  struct Namespace {
    std::uint32_t number = 0;
    std::uint64_t cookie = 0;
    Descriptor descriptor;
    std::vector<Descriptor> listeners;
    std::size_t given = 0;  // of the listeners
    uid_t owner = 0;
  };

  void answer_askers();
  std::string mark(const Descriptor& connection);
  bool active() const { return redirection_ != nullptr && ready_ && wanted_; }
  std::expected<void, Error> serve_namespace_of(std::uint32_t pid);
  std::expected<void, Error> add_namespace_of(std::uint32_t pid);
  std::expected<void, Error> add_namespace(Descriptor descriptor);
  std::expected<void, Error> start(const Namespace& one);
  void drop_empty_namespaces();

  Setting setting_;
  bpf::Redirection* redirection_ = nullptr;
  bool wanted_ = false;  // by somebody
  bool ready_ = false;
  Descriptor socket_;
  Descriptor event_;
  std::vector<std::uint16_t> our_ports_;
  std::list<Namespace> namespaces_;  // ours is the first
  std::uint32_t next_number_ = 0;
  std::string last_refusal_;
  std::chrono::steady_clock::time_point next_drop_;
};

// For the process itself, before it becomes another program.
std::expected<void, Error> ask_for_redirection(const StateDir& state);

}  // namespace weir::agent
