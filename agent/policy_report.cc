// Says what a rule can do on this host and what it can't, and why a rule did or didn't match.
#include "agent/policy_report.h"

#include <algorithm>

namespace weir::agent {
namespace {

std::string place_of(const PolicyRule& rule, const std::string& file) {
  return file + ":" + std::to_string(rule.line);
}

// What keeps the kernel from judging it: it sees who, address and port.
std::string kinds_for_proxy(const PolicyRule& rule) {
  std::string kinds;
  const auto add = [&](bool asked, const char* kind) {
    if (asked) kinds += (kinds.empty() ? "" : ", ") + std::string(kind);
  };
  add(!rule.hosts.empty(), "host");
  add(!rule.containers.empty(), "container");
  add(!rule.namespaces.empty(), "namespace");
  add(!rule.hellos.empty(), "hello");
  add(!rule.methods.empty(), "method");
  add(!rule.paths.empty(), "path");
  add(!rule.headers.empty(), "header");
  return kinds;
}

bool overlap(const AddressRange& a, const AddressRange& b) {
  return a.bits < b.bits ? a.contains(b.address) : b.contains(a.address);
}
bool overlap(const PortRange& a, const PortRange& b) {
  return a.first <= b.last && b.first <= a.last;
}
bool overlap(std::uint32_t a, std::uint32_t b) {
  return a == b;
}

// False only where no connection could match both.
template <class Kind>
bool can_meet(const std::vector<Kind>& a, const std::vector<Kind>& b) {
  if (a.empty() || b.empty()) return true;
  return std::ranges::any_of(a, [&](const Kind& one) {
    return std::ranges::any_of(b, [&](const Kind& other) { return overlap(one, other); });
  });
}
bool can_meet(const PolicyRule& a, const PolicyRule& b) {
  return can_meet(a.addresses, b.addresses) && can_meet(a.ports, b.ports) && can_meet(a.users, b.users);
}

std::string coverage_of(const Policy& policy, std::size_t index) {
  const PolicyRule& rule = policy.rules[index];
  if (rule.needs_proxy()) {
    const std::string others = rule.action == PolicyAction::deny && policy.fallback == PolicyAction::allow
                                   ? "is only recorded"
                                   : "is decided by the rules after this one";
    return "by the egress proxy (" + kinds_for_proxy(rule) +
           "), to which connections that it may match are sent; one that can't be sent there " + others;
  }
  for (std::size_t i = 0; i < index; ++i) {
    const PolicyRule& earlier = policy.rules[i];
    if (!earlier.needs_proxy() || earlier.action == rule.action || !can_meet(earlier, rule)) continue;
    return "in the kernel and by the proxy, but in the kernel not where '" + earlier.name + "' (line " +
           std::to_string(earlier.line) + ") could match first: there the default decides";
  }
  return "in the kernel, at connect, and by the proxy";
}

}  // namespace

std::string describe_coverage(const Policy& policy, const std::string& file) {
  std::string text;
  for (std::size_t i = 0; i < policy.rules.size(); ++i) {
    const PolicyRule& rule = policy.rules[i];
    text += place_of(rule, file) + ": " + std::string(name_of(rule.action)) + " '" + rule.name +
            "': " + coverage_of(policy, i) + "\n";
  }
  text += file + ": " + std::to_string(policy.rules.size()) +
          (policy.rules.size() == 1 ? " rule" : " rules") + ", default " +
          std::string(name_of(policy.fallback)) + "\n";
  return text;
}

Explanation explain(const CompiledPolicy& compiled, const PolicySubject& subject, const std::string& file) {
  const Policy& policy = compiled.policy();
  Explanation explanation;
  bool decided = false;
  for (std::size_t i = 0; i < policy.rules.size() && !decided; ++i) {
    const PolicyRule& rule = policy.rules[i];
    const RuleAnswer answer = compiled.explain(i, subject);
    decided = answer.answer == Answer::yes;
    const char* word = decided ? "matches" : answer.answer == Answer::maybe ? "may match" : "passed over";
    explanation.text += place_of(rule, file) + ": " + std::string(name_of(rule.action)) + " '" + rule.name +
                        "': " + word + (answer.why.empty() ? "" : ": " + answer.why) + "\n";
  }
  if (!decided)
    explanation.text +=
        file + ": no rule matches for certain: default " + std::string(name_of(policy.fallback)) + "\n";
  const Verdict verdict = compiled.decide(subject);
  explanation.allowed = verdict.allowed;
  explanation.text += verdict.allowed ? "allowed" : "denied";
  if (!verdict.rule.empty() && !verdict.inspect) explanation.text += " by '" + verdict.rule + "'";
  if (verdict.log) explanation.text += ", with a policy record";
  if (verdict.inspect)
    explanation.text += " so far; '" + verdict.rule +
                        "' asks for what is inside: the connection is opened and each "
                        "request decided";
  explanation.text += "\n";
  return explanation;
}

}  // namespace weir::agent
