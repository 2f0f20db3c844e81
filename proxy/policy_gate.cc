// One verdict out of several: the first refusal counts, and inspection is wanted if any name wants it.
#include "proxy/policy_gate.h"

#include <optional>
#include <utility>

#include "attribution/text.h"
#include "proxy/destination.h"

namespace weir::proxy {
namespace {

constexpr const char* kDefault = "default";

Verdict both(Verdict first, Verdict second) {
  if (!first.allowed) return first;
  if (!second.allowed || second.inspect) return second;
  if (!first.inspect && second.log && !first.log) return second;
  return first;
}

}  // namespace

Verdict PolicyGate::connection(const Destination& destination) {
  return publish_refused(judge(destination, nullptr), destination, nullptr);
}

Verdict PolicyGate::unnamed(const Destination& destination, const std::string& why) {
  Verdict verdict = judge({"", destination.port, destination.address}, nullptr);
  if (verdict.undecided) verdict = {.allowed = false, .rule = why};
  return publish_refused(std::move(verdict), destination, nullptr);
}

Verdict PolicyGate::request(const Destination& destination, const Request& request) {
  Verdict verdict = judge(destination, &request);
  if (verdict.allowed && verdict.log) publish(verdict, destination, &request);
  return publish_refused(std::move(verdict), destination, &request);
}

Verdict PolicyGate::early_request(const Destination& destination, const Request& request) {
  return publish_refused(judge(destination, &request), destination, &request);
}

Verdict PolicyGate::restrict(Upstream& upstream, const Destination& destination, const Request* request) {
  Destination to = destination;
  std::optional<Verdict> kept;
  Verdict refused;
  const bool some_left = upstream.keep([&](const IpAddress& address) {
    to.address = address;
    Verdict verdict = judge(to, request);
    const bool allowed = verdict.allowed;
    if (!allowed)
      refused = std::move(verdict);
    else
      kept = kept ? both(*std::move(kept), std::move(verdict)) : std::move(verdict);
    return allowed;
  });
  if (!some_left) return publish_refused(std::move(refused), to, request);
  if (kept && kept->log && request != nullptr) publish(*kept, to, request);
  return kept.value_or(Verdict());
}

Verdict PolicyGate::every_address(const Upstream& upstream, const Destination& destination,
                                  const Request& request) {
  Destination to = destination;
  std::optional<Verdict> all;
  upstream.each_address([&](const IpAddress& address) {
    if (all && !all->allowed) return;
    to.address = address;
    Verdict verdict = judge(to, &request);
    all = all ? both(*std::move(all), std::move(verdict)) : std::move(verdict);
  });
  Verdict verdict = all ? *std::move(all) : judge(destination, &request);
  if (verdict.allowed && verdict.log) publish(verdict, to, &request);
  return publish_refused(std::move(verdict), to, &request);
}

void PolicyGate::log(const Verdict& verdict, const Destination& destination) {
  if (verdict.log) publish(verdict, destination, nullptr);
}

void PolicyGate::refuse(const Destination& destination, const std::string& why,
                        std::optional<std::uint64_t> stream) {
  DecisionMade refused;
  refused.stream = stream;
  refused.decision = Decision::refused;
  refused.server_name = destination.name;
  refused.server_port = destination.port;
  if (destination.address.family != IpAddress::Family::unknown)
    refused.upstream_peer = Endpoint{destination.address, destination.port};
  refused.rule = why;
  events_.decided(std::move(refused));
}

Verdict PolicyGate::judge(const Destination& destination, const Request* request) {
  if (request == nullptr) return decider_.decide(events_.client(), destination, nullptr);
  // A redirected client connected to an address: what it asks for is a name all the same.
  Destination first = destination;
  if (events_.client().redirected_from && !request->tls_name.empty())
    first.name = request->tls_name;
  else if (events_.client().redirected_from && !request->authority.empty())
    first.name = host_of(request->authority);
  Verdict verdict = decider_.decide(events_.client(), first, &request->summary);
  const auto ask_too = [&](std::string name) {
    const Destination named{std::move(name), destination.port, destination.address};
    verdict = both(std::move(verdict), decider_.decide(events_.client(), named, &request->summary));
  };
  const std::string_view tls_name = request->tls_name;
  const std::string_view authority = request->authority;
  if (verdict.allowed && !tls_name.empty() && tls_name != first.name) ask_too(std::string(tls_name));
  const bool says_more = !authority.empty() && authority != first.name && authority != tls_name;
  if (!verdict.allowed || !says_more) return verdict;
  std::string name = host_of(authority);
  if (name != first.name && name != tls_name) ask_too(std::move(name));
  return verdict;
}

Verdict PolicyGate::publish_refused(Verdict verdict, const Destination& destination, const Request* request) {
  if (verdict.allowed) return verdict;
  publish(verdict, destination, request);
  refuse(destination, verdict.rule.empty() ? kDefault : verdict.rule,
         request != nullptr ? request->stream : std::nullopt);
  return verdict;
}

void PolicyGate::publish(const Verdict& verdict, const Destination& destination, const Request* request) {
  PolicyDecided decided;
  decided.allowed = verdict.allowed;
  decided.rule = verdict.rule.empty() ? kDefault : verdict.rule;
  decided.server_name = destination.name;
  decided.peer = {destination.address, destination.port};
  if (request != nullptr) {
    decided.method = request->summary.method;
    decided.target = request->summary.target;
  }
  events_.policy(std::move(decided));
}

}  // namespace weir::proxy
