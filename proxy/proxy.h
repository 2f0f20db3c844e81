// The egress tap: an explicit HTTP proxy on loopback that opens TLS with a leaf of the local CA, verifies the
// upstream, forwards what the strict parser accepted and publishes what passed. Boost and OpenSSL stay behind
// this header.
//
// Threads: one Asio context per thread, a connection stays on the thread that accepted it. Each thread
// publishes to an EventPublisher of its own. Everything passed in must outlive the Proxy.
#pragma once

#include <chrono>
#include <cstdint>
#include <expected>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "attribution/events.h"
#include "attribution/policy.h"
#include "ca/ca.h"

namespace weir::proxy {

struct Error {
  std::string what;
  std::string remedy;
};

struct Limits {
  std::size_t connections = 10'000;  // clients at once; beyond it new ones are closed and counted
  std::size_t leaf_cache = 1'024;    // SSL contexts, least recently used goes first
  std::chrono::milliseconds connect_timeout{10'000};
  std::chrono::milliseconds handshake_timeout{10'000};
  std::chrono::milliseconds head_timeout{30'000};   // from a request's first byte to the end of its head
  std::chrono::milliseconds idle_timeout{300'000};  // nothing moved in either direction
};

struct Config {
  Endpoint listen;                       // port 0: the kernel chooses
  unsigned threads = 0;                  // 0: one for each core
  std::vector<std::string> passthrough;  // "example.org" exactly, ".example.org" it and all below it
  std::vector<std::filesystem::path> upstream_ca;  // beside the system's bundle
  std::vector<Endpoint> refused_destinations;      // our own listeners: the API
  std::string ca_certificate_pem;                  // sent after the leaf
  Limits limits;
};

struct Counters {
  std::uint64_t accepted = 0;
  std::uint64_t active = 0;              // now
  std::uint64_t unresolved_refused = 0;  // no process found behind the socket
  std::uint64_t over_limit_closed = 0;
  std::uint64_t bumped = 0;
  std::uint64_t tunnelled = 0;
  std::uint64_t upstream_failed = 0;
  std::uint64_t client_rejected_certificate = 0;
  std::uint64_t requests = 0;
  std::uint64_t malformed_requests = 0;
  std::uint64_t leaves_signed = 0;
};

class Proxy {
 public:
  // Binds and listens; serves after start(). `make_publisher` is called once for each thread.
  static std::expected<std::unique_ptr<Proxy>, Error> create(Config config, ca::LeafSigner& signer,
                                                             ClientResolver& resolver, PolicyDecider& decider,
                                                             std::function<EventPublisher&()> make_publisher);
  virtual ~Proxy() = default;
  virtual Endpoint address() const = 0;
  virtual void start() = 0;
  // Stops accepting, lets running exchanges end for at most `grace`, closes the rest and joins.
  virtual void stop(std::chrono::milliseconds grace) = 0;
  virtual Counters counters() const = 0;  // thread-safe
};

// error.type of an upstream that could not be used; also named in the 502's body.
//   dns, connect_refused, connect_timeout, connect_unreachable, tls_handshake,
//   tls_certificate_expired, tls_certificate_self_signed, tls_certificate_untrusted,
//   tls_certificate_wrong_host
}  // namespace weir::proxy
