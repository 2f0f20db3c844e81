// The egress tap: an HTTP and SOCKS 5 proxy on loopback that opens TLS with a leaf of the local CA, verifies
// the upstream, forwards what the strict parser accepted and publishes what passed. Boost and OpenSSL stay
// behind this header.
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
#include <optional>
#include <string>
#include <vector>

#include "attribution/events.h"
#include "attribution/policy.h"
#include "ca/ca.h"
#include "proxy/body_pace.h"
#include "proxy/rejections.h"
#include "proxy/upstream_proxy.h"

namespace weir::proxy {

struct Error {
  std::string what;
  std::string remedy;
};

// Of each side of a connection that speaks HTTP/2.
struct H2Limits {
  std::uint32_t streams = 100;                    // that a client may have open
  std::uint32_t stream_window = 256 * 1024;       // of a stream's content, and
  std::uint32_t connection_window = 1024 * 1024;  // of all streams', what may wait in the proxy
  std::uint32_t head_size = 64 * 1024;            // a request's, as SETTINGS_MAX_HEADER_LIST_SIZE counts it
  std::uint32_t head_fields = 256;
  std::uint32_t response_head_size = 256 * 1024;  // likewise
  std::uint32_t response_head_fields = 1024;
  std::uint32_t continuations = 32;     // frames of a header section
  std::uint32_t queued_frames = 1'000;  // that wait to be sent; beyond it nothing more is read
  // What costs us and moves nothing: streams that are reset, PING, SETTINGS, PRIORITY, empty DATA, unknown
  // frames. So many at once, and so many more a second, of each kind; who sends more is sent away
  // (ENHANCE_YOUR_CALM).
  std::uint32_t flood_burst = 1'000;
  std::uint32_t flood_rate = 100;
};

// What an upstream gets that asks for a certificate.
struct ClientCertificate {
  std::string name;  // of the upstream, as in `passthrough`
  std::string pem;   // certificate, chain, private key
  std::string file;  // where it came from, for errors
};

struct Limits {
  // Clients at once, and memory (as Config::memory_in_use gives it). Beyond either, the client that has been
  // idle longest makes room; where none is idle, the new one is closed.
  std::size_t connections = 10'000;
  std::uint64_t memory = std::uint64_t{2} << 30;
  std::size_t leaf_cache = 1'024;         // SSL contexts, least recently used goes first
  std::size_t upstream_sessions = 4'096;  // of upstreams' TLS, that a thread keeps, likewise
  std::chrono::milliseconds connect_timeout{10'000};
  std::chrono::milliseconds handshake_timeout{10'000};
  std::chrono::milliseconds head_timeout{30'000};   // from a request's first byte to the end of its head
  std::chrono::milliseconds idle_timeout{300'000};  // nothing moved in either direction
  BodyPace::Limits body_pace;                       // of a request's content
  H2Limits h2;
};

struct Config {
  Endpoint listen;                       // port 0: the kernel chooses
  unsigned threads = 0;                  // 0: one for each core
  std::vector<std::string> passthrough;  // "example.org" exactly, ".example.org" it and all below it
  // Of programs that don't take our certificate. Only clients whose ClientFacts are known can have any.
  Rejections::Limits rejections;
  std::vector<ClientCertificate> client_certificates;
  // An upstream that asks for a client certificate, which only the client has: else it is passed through.
  bool open_mutual_tls = false;
  std::vector<std::filesystem::path> upstream_ca;  // beside the system's bundle
  std::optional<UpstreamProxy> upstream_proxy;     // for all but loopback
  std::vector<Endpoint> refused_destinations;      // our own listeners: the API
  // Called about every 100 ms while connections are accepted; must not wait.
  std::function<void()> heartbeat;
  // Called once a second; must not wait. The bytes that this process takes.
  std::function<std::uint64_t()> memory_in_use;
  // Called by each thread that has had no connection for a while; must not wait.
  std::function<void()> when_idle;
  Limits limits;
};

struct Counters {
  std::uint64_t accepted = 0;
  std::uint64_t active = 0;              // now
  std::uint64_t unresolved_refused = 0;  // no process found behind the socket
  std::uint64_t over_limit_closed = 0;   // new ones
  std::uint64_t idle_shed = 0;           // ended to make room
  std::uint64_t redirected = 0;          // came without knowing of us
  std::uint64_t bumped = 0;
  std::uint64_t tunnelled = 0;       // neither TLS nor HTTP
  std::uint64_t passed_through = 0;  // TLS that was not opened
  std::uint64_t upstream_failed = 0;
  std::uint64_t client_rejected_certificate = 0;
  std::uint64_t requests = 0;
  std::uint64_t malformed_requests = 0;
  std::uint64_t leaves_signed = 0;
  std::uint64_t floods_ended = 0;       // HTTP/2 connections sent away for what they cost
  std::uint64_t slow_bodies_ended = 0;  // requests
};

// Where connections arrive that the kernel side redirected. Nobody else is served there.
struct RedirectListener {
  int descriptor = -1;  // listens on loopback; taken over. Shut down when nobody is to arrive there any more
  std::shared_ptr<ClientResolver> resolver;
  // In another network namespace than ours: makes a TCP socket there, for the upstream; -1 when it can't.
  // Thread-safe.
  std::function<int(IpAddress::Family)> make_socket{};
};

class Proxy {
 public:
  // Binds and listens; serves after start(). `make_publisher` is called once for each thread.
  static std::expected<std::unique_ptr<Proxy>, Error> create(Config config, ca::LeafSigner& signer,
                                                             ClientResolver& resolver, PolicyDecider& decider,
                                                             std::function<EventPublisher&()> make_publisher);
  virtual ~Proxy() = default;
  virtual Endpoint address() const = 0;
  // Thread-safe. A connection's destination is where its client connected to (Client::redirected_from):
  // TLS is opened for the name that the ClientHello says, HTTP/1 in the clear is recorded, all else is
  // tunnelled.
  virtual void add_redirect_listener(RedirectListener listener) = 0;
  virtual void start() = 0;
  // Stops accepting, lets running exchanges end for at most `grace`, closes the rest and joins.
  virtual void stop(std::chrono::milliseconds grace) = 0;
  virtual Counters counters() const = 0;  // thread-safe
  // Programs that are passed through now, as they did not take our certificate. Thread-safe.
  virtual std::vector<Rejections::Passed> passed_through() const = 0;
  // The CA has changed: leaves are signed anew, who was passed through is tried again, running connections go
  // on. Thread-safe.
  virtual void forget_leaves() = 0;
};

// error.type of an upstream that could not be used; also named in the 502's body.
//   dns, connect_refused, connect_timeout, connect_unreachable, tls_handshake,
//   tls_certificate_expired, tls_certificate_self_signed, tls_certificate_untrusted,
//   tls_certificate_wrong_host, upstream_proxy (it refused, or its answer made no sense)
// And of one that gave no answer that may be passed on, not named there:
//   upstream_closed, upstream_reset, upstream_timeout, upstream_malformed_response,
//   upstream_oversized_response
}  // namespace weir::proxy
