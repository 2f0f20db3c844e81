// What `weir policy` says of a policy, as text.
#pragma once

#include <string>

#include "attribution/policy_rules.h"

namespace weir::agent {

// One line a rule: what it is, and where it is enforced.
std::string describe_coverage(const Policy& policy, const std::string& file);

// Which rule decides, what was passed over before it, and why.
struct Explanation {
  std::string text;
  bool allowed = true;
};
Explanation explain(const CompiledPolicy& policy, const PolicySubject& subject, const std::string& file);

}  // namespace weir::agent
