// When an exchange may be written and from which tap, and when a connection is over. Sources have queues of
// their own, so facts about one connection come in any order: what is written too early can't be taken back.
#include "attribution/engine_state.h"
#include "attribution/opaque_reason.h"
#include "attribution/record_builder.h"
#include "attribution/text.h"

namespace weir {
namespace {

using std::chrono::seconds;

constexpr seconds kFactsWait{2};                      // another source's opened or process event
constexpr seconds kProxyEndWait{2};                   // the proxy's last bytes after the kernel's close
constexpr seconds kDecisionWait{10};                  // the proxy's decision after the kernel's close
constexpr std::chrono::milliseconds kCallsWait{250};  // a call's return after the kernel's close
constexpr std::chrono::milliseconds kReasonWait{
    1000};                              // what is found out about a library that was just mapped
constexpr std::size_t kHeldBodies = 4;  // largest bodies that one connection may hold back

bool settles_native(Decision decision) {
  return decision == Decision::tunnelled || decision == Decision::passed_through;
}

// RFC 8441's has a path, as other requests have.
bool asks_for_tunnel(const http::Exchange& exchange) {
  return exchange.request.method == "CONNECT" && exchange.request.protocol.empty();
}

std::size_t body_bytes(const HeldExchange& held) {
  return held.exchange.request_body.data.size() + held.exchange.response_body.data.size();
}

}  // namespace

bool Engine::State::proxied(const Connection& connection) const {
  if (connection.decision || (connection.opened && connection.opened->redirected)) return true;
  return connection.opened && std::ranges::find(config.proxy_listeners, connection.opened->tuple.peer) !=
                                  config.proxy_listeners.end();
}

void Engine::State::supersede_native(Connection& connection) {
  if (connection.superseded) return;
  connection.superseded = true;
  counters.duplicate_bytes_dropped += connection.native_account.fresh_bytes();
  connection.native_account = {};
  connection.spoke_http = connection.proxy && connection.proxy->spoke_http();
  connection.native.clear();
  std::erase_if(connection.held, [](const HeldExchange& held) { return held.tap == Tap::native; });
}

void Engine::State::hold(Connection& connection, Tap tap, bool cleartext, http::Exchange&& exchange) {
  if (tap == Tap::native && connection.superseded) return;
  const bool tunnels = cleartext && asks_for_tunnel(exchange);
  if (tunnels && exchange.upgraded) connection.tunnel_to = exchange.request.target;
  // What the client asks of our own proxy is the way, not what it said to anybody outside.
  if (tunnels && proxied(connection)) return;
  const DecisionPtr& active = connection.active_decision;
  // Before it says anything of a client's TLS the proxy tells the handshake.
  if (tap == Tap::proxy && !connection.tls.seen) {
    const bool opened_nothing = to_lower(exchange.request.target).starts_with("http://") ||
                                (active && active->decision != Decision::bumped);
    if (opened_nothing) connection.tls.library = TlsLibrary::none;
  }
  DecisionPtr decision = tap == Tap::proxy ? connection.active_decision : nullptr;
  const auto own = tap == Tap::proxy && exchange.stream_id
                       ? connection.stream_decisions.find(*exchange.stream_id)
                       : connection.stream_decisions.end();
  if (own != connection.stream_decisions.end()) {
    decision = own->second;
    if (exchange.final) connection.stream_decisions.erase(own);
  }
  std::list<HeldExchange> one;  // it is made where it stays
  HeldExchange& held =
      one.emplace_back(std::move(exchange), tap, std::move(decision),
                       tap == Tap::native ? connection.native_caller : ProcessKey{}, cleartext, latest);
  if (!held.exchange.final) return write_interim(connection, std::move(held));
  connection.held_body_bytes += body_bytes(held);
  connection.held.splice(connection.held.end(), one);
}

// What waits for facts has no interim records: the next one, or the final one, will have them.
void Engine::State::write_interim(Connection& connection, HeldExchange&& held) {
  const std::optional<Time> ready = release_time(connection, held);
  if (ready && *ready <= now) write(connection, std::move(held));
}

bool Engine::State::facts_known(const Connection& connection) {
  if (!connection.opened) return false;
  if (!connection.owner) return true;
  const Process* process = processes.find(connection.owner);
  const ConnectionOpened& opened = *connection.opened;
  return process != nullptr && (connection.owner != opened.owner || process->reached(opened.owner_exec_id));
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

// A goroutine closes the socket while another is still on its way back from writing to it.
bool Engine::State::calls_may_follow(const Connection& connection) const {
  if (connection.tls.library != TlsLibrary::go || connection.superseded) return false;
  return std::ranges::any_of(connection.native, [](const auto& one) { return !one.second->ended(); });
}

// When a closed connection is over: at once, or when its other source has had the time to say what it knows.
std::optional<Time> Engine::State::end_time(const Connection& connection) {
  if (!connection.closed) {  // without the kernel's word (no native tap), the proxy's end is the connection's
    const bool proxy_ended = connection.proxy && connection.proxy->ended();
    return proxy_ended ? std::optional(connection.proxy_ended_since + kProxyEndWait) : std::nullopt;
  }
  if (proxied(connection) && !connection.decision) return connection.closed_since + kDecisionWait;
  if (calls_may_follow(connection)) return connection.closed_since + kCallsWait;
  const bool proxy_done = !connection.superseded || (connection.proxy && connection.proxy->ended());
  const bool totals_known = connection.closed->bytes_sent && connection.closed->bytes_received;
  if (!proxy_done || (proxied(connection) && !totals_known)) return connection.closed_since + kProxyEndWait;
  if (!facts_known(connection)) return connection.closed_since + kFactsWait;
  const bool unsaid = watched(connection) && reason_may_follow(connection, processes.find(connection.owner));
  return unsaid ? connection.closed_since + kReasonWait : Time::min();
}

// Interim copies that their time has come for. When the next one's comes.
std::optional<Time> Engine::State::give_held_back(Connection& connection) {
  std::optional<Time> next;
  const auto look = [&](PlaintextStream& plaintext) {
    const auto due = plaintext.give_held_back(now);
    if (due && (!next || *due < *next)) next = due;
  };
  for (auto& [object, plaintext] : connection.native) look(*plaintext);
  if (connection.proxy) look(*connection.proxy);
  return next;
}

void Engine::State::settle(Connection& connection) {
  const std::optional<Time> interim = give_held_back(connection);
  std::optional<Time> wait;
  while (!connection.held.empty()) {
    const bool too_many = connection.held.size() > config.limits.pending_exchanges ||
                          connection.held_body_bytes > kHeldBodies * config.limits.body_bytes;
    wait = release_time(connection, connection.held.front());
    if (!too_many && (!wait || *wait > now)) break;
    std::list<HeldExchange> ripe;
    ripe.splice(ripe.begin(), connection.held, connection.held.begin());
    connection.held_body_bytes -= body_bytes(ripe.front());
    wait.reset();
    write(connection, std::move(ripe.front()));
  }

  const std::optional<Time> ends = end_time(connection);
  if (ends && *ends <= now) return end(connection, connection.closed ? connection.closed->time : now, true);
  if (ends && (!wait || *ends < *wait)) wait = ends;
  connections.set_deadline(connection, interim && (!wait || *interim < *wait) ? interim : wait);
  wait_for_process(connection, wait && connection.opened ? connection.owner.pid : 0);
}

// pid 0: waits no more.
void Engine::State::wait_for_process(Connection& connection, std::uint32_t pid) {
  if (connection.waits_for_pid == pid) return;
  const auto [first, last] = waiting_for_process.equal_range(connection.waits_for_pid);
  const auto entry =
      std::find_if(first, last, [&](const auto& one) { return one.second == connection.cookie; });
  if (entry != last) waiting_for_process.erase(entry);
  connection.waits_for_pid = pid;
  if (pid != 0) waiting_for_process.emplace(pid, connection.cookie);
}

void Engine::State::write(Connection& connection, HeldExchange&& held) {
  if (!watched(connection)) return;
  const ProcessKey key = held.caller ? held.caller : connection.owner;
  if (own(key)) return;
  ++counters.records;
  if (held.exchange.final) {
    ++counters.exchanges;
    connection.exchanges +=
        held.cleartext && held.exchange.upgraded && asks_for_tunnel(held.exchange) ? 0 : 1;
  }
  const RecordContext context{config, connection,          processes.find(key),
                              key,    proxied(connection), probed_since};
  emit(exchange_record(context, std::move(held)));
}

// The kernel says how much plaintext there was; what is missing at the very end shows only here.
void Engine::State::account_for_loss_at_end(Connection& connection) {
  const ConnectionClosed& closed = *connection.closed;
  if (connection.native.empty() &&
      closed.plaintext_sent.value_or(0) + closed.plaintext_received.value_or(0) > 0) {
    stream(connection, Tap::native, {});
  }
  if (connection.native.empty()) return;
  PlaintextStream& last = *connection.native.rbegin()->second;
  const auto lose = [&](Direction direction, std::optional<std::uint64_t> total) {
    std::uint64_t accounted = 0;
    for (const auto& [object, one] : connection.native) accounted += one->next_offset(direction);
    if (!total || *total <= accounted) return;
    count(connection, Tap::native, direction,
          last.gap(direction, last.next_offset(direction), *total - accounted, closed.time));
  };
  lose(Direction::sent, closed.plaintext_sent);
  lose(Direction::received, closed.plaintext_received);
}

void Engine::State::end_native(Connection& connection) {
  const Time when = connection.closed->time;
  if (!connection.superseded && watched(connection) && connection.role == Role::client) {
    account_for_loss_at_end(connection);
  }
  // Under TLS a socket's end doesn't show that the peer had sent all of a body that runs until close.
  for (auto& [object, one] : connection.native) {
    if (!object) end_cleartext(*connection.closed, *one);
    finish(connection, Tap::native, *one, when);
  }
}

// In the clear a side's FIN is the end of what it said, if all before it was seen to pass.
void Engine::State::end_cleartext(const ConnectionClosed& closed, PlaintextStream& plaintext) {
  if (closed.received_end && closed.bytes_received == closed.plaintext_received)
    plaintext.end(Direction::received, closed.time, false);
  if (closed.sent_end && closed.bytes_sent == closed.plaintext_sent)
    plaintext.end(Direction::sent, closed.time, false);
}

void Engine::State::finish(Connection& connection, Tap tap, PlaintextStream& plaintext, Time when) {
  count(connection, tap, Direction::sent, plaintext.finish(when));
}

// `ended`: the connection is over; otherwise only our memory of it is.
void Engine::State::end(Connection& connection, Time when, bool ended) {
  connection.cut_short = !ended;
  if (connection.closed) end_native(connection);
  for (auto& [object, one] : connection.native) finish(connection, Tap::native, *one, when);
  if (connection.proxy) finish(connection, Tap::proxy, *connection.proxy, when);
  for (HeldExchange& held : connection.held) write(connection, std::move(held));
  connection.held.clear();

  const bool known = connection.opened || connection.role == Role::client;
  if (known && watched(connection)) {
    const ProcessKey key =
        connection.opened && connection.opened->owner ? connection.opened->owner : connection.owner;
    Process* process = processes.find(key);
    if (process != nullptr) {
      process->connections += 1;
      const bool blind = !readable(connection) && !nothing_was_said(connection, process, probed_since);
      process->readable_connections += blind ? 0 : 1;
    }
    ++counters.records;
    emit(connection_record({config, connection, process, key, proxied(connection), probed_since}));
  }
  wait_for_process(connection, 0);
  if (ended) {
    connections.end(connection.cookie, reopens_after(connection), now);
  } else {
    connections.erase(connection.cookie);
  }
}

// A proxied connection that carried bytes never reopens: an opening that comes late is the proxy's.
Time Engine::State::reopens_after(const Connection& connection) const {
  const auto& closed = connection.closed;
  const bool refused = closed && closed->error != 0 && closed->bytes_received.value_or(0) == 0;
  return closed && (refused || !proxied(connection)) ? closed->time : Time::max();
}

void Engine::State::reopen(const ConnectionOpened& event) {
  Connection* known = connections.find(event.cookie);
  if (known != nullptr && known->closed && reopens_after(*known) < event.time)
    end(*known, known->closed->time, true);
  connections.reopen(event.cookie, event.time);
}

}  // namespace weir
