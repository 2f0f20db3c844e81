// JSON of the agent's status. Must keep its names: scripts read them.
#include "agent/status_json.h"

#include <boost/json.hpp>
#include <chrono>

#include "attribution/record.h"
#include "attribution/text.h"

namespace weir::agent {
namespace {

using boost::json::array;
using boost::json::object;

// ready, off (as asked), or unavailable.
const char* native_state(const AgentStatus& status) {
  if (status.native_reason.empty()) return "ready";
  return status.native_wanted ? "unavailable" : "off";
}

array texts(const std::vector<std::string>& list) {
  return array(list.begin(), list.end());
}

object native_json(const AgentStatus& status) {
  object native{{"state", native_state(status)}, {"targets", status.targets.attached}};
  if (!status.native_reason.empty()) native["reason"] = status.native_reason;
  if (!status.native_only.empty()) native["only"] = texts(status.native_only);
  if (!status.native_except.empty()) native["except"] = texts(status.native_except);
  if (status.targets.failed > 0) native["last_failed_target"] = status.targets.last_error;
  native["holds_execs"] = status.holds_execs;
  if (status.exec_gate.pid != 0) native["exec_gate_pid"] = status.exec_gate.pid;
  return native;
}

object native_counters(const AgentStatus& status) {
  const auto& native = status.native;
  return {{"records", native.records},
          {"bytes", native.bytes},
          {"malformed", native.malformed},
          {"dropped_ring_full", native.ring_full},
          {"dropped_ring_full_bytes", native.ring_full_bytes},
          {"faults", native.faults},
          {"dropped_unreadable_bytes", native.unreadable_bytes},
          {"dropped_unaddressed_bytes", native.unaddressed_bytes},
          {"dropped_table_full", native.table_full},
          {"lost_calls", native.calls_lost},
          {"filtered_connections", native.filtered_connections},
          {"untold_connections", native.untold_connections},
          {"untold_processes", native.untold_processes},
          {"policy_denied", native.policy_refused},
          {"policy_unjudged", native.policy_unjudged},
          {"untold_policy", native.untold_policy},
          {"execs_held", status.exec_gate.held},
          {"execs_let_go_late", status.exec_gate.late},
          {"exec_gate_restarts", status.exec_gate.restarts},
          {"failed_targets", status.targets.failed}};
}

object redirection_counters(const bpf::SourceCounters& native) {
  return {{"redirected_connections", native.redirected_connections},
          {"unredirected_connections", native.unredirected_connections},
          {"steered_connections", native.steered_connections},
          {"refused_datagrams", native.refused_datagrams},
          {"unmarked_children", native.unmarked_children}};
}

object proxy_counters(const proxy::Counters& proxy) {
  return {{"accepted", proxy.accepted},
          {"active", proxy.active},
          {"bumped", proxy.bumped},
          {"tunnelled", proxy.tunnelled},
          {"passed_through", proxy.passed_through},
          {"requests", proxy.requests},
          {"leaves_signed", proxy.leaves_signed},
          {"floods_ended", proxy.floods_ended},
          {"redirected", proxy.redirected},
          {"refused_unresolved", proxy.unresolved_refused},
          {"closed_over_limit", proxy.over_limit_closed},
          {"idle_shed", proxy.idle_shed},
          {"slow_bodies_ended", proxy.slow_bodies_ended},
          {"upstream_failed", proxy.upstream_failed},
          {"client_rejected_certificate", proxy.client_rejected_certificate},
          {"malformed_requests", proxy.malformed_requests}};
}

array passed_through_json(const std::vector<proxy::Rejections::Passed>& passed) {
  array rows;
  for (const auto& [who, until] : passed) {
    object row{{"process.executable.path", who.executable_path},
               {"server.address", who.server_name},
               {"until", to_rfc3339(std::chrono::floor<std::chrono::seconds>(until))}};
    if (!who.container_id.empty()) row["container.id"] = who.container_id;
    rows.push_back(std::move(row));
  }
  return rows;
}

object policy_json(const AgentStatus& status) {
  if (status.policy_file.empty()) return {{"state", "off"}};
  object policy{{"state", status.policy_error.empty() ? "ready" : "outdated"},
                {"file", status.policy_file},
                {"rules", status.policy_rules},
                {"default", status.policy_default}};
  if (!status.policy_error.empty()) policy["error"] = status.policy_error;
  return policy;
}

object policy_counters(const LivePolicy::Counters& policy) {
  return {{"decisions", policy.decisions}, {"denied", policy.refused}, {"logged", policy.logged}};
}

object engine_counters(const RunnerCounters& runner) {
  const EngineCounters& engine = runner.engine;
  return {{"events", engine.events},
          {"records", engine.records},
          {"exchanges", engine.exchanges},
          {"connections_tracked", engine.connections_tracked},
          {"native_bytes", engine.native_bytes},
          {"proxy_bytes", engine.proxy_bytes},
          {"duplicate_bytes_dropped", engine.duplicate_bytes_dropped},
          {"unparsed_bytes", engine.unparsed_bytes},
          {"gap_bytes", engine.gap_bytes},
          {"dropped_unlinked_bytes", engine.unlinked_bytes_dropped},
          {"evicted_connections", engine.connections_evicted},
          {"evicted_processes", engine.processes_evicted},
          {"queue_events_now", runner.queue_events_now},
          {"queue_bytes_now", runner.queue_bytes_now},
          {"dropped_queue_events", runner.queue_dropped_events},
          {"dropped_queue_bytes", runner.queue_dropped_bytes}};
}

array sinks_json(const std::vector<sinks::SinkCounters>& sinks) {
  array rows;
  for (const auto& sink : sinks) {
    rows.push_back(object{{"name", sink.name},
                          {"queued", sink.queued},
                          {"written", sink.written},
                          {"dropped", sink.dropped},
                          {"removed", sink.removed},
                          {"last_error", sink.last_error}});
  }
  return rows;
}

}  // namespace

std::string status_json(const AgentStatus& status) {
  array not_ready;
  if (status.native_wanted && !status.native_reason.empty())
    not_ready.emplace_back("native: " + status.native_reason);
  if (status.proxy_wanted && status.proxy_address.empty()) not_ready.emplace_back("proxy: not listening");
  object proxy{{"state", status.proxy_address.empty() ? "off" : "ready"}};
  if (!status.proxy_address.empty()) proxy["address"] = status.proxy_address;
  if (!status.passed_through.empty()) proxy["passed_through"] = passed_through_json(status.passed_through);
  object api;
  if (!status.api_address.empty()) api["address"] = status.api_address;
  return valid_json(boost::json::serialize(object{
      {"ready", not_ready.empty()},
      {"not_ready", not_ready},
      {"version", WEIR_VERSION},
      {"pid", status.broker_pid},
      {"worker_pid", status.worker_pid},
      {"worker_restarts", status.restarts},
      {"state_dir", status.state_dir},
      {"for_a_command", status.for_a_command},
      {"native", native_json(status)},
      {"proxy", proxy},
      {"api", api},
      {"ca", object{{"sha256", status.authority.sha256}, {"overlap", status.authority.overlap}}},
      {"policy", policy_json(status)},
      {"counters", object{{"native", native_counters(status)},
                          {"redirection", redirection_counters(status.native)},
                          {"proxy", proxy_counters(status.proxy)},
                          {"policy", policy_counters(status.policy)},
                          {"engine", engine_counters(status.engine)}}},
      {"sinks", sinks_json(status.sinks)},
  }));
}

std::string coverage_json(const std::vector<Engine::Coverage>& coverage) {
  std::string lines;
  for (const auto& row : coverage) {
    lines += boost::json::serialize(object{{"process.pid", row.process.key.pid},
                                           {"process.executable.name", row.executable_name},
                                           {"connections", row.connections},
                                           {"readable_connections", row.readable_connections}}) +
             "\n";
  }
  return valid_json(std::move(lines));
}

std::string native_line(const AgentStatus& status) {
  if (!status.native_reason.empty()) return status.native_reason;
  return "ready, " + std::to_string(status.targets.attached) +
         (status.targets.attached == 1 ? " TLS library" : " TLS libraries");
}

}  // namespace weir::agent
