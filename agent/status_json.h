// What a running agent tells of itself: the facts, and their JSON for `weir status` and `weir coverage`.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "agent/exec_gate.h"
#include "agent/live_policy.h"
#include "agent/targets.h"
#include "attribution/runner.h"
#include "bpf/event_source.h"
#include "proxy/proxy.h"
#include "sinks/sink.h"

namespace weir::agent {

struct AuthorityStatus {
  std::string sha256;    // of the root that signs
  bool overlap = false;  // of a rotation: programs trust the former root, too
};

struct AgentStatus {
  std::uint32_t broker_pid = 0;
  std::uint32_t worker_pid = 0;
  std::uint32_t restarts = 0;
  std::string state_dir;
  bool for_a_command = false;  // ends with its last user
  bool native_wanted = true;
  std::string native_reason;             // why there is no native tap; "" when there is
  std::vector<std::string> native_only;  // filters
  std::vector<std::string> native_except;
  bpf::SourceCounters native;
  Targets::Counts targets;
  bool holds_execs = false;  // programs' first starts wait for their probes
  ExecGateCounters exec_gate;
  bool proxy_wanted = true;
  std::string proxy_address;
  std::string api_address;
  AuthorityStatus authority;
  std::string policy_file;   // "": none
  std::string policy_error;  // why the file as it is now is not in force
  std::string policy_default;
  std::size_t policy_rules = 0;
  LivePolicy::Counters policy;
  proxy::Counters proxy;
  std::vector<proxy::Rejections::Passed> passed_through;
  RunnerCounters engine;
  std::vector<sinks::SinkCounters> sinks;
};

std::string status_json(const AgentStatus& status);
// One JSON line for each process.
std::string coverage_json(const std::vector<Engine::Coverage>& coverage);
// "ready, 2 libraries" or why not.
std::string native_line(const AgentStatus& status);

}  // namespace weir::agent
