// Policy as the kernel side's programs look it up: rules in order, each address and port of a rule an entry
// of its own; who a rule asks for as numbered lists that a process is in or not. Pure. Outside of this
// room it is only asked whether a policy fits.
#pragma once

#include <cstdint>
#include <expected>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "attribution/policy_rules.h"
#include "bpf/wire.h"

namespace weir::bpf {

inline constexpr std::size_t kPolicyEntries = 8192;  // of one policy
inline constexpr std::size_t kPolicyPatterns = 16'384;

struct PolicyTable {
  std::vector<wire_policy_rule> rules;
  // By enum wire_policy_kind and value.
  std::map<std::pair<std::uint32_t, std::uint64_t>, wire_policy_lists> lists;
  std::uint32_t fallback = WIRE_POLICY_ALLOW;
};

// The error says which limit the policy is beyond.
std::expected<PolicyTable, std::string> make_policy_table(const Policy& policy);

}  // namespace weir::bpf
