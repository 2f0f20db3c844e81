// The broker's hold on the redirecting programs (programs/redirect.bpf.c): whose connections go to the proxy,
// where it listens, and that the broker lives. Refers to what its KernelSide owns. Single-threaded.
#pragma once

#include <array>
#include <cstdint>
#include <expected>
#include <memory>
#include <set>
#include <vector>

#include "bpf/kernel_side.h"

struct ring_buffer;

namespace weir::bpf {

// Ports on loopback (host byte order; 0: none) in one network namespace.
struct RedirectListeners {
  std::uint16_t v4 = 0;
  std::uint16_t v6 = 0;
  std::array<std::uint16_t, 2> ours{};  // further listeners of ours, which a redirected process still reaches
};

class Redirection {
 public:
  struct Descriptors {  // not taken over
    int marked_processes = -1;
    int listeners = -1;
    int unserved = -1;
    int control = -1;
  };
  // `marks_used`: the programs' variable of that name.
  static std::expected<Redirection, Error> open(Descriptors descriptors, std::uint32_t* marks_used);
  ~Redirection();
  Redirection(Redirection&& other) noexcept;
  Redirection& operator=(Redirection&&) = delete;

  // From now on, and for all that it starts. The caller makes sure that the pid (of the initial namespace) is
  // whom it means, before and after.
  std::expected<void, Error> mark(std::uint32_t pid);
  void unmark(std::uint32_t pid);

  // Redirects in this network namespace; the listeners are there. Limit: 256 namespaces.
  std::expected<void, Error> start(std::uint64_t netns_cookie, const RedirectListeners& listeners);
  void stop(std::uint64_t netns_cookie);

  // Processes that are to be redirected, each in a network namespace without listeners; to be asked when the
  // descriptor is readable. A namespace is told again as long as it has none, but not more than four times a
  // second.
  int unserved_descriptor() const;
  std::vector<std::uint32_t> take_unserved();

  // To be called every few hundred milliseconds: a second after the last one nothing is redirected.
  void beat();

 private:
  struct RingDeleter {
    void operator()(ring_buffer* ring) const;
  };
  Redirection(Descriptors descriptors, std::uint32_t* marks_used, void* control)
      : descriptors_(descriptors), marks_used_(marks_used), control_(control) {}
  std::expected<void, Error> open_unserved();

  Descriptors descriptors_;
  std::uint32_t* marks_used_;
  void* control_;  // mapped
  std::unique_ptr<std::vector<std::uint32_t>> told_ = std::make_unique<std::vector<std::uint32_t>>();
  std::unique_ptr<ring_buffer, RingDeleter> unserved_;  // fills told_
};

// The cookies of all network namespaces that have a process. `task_iterator`: of KernelSide, taken over.
std::expected<std::set<std::uint64_t>, Error> network_namespaces_of(int task_iterator);

// The worker's sign of life, which the kernel side wants as well as the broker's.
class ProxyHeartbeat {
 public:
  // Of the control map; not taken over.
  static std::expected<ProxyHeartbeat, Error> open(int control_descriptor);
  ~ProxyHeartbeat();
  ProxyHeartbeat(ProxyHeartbeat&& other) noexcept;
  ProxyHeartbeat& operator=(ProxyHeartbeat&&) = delete;
  void beat();  // thread-safe

 private:
  explicit ProxyHeartbeat(void* control) : control_(control) {}
  void* control_;
};

}  // namespace weir::bpf
