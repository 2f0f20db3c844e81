// The engine's door, and what each event changes: its connection's facts, its streams, the processes. When a
// record may be written is settlement.cc's. Reads no clock: time comes with events and with advance().
#include <algorithm>

#include "attribution/engine_state.h"
#include "attribution/record_builder.h"

namespace weir {
namespace {

// What a client opens with: a method of upper-case letters and a space (RFC 9110, section 9.1). HTTP/2's
// preface has the same shape.
bool starts_request(std::span<const std::byte> data) {
  std::size_t letters = 0;
  const auto at = [&](std::size_t i) { return std::to_integer<char>(data[i]); };
  while (letters < data.size() && letters < 20 &&
         ((at(letters) >= 'A' && at(letters) <= 'Z') || at(letters) == '-')) {
    ++letters;
  }
  return letters >= 3 && letters + 1 < data.size() && at(letters) == ' ' && at(letters + 1) > ' ';
}

bool starts_response(std::span<const std::byte> data) {
  constexpr std::string_view kVersion = "HTTP/1.";
  return data.size() >= kVersion.size() &&
         std::equal(kVersion.begin(), kVersion.end(), data.begin(),
                    [](char a, std::byte b) { return static_cast<std::byte>(a) == b; });
}

// More than a client may have open at the proxy.
constexpr std::size_t kMaxStreamDecisions = 256;

bool speaks_for_itself(Decision decision) {
  return decision == Decision::bumped || decision == Decision::redirected || decision == Decision::refused ||
         decision == Decision::upstream_failed;
}

constexpr std::size_t kHeldPolicy = 10'000;
constexpr std::chrono::milliseconds kPolicyWait{250};
constexpr std::chrono::milliseconds kPolicyLongWait{2000};

}  // namespace

void Engine::State::on(ProcessEvent& event) {
  if (!processes.apply(event)) return;
  const auto [first, last] = waiting_for_process.equal_range(event.process.pid);
  std::vector<SocketCookie> waiters;
  for (auto it = first; it != last; ++it) waiters.push_back(it->second);
  for (const SocketCookie cookie : waiters) {
    if (Connection* connection = connections.find(cookie)) settle(*connection);
  }
}

void Engine::State::on(ConnectionOpened& event) {
  if (!event.before_start) reopen(event);
  Connection* connection = connection_for(event.cookie, event.time);
  if (connection == nullptr) return;
  if (!connection->opened) {
    connection->opened = event;
  } else {
    ConnectionOpened& known = *connection->opened;
    if (known.tuple.local.address.family == IpAddress::Family::unknown) known.tuple.local = event.tuple.local;
    if (known.tuple.peer.address.family == IpAddress::Family::unknown) known.tuple.peer = event.tuple.peer;
    known.redirected = known.redirected || event.redirected;
    if (!known.owner) known.owner = event.owner;
    if (known.owner == event.owner) {
      if (!known.owner_uid) known.owner_uid = event.owner_uid;
      if (known.owner_exec_id == 0) known.owner_exec_id = event.owner_exec_id;
    }
    if (known.network_namespace_cookie == 0) known.network_namespace_cookie = event.network_namespace_cookie;
  }
  if (!connection->owner) connection->owner = connection->opened->owner;
  // Of a connection that is older than the source, its first bytes may tell better who opened it.
  if (connection->opened->accepted) connection->role = Role::server;
  if (!connection->opened->accepted && !connection->opened->before_start) connection->role = Role::client;
  settle(*connection);
}

void Engine::State::on(ConnectionClosed& event) {
  Connection* connection = connections.find(event.cookie);
  if (connection == nullptr) return;
  if (!connection->closed) {
    connection->closed = event;
    connection->closed_since = latest;
  }
  ConnectionClosed& known = *connection->closed;
  if (!known.bytes_sent) known.bytes_sent = event.bytes_sent;
  if (!known.bytes_received) known.bytes_received = event.bytes_received;
  if (!known.plaintext_sent) known.plaintext_sent = event.plaintext_sent;
  if (!known.plaintext_received) known.plaintext_received = event.plaintext_received;
  if (known.error == 0) known.error = event.error;
  known.sent_end = known.sent_end || event.sent_end;
  known.received_end = known.received_end || event.received_end;
  known.other_protocol = known.other_protocol || event.other_protocol;
  // Only who counts the socket's bytes has passed on all of them: the proxy's close may overtake native
  // bytes.
  if ((event.bytes_sent || event.plaintext_sent) && !calls_may_follow(*connection)) end_native(*connection);
  settle(*connection);
}

void Engine::State::on(OwnershipChanged& event) {
  if (Connection* connection = connection_for(event.cookie, event.time)) connection->owner = event.owner;
}

void Engine::State::on(Handshake& event) {
  Connection* connection = connection_for(event.cookie, event.time);
  if (connection == nullptr) return;
  TlsFacts& tls = connection->tls;
  tls.seen = tls.seen || event.library != TlsLibrary::none;
  if (event.library != TlsLibrary::unknown) tls.library = event.library;
  if (!event.version.empty()) tls.version = std::move(event.version);
  if (!event.sni.empty()) tls.sni = std::move(event.sni);
  if (!event.alpn.empty()) tls.alpn = std::move(event.alpn);
  if (event.alert) tls.alert = event.alert;
  tls.unused = tls.unused || event.unused;
}

void Engine::State::on(DecisionMade& event) {
  Connection* connection = connection_for(event.cookie, event.time);
  if (connection == nullptr) return;
  const Decision decision = event.decision;
  if (event.stream) {
    auto& decisions = connection->stream_decisions;
    decisions[*event.stream] = std::make_shared<const DecisionMade>(std::move(event));
    if (decisions.size() > kMaxStreamDecisions) decisions.erase(decisions.begin());
    return;
  }
  const auto made = std::make_shared<const DecisionMade>(std::move(event));
  connection->role = Role::client;
  // A failure ends the exchange that is open; any other decision is about the next request.
  const bool exchange_is_open = connection->proxy && !connection->proxy->idle();
  const bool about_open_exchange = decision == Decision::refused || decision == Decision::upstream_failed;
  if (about_open_exchange || !exchange_is_open) connection->active_decision = made;
  // A request that is refused leaves the connection what it is.
  const bool about_request_alone = decision == Decision::refused && exchange_is_open && connection->decision;
  if (!about_request_alone) connection->decision = made;
  if (speaks_for_itself(decision)) supersede_native(*connection);
  settle(*connection);
}

void Engine::State::on(Bytes& event) {
  const std::size_t size = event.data.size();
  (event.tap == Tap::native ? counters.native_bytes : counters.proxy_bytes) += size;
  if (size == 0 || own(event.process)) return;
  Connection* connection = connection_for(event.cookie, event.time);
  if (connection == nullptr) return;
  if (!connection->owner) connection->owner = event.process;
  if (event.tap == Tap::proxy) connection->role = Role::client;
  if (event.tap == Tap::native && connection->superseded) {
    counters.duplicate_bytes_dropped += size;
    return;
  }
  if (!decide_role(*connection, event.direction, event.data)) {
    counters.unparsed_bytes += size;
    return;
  }
  if (!watched(*connection)) return;

  PlaintextStream& plaintext = stream(*connection, event.tap, event.object);
  if (joined_late(*connection, event.tap)) plaintext.join_at(event.direction, event.offset);
  if (event.direction == plaintext.request_direction() && plaintext.idle()) {
    if (event.tap == Tap::native) connection->native_caller = event.process;
    if (event.tap == Tap::proxy) connection->active_decision = connection->decision;
  }
  count(*connection, event.tap, event.direction,
        plaintext.bytes(event.direction, event.offset, event.data, event.time));
  connection->spoke_http = connection->spoke_http || plaintext.spoke_http();
  settle(*connection);
}

void Engine::State::on(Gap& event) {
  Connection* connection = connection_for(event.cookie, event.time);
  if (connection == nullptr || !watched(*connection)) return;
  if (event.tap == Tap::native && connection->superseded) return;
  if (connection->role == Role::undecided)
    return count(*connection, event.tap, event.direction, {.missing = event.length});
  PlaintextStream& plaintext = stream(*connection, event.tap, event.object);
  if (joined_late(*connection, event.tap)) plaintext.join_at(event.direction, event.offset);
  count(*connection, event.tap, event.direction,
        plaintext.gap(event.direction, event.offset, event.length, event.time));
  settle(*connection);
}

void Engine::State::on(StreamEnded& event) {
  Connection* connection = connections.find(event.cookie);
  if (connection == nullptr || !watched(*connection) || connection->role == Role::undecided) return;
  if (event.tap == Tap::native && connection->superseded) return;
  PlaintextStream& plaintext = stream(*connection, event.tap, event.object);
  if (event.offset) {
    if (joined_late(*connection, event.tap)) plaintext.join_at(event.direction, *event.offset);
    const std::uint64_t next = plaintext.next_offset(event.direction);
    const std::uint64_t missing = *event.offset > next ? *event.offset - next : 0;
    count(*connection, event.tap, event.direction, plaintext.gap(event.direction, next, missing, event.time));
  }
  plaintext.end(event.direction, event.time, event.broken_off);
  if (event.tap == Tap::proxy) connection->proxy_ended_since = latest;
  settle(*connection);
}

void Engine::State::on(Dns& event) {
  if (own(event.process)) return;
  ++counters.records;
  emit(dns_record(config, event, processes.find(event.process)));
}

void Engine::State::on(TlsLibraryNoted& event) {
  if (!event.process) {
    probed_since = event.time;
    return;
  }
  processes.note(event);
}

void Engine::State::write_first_policy() {
  const PolicyDecided first = std::move(held_policy.front());
  held_policy.pop_front();
  ++counters.records;
  emit(policy_record(config, first, processes.find(first.process)));
}

void Engine::State::on(PolicyDecided& event) {
  if (own(event.process)) return;
  held_policy.push_back(std::move(event));
  if (held_policy.size() > kHeldPolicy) write_first_policy();
}

// The ring's reader may be late by a few milliseconds: an exec before the connect comes after what the proxy
// says of it.
void Engine::State::write_policy(bool all) {
  while (!held_policy.empty()) {
    const PolicyDecided& first = held_policy.front();
    const bool known = processes.find(first.process) != nullptr;
    if (!all && now < first.time + (known ? kPolicyWait : kPolicyLongWait)) return;
    write_first_policy();
  }
}

// Null when the connection has ended: what comes late is of no record.
Connection* Engine::State::connection_for(SocketCookie cookie, Time when) {
  if (Connection* known = connections.find(cookie)) return known;
  if (!cookie || connections.ended(cookie)) return nullptr;
  while (connections.full() && !connections.empty()) {
    ++counters.connections_evicted;
    end(connections.least_recently_used(), latest, false);
  }
  ++counters.connections_tracked;
  return &connections.insert(cookie, when);
}

// Whether the connection is one that records speak of.
bool Engine::State::watched(const Connection& connection) const {
  if (own(connection.owner) || (connection.opened && own(connection.opened->owner))) return false;
  return connection.role != Role::server || config.ingress;
}

// False while the bytes don't show yet on which side of the connection the process stands.
bool Engine::State::decide_role(Connection& connection, Direction direction,
                                std::span<const std::byte> data) {
  if (connection.role != Role::undecided) return true;
  const bool sent = direction == Direction::sent;
  if (starts_request(data)) connection.role = sent ? Role::client : Role::server;
  if (starts_response(data)) connection.role = sent ? Role::server : Role::client;
  if (connection.role == Role::undecided && connection.opened) connection.role = Role::client;
  return connection.role != Role::undecided;
}

PlaintextStream& Engine::State::stream(Connection& connection, Tap tap, const TlsObjectId& object) {
  std::unique_ptr<PlaintextStream>& slot = tap == Tap::proxy ? connection.proxy : connection.native[object];
  if (!slot) {
    const Direction requests = connection.role == Role::server ? Direction::received : Direction::sent;
    slot = std::make_unique<PlaintextStream>(
        requests, exchange_limits,
        [this, &connection, tap, cleartext = tap == Tap::native && !object](http::Exchange&& exchange) {
          hold(connection, tap, cleartext, std::move(exchange));
        });
    if (joined_late(connection, tap)) slot->join(latest);
  }
  return *slot;
}

void Engine::State::count(Connection& connection, Tap tap, Direction direction,
                          const PlaintextStream::Account& account) {
  TapAccount& of_tap = tap == Tap::proxy ? connection.proxy_account : connection.native_account;
  DirectionAccount& total = of_tap.of(direction);
  total.fresh += account.fresh;
  total.gap += account.missing;
  of_tap.unparsed += account.unparsed;
  counters.unparsed_bytes += account.unparsed;
  counters.gap_bytes += account.missing;
  counters.duplicate_bytes_dropped += account.duplicate;
}

Engine::Engine(EngineConfig config, Emit emit)
    : state_(std::make_unique<State>(std::move(config), std::move(emit))) {}

Engine::~Engine() = default;

void Engine::consume(Event event) {
  State& state = *state_;
  ++state.counters.events;
  state.latest = std::max(state.latest, time_of(event));
  state.linker.take(std::move(event),
                    [&](Event&& linked) { std::visit([&](auto& one) { state.on(one); }, linked); });
}

void Engine::set_proxy_listeners(std::vector<Endpoint> listeners) {
  state_->config.proxy_listeners = std::move(listeners);
}

void Engine::set_own_pids(std::vector<std::uint32_t> pids) {
  state_->config.own_pids = std::move(pids);
}

void Engine::advance(Time now) {
  State& state = *state_;
  state.now = std::max(state.now, now);
  state.latest = std::max(state.latest, now);
  state.linker.advance(state.now);
  state.write_policy(false);
  while (Connection* connection = state.connections.due(state.now)) state.settle(*connection);
  state.processes.forget_exited(state.now);
  state.connections.forget_ended(state.now);
}

void Engine::finish(Time now) {
  State& state = *state_;
  state.write_policy(true);
  while (!state.connections.empty()) {
    Connection& connection = state.connections.least_recently_used();
    state.end(connection, now, connection.closed.has_value());
  }
}

const EngineCounters& Engine::counters() const {
  state_->counters.unlinked_bytes_dropped = state_->linker.dropped_bytes();
  state_->counters.processes_evicted = state_->processes.evicted();
  return state_->counters;
}

std::vector<Engine::Coverage> Engine::coverage() const {
  std::vector<Coverage> all;
  for (const Process& process : state_->processes.all()) {
    if (process.connections == 0) continue;
    const ProcessImage& image = process.images.back();
    all.push_back({.process = {process.key, image.generation},
                   .executable_name = image.executable_path.substr(image.executable_path.rfind('/') + 1),
                   .connections = process.connections,
                   .readable_connections = process.readable_connections});
  }
  return all;
}

}  // namespace weir
