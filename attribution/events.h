// The engine's whole input: what a source (the ring reader, the proxy, a replay file) can tell it.
// The engine cannot tell a live kernel from a recording: nothing here refers to a kernel object or a socket.
//
// Ownership: events are values and own what they carry. Threads: an event is published by one thread and
// consumed by another; it is moved, never shared. Order: events about one connection must be published in
// the order in which they happened, by one source; across sources only each source's own order holds.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "attribution/container.h"
#include "attribution/identity.h"

namespace weir {

enum class Tap : std::uint8_t { native, proxy };

// Which way the bytes went, from the client's (our process's) point of view.
enum class Direction : std::uint8_t { sent, received };

enum class TlsLibrary : std::uint8_t { unknown, none, openssl, boringssl, gnutls, nss, go };

// A process that exists. `what` says how we learn of it; fields that are not known stay empty, and the engine
// keeps what it knew (fork: everything is inherited from the parent but the ids; exec: path, arguments
// replace).
struct ProcessEvent {
  enum class What : std::uint8_t {
    seen,     // existed before the source started
    started,  // fork or clone of a new thread group
    execed,
    exited,
  };
  What what = What::seen;
  Time time{};
  ProcessKey process{};
  ProcessKey parent{};            // real parent; start time 0 when only the pid is known
  std::uint32_t inner_pid = 0;    // pid in its own innermost namespace; 0 when not known
  std::uint64_t exec_id = 0;      // the kernel counts programs (self_exec_id); 0: not known
  std::string executable_path{};  // absolute, as seen from the process's own root
  std::vector<std::string> arguments{};
  bool arguments_truncated = false;
  std::optional<std::uint32_t> uid{};
  std::string cgroup_path{};    // the text of /proc/PID/cgroup's lines that matter, joined with '\n'
  std::uint64_t cgroup_id = 0;  // cgroup v2 id
  std::shared_ptr<const ContainerNames> container{};  // comes with cgroup_path; null: not known, or none
  std::uint64_t network_namespace_cookie = 0;
};

struct ConnectionOpened {
  Time time{};
  SocketCookie cookie{};
  Tuple tuple{};
  ProcessKey owner{};
  std::optional<std::uint32_t> owner_uid{};  // when it connected
  std::uint64_t owner_exec_id = 0;           // as in ProcessEvent: which of the owner's programs connected
  std::uint64_t network_namespace_cookie = 0;
  bool accepted = false;      // ingress: a server's side
  bool before_start = false;  // older than the source
  bool redirected = false;    // to the proxy: the tuple's peer is where the process connected to
};

struct ConnectionClosed {
  Time time{};
  SocketCookie cookie{};
  // Payload bytes of the socket as the kernel counts them, SYN and FIN subtracted. Absent when not known.
  std::optional<std::uint64_t> bytes_sent{};
  std::optional<std::uint64_t> bytes_received{};
  // How many plaintext bytes the native tap committed on this connection, captured or lost: the end of both
  // streams, so that a loss at the very end is seen. Absent without a TLS object.
  std::optional<std::uint64_t> plaintext_sent{};
  std::optional<std::uint64_t> plaintext_received{};
  int error = 0;  // errno that ended it (ECONNREFUSED...), 0 for an orderly end
  // Whether the kernel passed on either side's own end: in the clear, all that this side said was said.
  bool sent_end = false;
  bool received_end = false;
  bool other_protocol = false;  // its client began with neither TLS nor HTTP
};

// Another process uses the socket from now on (fork, a passed descriptor).
struct OwnershipChanged {
  Time time{};
  SocketCookie cookie{};
  ProcessKey owner{};
};

// What became known of a TLS session; may come more than once for a connection, each time with more.
struct Handshake {
  Time time{};
  SocketCookie cookie{};
  TlsObjectId object{};  // native tap only
  Tap tap = Tap::native;
  TlsLibrary library = TlsLibrary::unknown;
  std::string version{};  // "1.2", "1.3": OpenTelemetry's tls.protocol.version
  std::string sni{};
  std::string alpn{};
  std::optional<std::uint8_t> alert{};  // the alert that ended it
  bool completed = false;
  bool unused = false;  // the session ended, and nothing was said in it
};

enum class Decision : std::uint8_t {
  bumped,
  tunnelled,
  passed_through,
  refused,
  redirected,  // to the proxy by the kernel side, and HTTP in the clear: there is nothing to open
  upstream_failed
};

// What the proxy decided for a client's connection. `cookie` is the client's socket.
struct DecisionMade {
  Time time{};
  SocketCookie cookie{};
  Decision decision = Decision::bumped;
  std::optional<std::uint64_t>
      stream{};               // only that HTTP/2 stream is meant; the connection's decision stands
  std::string rule{};         // the policy rule, or why it was passed through
  std::string error_type{};   // upstream_failed: "tls_certificate_expired", "dns", "connect"...; see proxy/
  std::string server_name{};  // the destination's name, or its literal address, as the client asked for it
  std::uint16_t server_port = 0;
  std::optional<Endpoint> upstream_peer{};   // the true destination, once connected
  std::optional<Endpoint> upstream_local{};  // the proxy's own socket
};

// Plaintext. Offsets count the plaintext bytes of one direction from the connection's first (native: from the
// TLS object's first). A jump in offsets is a loss that the engine finds by itself.
struct Bytes {
  Time time{};
  SocketCookie cookie{};  // 0: the TLS object has not met its socket yet
  TlsObjectId object{};   // native tap only
  ProcessKey process{};   // who called; proxy: the client
  Tap tap = Tap::native;
  Direction direction = Direction::sent;
  std::uint64_t offset = 0;
  std::vector<std::byte> data{};
};

// Bytes known to have passed and not captured.
struct Gap {
  enum class Reason : std::uint8_t { ring_full, fault, queue_full, too_large, other };
  Time time{};
  SocketCookie cookie{};
  TlsObjectId object{};
  Tap tap = Tap::native;
  Direction direction = Direction::sent;
  std::uint64_t offset = 0;
  std::uint64_t length = 0;
  Reason reason = Reason::other;
};

// One side will carry no more plaintext (close_notify, EOF, shutdown). Both ends: the TLS object is gone.
struct StreamEnded {
  Time time{};
  SocketCookie cookie{};
  TlsObjectId object{};
  Tap tap = Tap::native;
  Direction direction = Direction::sent;
  std::optional<std::uint64_t> offset{};  // where it ends: a loss just before it shows by this alone
  bool broken_off = false;                // not the sender's end: a body that runs until close is not whole
};

struct Dns {
  Time time{};
  ProcessKey process{};
  std::string query{};
  std::vector<std::string> answers{};
};

// A file that a process has mapped holds a TLS library's code. Without a process: all that was there at the
// start is probed by now.
struct TlsLibraryNoted {
  Time time{};
  ProcessKey process{};  // start time 0: the latest of that pid
  TlsLibrary library = TlsLibrary::unknown;
  std::string unreadable{};  // why its plaintext can't be read; "": it is probed, since `time` (0: since
                             // before the process's program began)
};

// Policy refused a connection or a request, or a rule wants it told. Beside it stands the connection's own
// record, unless the kernel refused the connection: then this is all there is.
struct PolicyDecided {
  Time time{};
  SocketCookie cookie{};
  ProcessKey process{};
  std::optional<std::uint32_t> uid{};
  Tap tap = Tap::proxy;  // native: the kernel, at connect or send
  bool allowed = false;
  bool udp = false;
  std::string rule{};         // "": the default
  std::string server_name{};  // as far as known: what was asked for
  Endpoint peer{};            // the address may be unknown
  std::string method{};       // of a request
  std::string target{};
};

using Event = std::variant<ProcessEvent, ConnectionOpened, ConnectionClosed, OwnershipChanged, Handshake,
                           DecisionMade, Bytes, Gap, StreamEnded, Dns, TlsLibraryNoted, PolicyDecided>;

Time time_of(const Event& event);
// The connection that an event is about; 0 when none, or not known yet.
SocketCookie cookie_of(const Event& event);
// The TLS object that an event is about; null when it carries none.
const TlsObjectId* object_of(const Event& event);

// Where a source puts what it saw. publish() never blocks: a full queue drops the event, counts it and
// leaves a gap on its connection. Each publisher belongs to one thread.
class EventPublisher {
 public:
  virtual ~EventPublisher() = default;
  virtual void publish(Event event) = 0;
};

}  // namespace weir
