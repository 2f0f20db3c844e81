// What one decision takes: for rules of one kind each, with as many of them as there are, for a request that
// none of them matches (all must be ruled out) and one that the last one matches.
//   build/bench_policy [SECONDS-A-FIGURE]
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <functional>
#include <string>

#include "attribution/policy_rules.h"

namespace {

using namespace weir;

struct Kind {
  const char* name;
  std::function<void(PolicyRule& rule, int number)> ask;
};

std::string numbered(const char* before, int number, const char* after = "") {
  return before + std::to_string(number) + after;
}

const Kind kKinds[] = {
    {"host", [](PolicyRule& rule, int n) { rule.hosts = {numbered(".n", n, ".example.org")}; }},
    {"address",
     [](PolicyRule& rule, int n) {
       rule.addresses = {
           {parse_ip_address(numbered("10.", n / 200, ".") + std::to_string(n % 200) + ".0"), 24}};
     }},
    {"port", [](PolicyRule& rule, int n) { rule.ports = {{static_cast<std::uint16_t>(n + 1000), 60'000}}; }},
    {"path", [](PolicyRule& rule, int n) { rule.paths = {{numbered("/a", n, "/"), true}}; }},
    {"executable", [](PolicyRule& rule, int n) { rule.executables = {{numbered("/opt/a", n, "/"), true}}; }},
    {"header", [](PolicyRule& rule, int n) { rule.headers = {{"x-env", numbered("e", n)}}; }},
};

Policy make_policy(const Kind& kind, int rules, bool last_matches) {
  Policy policy;
  for (int i = 0; i < rules; ++i) {
    PolicyRule rule{.name = std::to_string(i), .action = PolicyAction::deny};
    kind.ask(rule, i);
    policy.rules.push_back(std::move(rule));
  }
  if (last_matches)
    policy.rules.back() = {.name = "last", .action = PolicyAction::deny, .hosts = {"www.example.com"}};
  return policy;
}

// Of this thread's processor time: others may run, too.
double seconds() {
  timespec now{};
  ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) / 1e9;
}

double nanoseconds(const CompiledPolicy& policy, double time) {
  const ClientFacts client{"/usr/bin/curl", 1000, true, "/user.slice/session.scope", ""};
  const Destination destination{"www.example.com", 443, parse_ip_address("192.0.2.7")};
  const http::Fields fields{{"Host", "www.example.com"}, {"User-Agent", "curl/8"}, {"Accept", "*/*"}};
  const RequestSummary request{"GET", "/index/of/things?a=b", &fields};
  std::uint64_t decisions = 0;
  std::uint64_t refused = 0;
  const double begin = seconds();
  double now = begin;
  while (now - begin < time) {
    for (int i = 0; i < 100; ++i) refused += !policy.decide({&client, destination, &request}).allowed;
    decisions += 100;
    now = seconds();
  }
  if (refused != 0 && refused != decisions) std::abort();
  return (now - begin) * 1e9 / static_cast<double>(decisions);
}

}  // namespace

int main(int argc, char** argv) {
  const double time = argc > 1 ? std::atof(argv[1]) : 0.2;
  std::printf("%-12s %8s %12s %12s   ns a decision\n", "rules ask", "rules", "none matches", "last matches");
  for (const Kind& kind : kKinds) {
    for (const int rules : {1, 10, 1000}) {
      const double none = nanoseconds(CompiledPolicy(make_policy(kind, rules, false)), time);
      const double last = nanoseconds(CompiledPolicy(make_policy(kind, rules, true)), time);
      std::printf("%-12s %8d %12.0f %12.0f\n", kind.name, rules, none, last);
    }
  }
}
