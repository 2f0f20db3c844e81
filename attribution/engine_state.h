// The engine's inside, shared by its two files: engine.cc says what each event changes, settlement.cc when an
// exchange or a connection is ripe to be written.
#pragma once

#include <algorithm>
#include <deque>
#include <unordered_map>

#include "attribution/connection.h"
#include "attribution/engine.h"
#include "attribution/object_linker.h"
#include "attribution/process_table.h"

namespace weir {

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
    early_bytes.most = config.limits.early_bytes;
    exchange_limits.early_bytes = &early_bytes;
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
  void on(TlsLibraryNoted& event);
  void on(PolicyDecided& event);

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
  void count(Connection& connection, Tap tap, Direction direction, const PlaintextStream::Account& account);
  void finish(Connection& connection, Tap tap, PlaintextStream& plaintext, Time when);
  void supersede_native(Connection& connection);
  void hold(Connection& connection, Tap tap, bool cleartext, http::Exchange&& exchange);

  void write_interim(Connection& connection, HeldExchange&& held);
  bool calls_may_follow(const Connection& connection) const;
  bool facts_known(const Connection& connection);
  // When the first held exchange may go: the past: now; empty: not before another event comes.
  std::optional<Time> release_time(const Connection& connection, const HeldExchange& held);
  std::optional<Time> end_time(const Connection& connection);
  std::optional<Time> give_held_back(Connection& connection);
  void settle(Connection& connection);
  void wait_for_process(Connection& connection, std::uint32_t pid);
  void write(Connection& connection, HeldExchange&& held);
  void account_for_loss_at_end(Connection& connection);
  void end_native(Connection& connection);
  static void end_cleartext(const ConnectionClosed& closed, PlaintextStream& plaintext);
  void end(Connection& connection, Time when, bool ended);
  void write_policy(bool all);
  void write_first_policy();
  Time reopens_after(const Connection& connection) const;
  void reopen(const ConnectionOpened& event);

  EngineConfig config;
  Emit emit;
  EngineCounters counters;
  http::EarlyBytes early_bytes;
  http::ExchangeLimits exchange_limits;
  Time probed_since{};  // TlsLibraryNoted's without a process
  ProcessTable processes;
  ConnectionTable connections;
  ObjectLinker linker;
  std::deque<PolicyDecided> held_policy;  // until its process's facts have come
  std::unordered_multimap<std::uint32_t, SocketCookie> waiting_for_process;
  Time latest{};  // the latest time heard of, by events too: what waits starts to wait here
  Time now{};     // by advance() alone: only it can end a wait
};

}  // namespace weir
