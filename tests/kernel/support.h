// What the kernel tests share: a TLS origin on loopback that counts what it carried, clients as child
// processes that load a private copy of libssl, and a collector of events. Probing a copy leaves the
// machine's other processes alone.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "attribution/events.h"
#include "bpf/event_source.h"
#include "bpf/kernel_side.h"

namespace weir::test {

class TemporaryDirectory {
 public:
  TemporaryDirectory();
  ~TemporaryDirectory();
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

// A child process with its standard input and output as pipes; killed and reaped when it goes out of scope.
class Child {
 public:
  Child(std::vector<std::string> arguments, const std::vector<std::string>& environment = {});
  ~Child();
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;
  std::uint32_t pid() const { return static_cast<std::uint32_t>(pid_); }
  std::string read_line();
  void write_line(const std::string& line);
  std::string finish();  // closes its input, returns the rest of its output, reaps it

 private:
  pid_t pid_ = -1;
  int input_ = -1;
  int output_ = -1;
};

// Keeps every event. Not thread-safe: the test's thread polls and looks.
class Collector final : public EventPublisher {
 public:
  void publish(Event event) override { events_.push_back(std::move(event)); }

  template <class T>
  std::vector<const T*> all(const std::function<bool(const T&)>& which) const {
    std::vector<const T*> found;
    for (const auto& event : events_)
      if (const auto* typed = std::get_if<T>(&event); typed != nullptr && which(*typed))
        found.push_back(typed);
    return found;
  }
  std::vector<const ConnectionOpened*> opened_by(std::uint32_t pid) const;
  std::vector<const ConnectionClosed*> closed(SocketCookie cookie) const;
  // The bytes of one direction in the order of their offsets; offsets must be without holes and overlaps.
  std::string stream(SocketCookie cookie, Direction direction) const;

 private:
  std::vector<Event> events_;
};

// The defaults, without what the environment variable WEIR_TEST_WITHOUT names ("socket_events",
// "uprobe_multi", "state_tracepoint"): the same tests with what is left.
bpf::LoadOptions default_options();

// The loaded kernel side with its ring, read in this process.
class Tap {
 public:
  explicit Tap(bpf::LoadOptions options = default_options());
  bpf::KernelSide& kernel() { return *kernel_; }
  bpf::EventSource& source() { return *source_; }
  Collector& events() { return collector_; }
  bool wait_for(const std::function<bool()>& condition);  // polls meanwhile; false after ten seconds

 private:
  std::unique_ptr<bpf::KernelSide> kernel_;
  Collector collector_;
  std::unique_ptr<bpf::EventSource> source_;
};

// A private copy of libssl.so.3, to be found by LD_LIBRARY_PATH.
class PrivateLibssl {
 public:
  PrivateLibssl();
  int open() const;  // a new descriptor
  std::string environment() const { return "LD_LIBRARY_PATH=" + directory_.path().string(); }
  std::vector<bpf::ProbeSite> sites() const;

 private:
  TemporaryDirectory directory_;
  std::filesystem::path file_;
};

// An HTTP/1.1 origin over TLS, one thread a connection, one request each: answers "GET /N" with N bytes of
// body(), "POST" by reading the body. Uses the statically linked OpenSSL, which no probe stands on.
class TlsOrigin {
 public:
  struct Served {
    std::uint16_t client_port = 0;
    std::string request;             // all plaintext read
    std::string response;            // all plaintext written
    std::uint64_t raw_received = 0;  // bytes of TCP payload
    std::uint64_t raw_sent = 0;
  };
  TlsOrigin();
  ~TlsOrigin();
  std::uint16_t port() const { return port_; }
  Served served_to(std::uint16_t client_port);  // waits until that connection is over

 private:
  struct State;
  std::unique_ptr<State> state_;
  std::uint16_t port_ = 0;
};

std::string body(std::size_t bytes);

}  // namespace weir::test
