// The engine: routes each event to its connection, decides when an exchange may be written and from which tap,
// and ends connections. Reads no clock: time comes with events and with advance().
#include "attribution/engine.h"

#include <algorithm>
#include <unordered_map>

#include "attribution/connection.h"
#include "attribution/object_linker.h"
#include "attribution/process_table.h"
#include "attribution/record_builder.h"

namespace weir {
namespace {

using std::chrono::seconds;

constexpr seconds kFactsWait{2};      // another source's opened or process event
constexpr seconds kProxyEndWait{2};   // the proxy's last bytes after the kernel's close
constexpr seconds kDecisionWait{10};  // the proxy's decision after the kernel's close
constexpr std::size_t kHeldBodies = 4;  // largest bodies that one connection may hold back

// What a client opens with: a method of upper-case letters and a space (RFC 9110, section 9.1). HTTP/2's
// preface has the same shape.
bool starts_request(std::span<const std::byte> data) {
  std::size_t letters = 0;
  const auto at = [&](std::size_t i) { return std::to_integer<char>(data[i]); };
  while (letters < data.size() && letters < 20 && ((at(letters) >= 'A' && at(letters) <= 'Z') || at(letters) == '-')) {
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

bool speaks_for_itself(Decision decision) {
  return decision == Decision::bumped || decision == Decision::refused || decision == Decision::upstream_failed;
}

bool settles_native(Decision decision) {
  return decision == Decision::tunnelled || decision == Decision::passed_through;
}

}  // namespace

struct Engine::State {
  State(EngineConfig config_in, Emit emit_in)
      : config(std::move(config_in)),
        emit(std::move(emit_in)),
        processes(config.limits.processes),
        connections(config.limits.connections),
        linker(config.limits.connections, config.limits.unlinked_bytes) {
    exchange_limits.h1.head = config.limits.head_bytes;
    exchange_limits.capture_bodies = config.capture_bodies;
    exchange_limits.body_bytes = config.limits.body_bytes;
    exchange_limits.pending = config.limits.pending_exchanges;
  }

  void on(ProcessEvent& event);
  void on(ConnectionOpened& event);
  void on(ConnectionClosed& event);
  void on(OwnershipChanged& event);
  void on(Handshake& event);
  void on(DecisionMade& event);
  void on(Bytes& event);
  void on(Gap& event);
  void on(StreamEnded& event);
  void on(Dns& event);

  Connection* connection_for(SocketCookie cookie, Time when);
  bool own(const ProcessKey& process) const { return std::ranges::count(config.own_pids, process.pid) != 0; }
  bool proxied(const Connection& connection) const;
  bool watched(const Connection& connection) const;
  bool decide_role(Connection& connection, Direction direction, std::span<const std::byte> data);
  // The native tap's first bytes need not be the connection's.
  bool joined_late(const Connection& connection, Tap tap) const {
    return tap == Tap::native && (!connection.opened || connection.opened->before_start);
  }
  PlaintextStream& stream(Connection& connection, Tap tap, const TlsObjectId& object);
  void count(Connection& connection, Tap tap, const PlaintextStream::Account& account);
  void supersede_native(Connection& connection);
  void hold(Connection& connection, Tap tap, http::Exchange exchange);

  bool facts_known(const Connection& connection);
  // When the first held exchange may go: the past: now; empty: not before another event comes.
  std::optional<Time> release_time(const Connection& connection, const HeldExchange& held);
  std::optional<Time> end_time(const Connection& connection);
  void settle(Connection& connection);
  void wait_for_process(Connection& connection, std::uint32_t pid);
  void write(Connection& connection, const HeldExchange& held);
  void end_streams(Connection& connection, Time when);
  void account_for_loss_at_end(Connection& connection);
  void end(Connection& connection, Time when, bool ended);

  EngineConfig config;
  Emit emit;
  EngineCounters counters;
  http::ExchangeLimits exchange_limits;
  ProcessTable processes;
  ConnectionTable connections;
  ObjectLinker linker;
  std::unordered_multimap<std::uint32_t, SocketCookie> waiting_for_process;
  Time latest{};  // the latest time heard of, by events too: what waits starts to wait here
  Time now{};     // by advance() alone: only it can end a wait
};

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
  Connection* connection = connection_for(event.cookie, event.time);
  if (connection == nullptr) return;
  if (!connection->opened) {
    connection->opened = std::move(event);
  } else {
    ConnectionOpened& known = *connection->opened;
    if (known.tuple.local.address.family == IpAddress::Family::unknown) known.tuple.local = event.tuple.local;
    if (known.tuple.peer.address.family == IpAddress::Family::unknown) known.tuple.peer = event.tuple.peer;
    if (!known.owner) known.owner = event.owner;
    if (known.network_namespace_cookie == 0) known.network_namespace_cookie = event.network_namespace_cookie;
  }
  if (!connection->owner) connection->owner = connection->opened->owner;
  // Of a connection that is older than the source, the kernel may not say who opened it: its first bytes will.
  if (connection->opened->accepted) connection->role = Role::server;
  if (!connection->opened->accepted && !connection->opened->before_start) connection->role = Role::client;
  settle(*connection);
}

void Engine::State::on(ConnectionClosed& event) {
  Connection* connection = connections.find(event.cookie);
  if (connection == nullptr) return;
  if (!connection->closed) {
    connection->closed = std::move(event);
    connection->closed_since = latest;
    if (!connection->superseded) account_for_loss_at_end(*connection);
    for (auto& [object, one] : connection->native) one->finish(connection->closed->time);
  } else {
    ConnectionClosed& known = *connection->closed;
    if (!known.bytes_sent) known.bytes_sent = event.bytes_sent;
    if (!known.bytes_received) known.bytes_received = event.bytes_received;
    if (known.error == 0) known.error = event.error;
  }
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
}

void Engine::State::on(DecisionMade& event) {
  Connection* connection = connection_for(event.cookie, event.time);
  if (connection == nullptr) return;
  const Decision decision = event.decision;
  connection->decision = std::make_shared<const DecisionMade>(std::move(event));
  connection->role = Role::client;
  // A failure ends the exchange that is open; any other decision is about the next request.
  const bool about_open_exchange = decision == Decision::refused || decision == Decision::upstream_failed;
  if (about_open_exchange || !connection->proxy || connection->proxy->idle()) {
    connection->active_decision = connection->decision;
  }
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
  const std::uint64_t unparsed = plaintext.unparsed_bytes();
  count(*connection, event.tap, plaintext.bytes(event.direction, event.offset, event.data, event.time));
  counters.unparsed_bytes += plaintext.unparsed_bytes() - unparsed;
  connection->spoke_http = connection->spoke_http || plaintext.spoke_http();
  settle(*connection);
}

void Engine::State::on(Gap& event) {
  Connection* connection = connection_for(event.cookie, event.time);
  if (connection == nullptr || !watched(*connection)) return;
  if (event.tap == Tap::native && connection->superseded) return;
  if (connection->role == Role::undecided) return count(*connection, event.tap, {.missing = event.length});
  PlaintextStream& plaintext = stream(*connection, event.tap, event.object);
  if (joined_late(*connection, event.tap)) plaintext.join_at(event.direction, event.offset);
  count(*connection, event.tap, plaintext.gap(event.direction, event.offset, event.length, event.time));
  settle(*connection);
}

void Engine::State::on(StreamEnded& event) {
  Connection* connection = connections.find(event.cookie);
  if (connection == nullptr || !watched(*connection) || connection->role == Role::undecided) return;
  if (event.tap == Tap::native && connection->superseded) return;
  stream(*connection, event.tap, event.object).end(event.direction, event.time);
  if (event.tap == Tap::proxy) connection->proxy_ended_since = latest;
  settle(*connection);
}

void Engine::State::on(Dns& event) {
  if (own(event.process)) return;
  ++counters.records;
  emit(dns_record(config, event, processes.find(event.process)));
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

bool Engine::State::proxied(const Connection& connection) const {
  if (connection.decision) return true;
  return connection.opened &&
         std::ranges::find(config.proxy_listeners, connection.opened->tuple.peer) != config.proxy_listeners.end();
}

// Whether the connection is one that records speak of.
bool Engine::State::watched(const Connection& connection) const {
  if (own(connection.owner) || (connection.opened && own(connection.opened->owner))) return false;
  return connection.role != Role::server || config.ingress;
}

// False while the bytes don't show yet on which side of the connection the process stands.
bool Engine::State::decide_role(Connection& connection, Direction direction, std::span<const std::byte> data) {
  if (connection.role != Role::undecided) return true;
  const bool sent = direction == Direction::sent;
  if (starts_request(data)) connection.role = sent ? Role::client : Role::server;
  if (starts_response(data)) connection.role = sent ? Role::server : Role::client;
  return connection.role != Role::undecided;
}

PlaintextStream& Engine::State::stream(Connection& connection, Tap tap, const TlsObjectId& object) {
  std::unique_ptr<PlaintextStream>& slot = tap == Tap::proxy ? connection.proxy : connection.native[object];
  if (!slot) {
    const Direction requests = connection.role == Role::server ? Direction::received : Direction::sent;
    slot = std::make_unique<PlaintextStream>(
        requests, exchange_limits,
        [this, &connection, tap](http::Exchange exchange) { hold(connection, tap, std::move(exchange)); });
  }
  return *slot;
}

void Engine::State::count(Connection& connection, Tap tap, const PlaintextStream::Account& account) {
  TapAccount& total = tap == Tap::proxy ? connection.proxy_account : connection.native_account;
  total.fresh_bytes += account.fresh;
  total.gap_bytes += account.missing;
  counters.gap_bytes += account.missing;
  counters.duplicate_bytes_dropped += account.duplicate;
}

void Engine::State::supersede_native(Connection& connection) {
  if (connection.superseded) return;
  connection.superseded = true;
  counters.duplicate_bytes_dropped += connection.native_account.fresh_bytes;
  connection.native_account = {};
  connection.native.clear();
  std::erase_if(connection.held, [](const HeldExchange& held) { return held.tap == Tap::native; });
}

void Engine::State::hold(Connection& connection, Tap tap, http::Exchange exchange) {
  if (tap == Tap::native && connection.superseded) return;
  connection.held_body_bytes += exchange.request_body.data.size() + exchange.response_body.data.size();
  connection.held.push_back({.exchange = std::move(exchange),
                             .tap = tap,
                             .decision = tap == Tap::proxy ? connection.active_decision : nullptr,
                             .caller = tap == Tap::native ? connection.native_caller : ProcessKey{},
                             .since = latest});
}

bool Engine::State::facts_known(const Connection& connection) {
  return connection.opened && (!connection.owner || processes.find(connection.owner) != nullptr);
}

std::optional<Time> Engine::State::release_time(const Connection& connection, const HeldExchange& held) {
  const bool undecided = held.tap == Tap::native && proxied(connection) &&
                         !(connection.decision && settles_native(connection.decision->decision));
  if (undecided) {
    if (connection.closed) return connection.closed_since + kDecisionWait;
    return std::nullopt;
  }
  return facts_known(connection) ? Time::min() : held.since + kFactsWait;
}

// When a closed connection is over: at once, or when its other source has had the time to say what it knows.
std::optional<Time> Engine::State::end_time(const Connection& connection) {
  if (!connection.closed) {  // without the kernel's word (no native tap), the proxy's end is the connection's
    const bool proxy_ended = connection.proxy && connection.proxy->ended();
    return proxy_ended ? std::optional(connection.proxy_ended_since + kProxyEndWait) : std::nullopt;
  }
  if (proxied(connection) && !connection.decision) return connection.closed_since + kDecisionWait;
  const bool proxy_done = !connection.superseded || (connection.proxy && connection.proxy->ended());
  const bool totals_known = connection.closed->bytes_sent && connection.closed->bytes_received;
  if (!proxy_done || (connection.superseded && !totals_known)) return connection.closed_since + kProxyEndWait;
  return facts_known(connection) ? Time::min() : connection.closed_since + kFactsWait;
}

void Engine::State::settle(Connection& connection) {
  std::optional<Time> wait;
  while (!connection.held.empty()) {
    const bool too_many = connection.held.size() > config.limits.pending_exchanges ||
                          connection.held_body_bytes > kHeldBodies * config.limits.body_bytes;
    wait = release_time(connection, connection.held.front());
    if (!too_many && (!wait || *wait > now)) break;
    const HeldExchange held = std::move(connection.held.front());
    connection.held.pop_front();
    connection.held_body_bytes -= held.exchange.request_body.data.size() + held.exchange.response_body.data.size();
    wait.reset();
    write(connection, held);
  }

  const std::optional<Time> ends = end_time(connection);
  if (ends && *ends <= now) return end(connection, connection.closed ? connection.closed->time : now, true);
  if (ends && (!wait || *ends < *wait)) wait = ends;
  connections.set_deadline(connection, wait);
  wait_for_process(connection, wait && connection.opened ? connection.owner.pid : 0);
}

// pid 0: waits no more.
void Engine::State::wait_for_process(Connection& connection, std::uint32_t pid) {
  if (connection.waits_for_pid == pid) return;
  const auto [first, last] = waiting_for_process.equal_range(connection.waits_for_pid);
  const auto entry = std::find_if(first, last, [&](const auto& one) { return one.second == connection.cookie; });
  if (entry != last) waiting_for_process.erase(entry);
  connection.waits_for_pid = pid;
  if (pid != 0) waiting_for_process.emplace(pid, connection.cookie);
}

void Engine::State::write(Connection& connection, const HeldExchange& held) {
  if (!watched(connection)) return;
  const ProcessKey key = held.caller ? held.caller : connection.owner;
  if (own(key)) return;
  ++counters.records;
  ++counters.exchanges;
  const RecordContext context{config, connection, processes.find(key), key, proxied(connection)};
  emit(exchange_record(context, held, connection.exchanges++));
}

// The kernel says how much plaintext there was; what is missing at the very end shows only here.
void Engine::State::account_for_loss_at_end(Connection& connection) {
  const ConnectionClosed& closed = *connection.closed;
  if (connection.native.empty() && watched(connection) && connection.role == Role::client &&
      closed.plaintext_sent.value_or(0) + closed.plaintext_received.value_or(0) > 0) {
    stream(connection, Tap::native, {});
  }
  if (connection.native.empty()) return;
  PlaintextStream& last = *connection.native.rbegin()->second;
  const auto lose = [&](Direction direction, std::optional<std::uint64_t> total) {
    std::uint64_t accounted = 0;
    for (const auto& [object, one] : connection.native) accounted += one->next_offset(direction);
    if (!total || *total <= accounted) return;
    count(connection, Tap::native, last.gap(direction, last.next_offset(direction), *total - accounted, closed.time));
  };
  lose(Direction::sent, closed.plaintext_sent);
  lose(Direction::received, closed.plaintext_received);
  for (auto& [object, one] : connection.native) {
    one->end(Direction::sent, closed.time);
    one->end(Direction::received, closed.time);
  }
}

void Engine::State::end_streams(Connection& connection, Time when) {
  for (auto& [object, one] : connection.native) one->finish(when);
  if (connection.proxy) connection.proxy->finish(when);
}

// `ended`: the connection is over; otherwise only our memory of it is.
void Engine::State::end(Connection& connection, Time when, bool ended) {
  connection.cut_short = !ended;
  end_streams(connection, when);
  for (const HeldExchange& held : connection.held) write(connection, held);
  connection.held.clear();

  const bool known = connection.opened || connection.role == Role::client;
  if (known && watched(connection)) {
    const ProcessKey key = connection.opened && connection.opened->owner ? connection.opened->owner : connection.owner;
    Process* process = processes.find(key);
    if (process != nullptr) {
      process->connections += 1;
      process->readable_connections += readable(connection) ? 1 : 0;
    }
    ++counters.records;
    emit(connection_record({config, connection, process, key, proxied(connection)}));
  }
  wait_for_process(connection, 0);
  connections.erase(connection.cookie, ended);
}

Engine::Engine(EngineConfig config, Emit emit)
    : state_(std::make_unique<State>(std::move(config), std::move(emit))) {}

Engine::~Engine() = default;

void Engine::consume(Event event) {
  State& state = *state_;
  ++state.counters.events;
  state.latest = std::max(state.latest, time_of(event));
  state.linker.take(std::move(event), [&](Event linked) {
    std::visit([&](auto& one) { state.on(one); }, linked);
  });
}

void Engine::set_proxy_listeners(std::vector<Endpoint> listeners) {
  state_->config.proxy_listeners = std::move(listeners);
}

void Engine::set_own_pids(std::vector<std::uint32_t> pids) { state_->config.own_pids = std::move(pids); }

void Engine::advance(Time now) {
  State& state = *state_;
  state.now = std::max(state.now, now);
  state.latest = std::max(state.latest, now);
  state.linker.advance(state.now);
  while (Connection* connection = state.connections.due(state.now)) state.settle(*connection);
  state.processes.forget_exited(state.now);
}

void Engine::finish(Time now) {
  State& state = *state_;
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
