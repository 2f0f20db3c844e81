// Makes records of what the engine has joined. The names are OpenTelemetry's where one exists, weir.* else;
// DESIGN's table is the whole list. A fact that isn't known is left out; nothing is guessed.
#pragma once

#include "attribution/connection.h"
#include "attribution/engine.h"
#include "attribution/process_table.h"

namespace weir {

// `process` may be null: not known. `proxied`: the connection's peer is the proxy, not the destination.
struct RecordContext {
  const EngineConfig& config;
  const Connection& connection;
  const Process* process = nullptr;
  ProcessKey process_key;  // known even when nothing else of the process is
  bool proxied = false;
  Time probed_since{};
};

RecordPtr exchange_record(const RecordContext& context, HeldExchange&& held);
RecordPtr connection_record(const RecordContext& context);
RecordPtr policy_record(const EngineConfig& config, const PolicyDecided& decided, const Process* process);
RecordPtr dns_record(const EngineConfig& config, const Dns& dns, const Process* process);

}  // namespace weir
