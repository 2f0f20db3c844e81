// What is known of the sockets of one thread: which may have something to read, which may take more, whose
// peer has left. The kernel tells it of all of them at once (an edge-triggered epoll set, in which a socket
// is put once), so that neither a wait nor a look at what hasn't come costs a call of its own, as Asio's
// waits would.
//
// All of it belongs to the thread that runs the context.
#pragma once

#include <array>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/intrusive/list.hpp>
#include <cstddef>
#include <cstdint>
#include <optional>

// GCC 12 takes Asio's coroutine frames, whose promise has its own new and delete, for a mismatch once one is
// inlined into another. Not popped: it warns where the coroutines are, not here.
#pragma GCC diagnostic ignored "-Wmismatched-new-delete"

namespace weir::proxy {

namespace asio = boost::asio;

template <typename T>
using Task = asio::awaitable<T>;

enum class Way : std::uint8_t { read, write };

class Poller;

// One descriptor's place. It must not outlive the Poller, and the descriptor must be open while it is
// watched.
class Readiness : public boost::intrusive::list_base_hook<> {
 public:
  explicit Readiness(Poller& poller) : poller_(poller) {}
  ~Readiness() { forget(); }
  Readiness(const Readiness&) = delete;
  Readiness& operator=(const Readiness&) = delete;

  // False: a call would say EAGAIN. The end and a failure can be read, too.
  bool may(Way way) const { return ready_[index(way)]; }
  // A call said EAGAIN: whatever comes next is told of.
  void exhausted(Way way);
  // A read got less than it asked for.
  void read_short();
  // As may(), but asks the kernel where something may have been taken: false only where wait() will be told.
  bool is_ready(int descriptor, Way way) { return watched() && may(way) && ask(descriptor, way); }
  // The kernel's answer of now, which may() gives from then on.
  bool ask(int descriptor, Way way);
  // After is_ready() said no. False when it was called off. Two waits each way at a time: under TLS who
  // writes may have to read first, and the reverse.
  Task<bool> wait(int descriptor, Way way);
  void call_off();
  // Before the descriptor is closed.
  void forget();

  bool watched() const { return is_linked(); }  // else nothing is known
  bool urgent() const { return urgent_; }       // there was urgent data

 private:
  friend class Poller;
  using Handler = asio::async_result<asio::use_awaitable_t<>, void(bool)>::handler_type;
  using Waiter = std::optional<Handler>;

  static constexpr std::size_t index(Way way) { return static_cast<std::size_t>(way); }
  Waiter* free_place(Way way);
  bool watch(int descriptor);
  void notice(std::uint32_t events);
  void end_wait(Waiter& waiter, bool ready);
  void resume(Handler handler, bool ready);

  Poller& poller_;
  int descriptor_ = -1;
  std::array<bool, 2> ready_{true, true};  // as long as nothing is known
  std::array<std::array<Waiter, 2>, 2> waiters_;
  bool peer_ended_ = false;  // FIN
  bool failed_ = false;      // reset, or both sides have ended
  bool urgent_ = false;      // data that reads stop at
};

class Poller {
 public:
  explicit Poller(asio::io_context& context);
  ~Poller();
  Poller(const Poller&) = delete;
  Poller& operator=(const Poller&) = delete;

  Task<void> run();  // as long as the context does
  // Once the context has stopped and before it goes: the coroutines that wait are given back to it.
  void abandon();

 private:
  friend class Readiness;
  void look();

  asio::io_context& context_;
  int epoll_;
  boost::intrusive::list<Readiness> watched_;
};

}  // namespace weir::proxy
