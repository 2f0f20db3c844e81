// One connection as the engine knows it, and the table of them. State only: what it means is the engine's.
#pragma once

#include <deque>
#include <list>
#include <map>
#include <memory>
#include <optional>
#include <unordered_map>

#include "attribution/events.h"
#include "attribution/plaintext_stream.h"

namespace weir {

enum class Role : std::uint8_t { undecided, client, server };

using DecisionPtr = std::shared_ptr<const DecisionMade>;

// A whole exchange that waits to be written, or is about to be.
struct HeldExchange {
  http::Exchange exchange;
  Tap tap = Tap::native;
  DecisionPtr decision;    // proxy tap: the one that applied to it
  ProcessKey caller;       // native tap: who made the call
  bool cleartext = false;  // native tap: read at the socket, not at a TLS library
  Time since{};
};

struct TlsFacts {
  bool seen = false;
  TlsLibrary library = TlsLibrary::unknown;
  std::string version;
  std::string sni;
  std::string alpn;
  std::optional<std::uint8_t> alert;
  bool unused = false;  // its object ended, and had said nothing
};

// What one tap read of one direction, and what it knows to have missed.
struct DirectionAccount {
  std::uint64_t fresh = 0;
  std::uint64_t gap = 0;
};
struct TapAccount {
  DirectionAccount sent;
  DirectionAccount received;
  std::uint64_t unparsed = 0;  // of what was read: stands in no exchange

  DirectionAccount& of(Direction direction) { return direction == Direction::sent ? sent : received; }
  std::uint64_t fresh_bytes() const { return sent.fresh + received.fresh; }
  std::uint64_t gap_bytes() const { return sent.gap + received.gap; }
};

// What its exchanges' records say of a connection, as JSON, and of which facts they said it. The cookie and
// the configuration, which it tells too, stay the same.
template <typename Facts>
struct Told {
  Facts facts{};
  std::string json{};  // "": nothing was said yet
};
struct IdentityFacts {
  std::optional<Tap> source{};
  TlsLibrary library = TlsLibrary::unknown;
  bool operator==(const IdentityFacts&) const = default;
};
struct NetworkFacts {
  Endpoint local{};
  Endpoint peer{};
  Endpoint upstream_local{};
  http::Version version{};
  bool operator==(const NetworkFacts&) const = default;
};
struct ConnectionText {
  Told<IdentityFacts> identity;
  Told<NetworkFacts> network;
};

struct Connection {
  SocketCookie cookie;
  Time first_seen{};
  std::optional<ConnectionOpened> opened;
  ProcessKey owner;  // who uses it now
  Role role = Role::undecided;
  TlsFacts tls;

  DecisionPtr decision;                                   // the latest
  std::map<std::uint64_t, DecisionPtr> stream_decisions;  // of open HTTP/2 streams that have one of their own
  DecisionPtr active_decision;  // the one that applies to the exchange that is open in the proxy's stream
  bool superseded = false;      // the proxy's view is the record, native bytes are copies

  std::map<TlsObjectId, std::unique_ptr<PlaintextStream>> native;
  std::unique_ptr<PlaintextStream> proxy;
  ProcessKey native_caller;
  TapAccount native_account;
  TapAccount proxy_account;

  std::list<HeldExchange> held;  // an empty deque takes more than half a KiB
  std::size_t held_body_bytes = 0;
  std::optional<ConnectionClosed> closed;
  Time closed_since{};
  Time proxy_ended_since{};
  bool cut_short = false;       // ended by us: evicted, or the engine finishes
  std::uint64_t exchanges = 0;  // recorded, but for the one that asked for a tunnel
  std::string tunnel_to;        // what a proxy was asked for by a CONNECT in the clear, and granted
  bool spoke_http = false;
  mutable std::unique_ptr<ConnectionText> text;  // from the second exchange on: many have but one
  std::optional<Time> deadline;                  // its entry among the table's deadlines
  std::uint32_t waits_for_pid = 0;  // its entry among those that wait for a process to become known

  Time began() const { return opened ? opened->time : first_seen; }  // as far as it is known
};

// Bounded: the caller evicts when full(). An ended cookie is remembered for a minute, lest a late event of
// another source raise it again; only its socket's next connect() does (a refused one, retried).
class ConnectionTable {
 public:
  explicit ConnectionTable(std::size_t limit) : limit_(limit) {}

  Connection* find(SocketCookie cookie);  // marks it as used
  Connection& insert(SocketCookie cookie, Time when);
  void erase(SocketCookie cookie);
  // `reopens_after`: an opening later than this is the same socket's next connection.
  void end(SocketCookie cookie, Time reopens_after, Time now);
  void forget_ended(Time now);
  void reopen(SocketCookie cookie, Time when);
  bool ended(SocketCookie cookie) const { return ended_.contains(cookie); }
  bool full() const { return index_.size() >= limit_; }
  bool empty() const { return index_.empty(); }
  Connection& least_recently_used() { return connections_.back(); }

  void set_deadline(Connection& connection, std::optional<Time> when);
  // The next connection whose deadline has come, its deadline cleared; null when there is none.
  Connection* due(Time now);

 private:
  void forget_oldest_end();

  std::size_t limit_;
  std::list<Connection> connections_;  // most recently used first
  std::unordered_map<SocketCookie, std::list<Connection>::iterator> index_;
  std::unordered_map<SocketCookie, Time> ended_;           // until when its events are late ones
  std::deque<std::pair<Time, SocketCookie>> ended_order_;  // since when
  std::multimap<Time, SocketCookie> deadlines_;
};

}  // namespace weir
