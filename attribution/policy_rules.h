// The rules themselves and what they say of a connection or a request: values and pure functions, no file, no
// clock, no lock. agent/policy_file.h reads them from YAML; bpf/policy_table.h gives the kernel what it can
// judge.
//
// First match wins. Within a rule every kind that is named must match, one of its alternatives each. What is
// not known yet makes a rule a "maybe": it then decides only together with all that could decide in its
// place.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "attribution/identity.h"
#include "attribution/policy.h"

namespace weir {

enum class PolicyAction : std::uint8_t { allow, deny, log };
std::string_view name_of(PolicyAction action);

// Exactly `text`, or all that begins with it.
struct TextPattern {
  std::string text;
  bool prefix = false;
};

struct AddressRange {
  IpAddress address;  // bits beyond `bits` are 0
  unsigned bits = 0;  // of the network: up to 32 or 128

  bool contains(const IpAddress& other) const;
  std::string to_string() const;  // "10.0.0.0/8"
};

struct PortRange {
  std::uint16_t first = 0;
  std::uint16_t last = 0;
};

struct HeaderPattern {
  std::string name;                  // in lower case
  std::optional<std::string> value;  // absent: any
};

// Of a TLS connection's ClientHello.
enum class HelloTrait : std::uint8_t { encrypted, without_server_name };

// The beginning of a container's id, or a container's name.
struct ContainerPattern {
  std::string text;
  bool is_name = false;
};

// Each list holds alternatives; an empty one matches all.
struct PolicyRule {
  std::string name;
  PolicyAction action = PolicyAction::allow;
  unsigned line = 0;                       // in its file
  std::vector<TextPattern> executables{};  // a path, or a prefix ending in "/"; without any "/" a file's name
  std::vector<std::uint32_t> users{};
  std::vector<ContainerPattern> containers{};
  std::vector<std::string> namespaces{};  // of Kubernetes
  std::vector<std::string> cgroups{};     // "/a/b": it and all below it
  std::vector<std::string> hosts{};       // "example.org"; ".example.org": it and all below it
  std::vector<AddressRange> addresses{};
  std::vector<PortRange> ports{};
  std::vector<HelloTrait> hellos{};
  std::vector<std::string> methods{};  // in upper case
  std::vector<TextPattern> paths{};    // normalized
  std::vector<HeaderPattern> headers{};

  bool asks_who() const { return asks_executable_or_user() || asks_container() || !cgroups.empty(); }
  bool asks_request() const { return !methods.empty() || !paths.empty() || !headers.empty(); }
  // What only the egress tap can judge.
  bool needs_proxy() const { return asks_request() || !hosts.empty() || !hellos.empty() || asks_container(); }
  bool asks_container_name() const { return std::ranges::any_of(containers, &ContainerPattern::is_name); }

 private:
  bool asks_container() const { return !containers.empty() || !namespaces.empty(); }
  bool asks_executable_or_user() const { return !executables.empty() || !users.empty(); }
};

struct Policy {
  PolicyAction fallback = PolicyAction::allow;  // allow or deny
  std::vector<PolicyRule> rules;
};

inline constexpr std::size_t kMostPolicyRules = 4096;
inline constexpr std::size_t kLongestRuleName = 63;

// The path of a target as rules compare it: without query, percent-decoded, "\" as "/", without empty
// segments, without ";parameters" and dot segments. What several servers take for the same is the same here.
std::string normalized_path(std::string_view target);
// All that servers may take it for, that one first: each that rewrites a path does some of this, in another
// order. A deny or log rule matches when one does, an allow rule when all do. A plain path has one.
std::vector<std::string> path_readings(std::string_view target);

// All that a decision can ask about. `client` may be null: not known. A request without a `hello` is one in
// the clear.
struct PolicySubject {
  const ClientFacts* client = nullptr;
  const Destination& destination;
  const RequestSummary* request = nullptr;
  std::optional<HelloFacts> hello{};
};

enum class Answer : std::uint8_t { no, maybe, yes };

// How one rule answers, and why in a few words: for people.
struct RuleAnswer {
  Answer answer = Answer::no;
  std::string why;
};

// A policy made ready to be asked. Immutable, so any number of threads may ask at once.
class CompiledPolicy {
 public:
  explicit CompiledPolicy(Policy policy);
  ~CompiledPolicy();
  CompiledPolicy(const CompiledPolicy&) = delete;
  CompiledPolicy& operator=(const CompiledPolicy&) = delete;

  Verdict decide(const PolicySubject& subject) const;
  // The same without the index, one rule after the other: what the index is held against.
  Verdict decide_slowly(const PolicySubject& subject) const;
  RuleAnswer explain(std::size_t rule, const PolicySubject& subject) const;

  const Policy& policy() const { return policy_; }

 private:
  struct Index;
  Policy policy_;
  std::unique_ptr<const Index> index_;
};

}  // namespace weir
