// One verdict out of several: the first refusal counts, and inspection is wanted if any name wants it.
#include "proxy/policy_gate.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "attribution/text.h"
#include "proxy/destination.h"
#include "proxy/h2_rules.h"

namespace weir::proxy {
namespace {

constexpr const char* kDefault = "default";

// HTTP/2's clients may split a Cookie field, and a rule means all of it (RFC 9113, 8.2.3). None when it is
// whole.
std::optional<http::Fields> with_whole_cookie(const http::Fields* fields) {
  if (fields == nullptr || std::ranges::count_if(*fields, is_cookie) < 2) return std::nullopt;
  http::Fields joined;
  for (const http::Field& field : *fields) {
    if (is_cookie(field))
      join_cookie(joined, field);
    else
      joined.push_back(field);
  }
  return joined;
}

}  // namespace

PolicyGate::Judgement PolicyGate::both(Judgement first, Judgement second) {
  if (!first.verdict.allowed) return first;
  if (!second.verdict.allowed || second.verdict.inspect) return second;
  if (!first.verdict.inspect && second.verdict.log && !first.verdict.log) return second;
  return first;
}

Verdict PolicyGate::connection(const Destination& destination) {
  return publish_refused(judge(destination, nullptr), nullptr);
}

Verdict PolicyGate::unnamed(const Destination& destination, const std::string& why) {
  Verdict verdict = judge({"", destination.port, destination.address}, nullptr).verdict;
  if (verdict.undecided) verdict = {.allowed = false, .rule = why};
  return publish_refused({std::move(verdict), destination}, nullptr);
}

Verdict PolicyGate::request(const Destination& destination, const Request& request) {
  Judgement judgement = judge(destination, &request);
  if (judgement.verdict.allowed && judgement.verdict.log)
    publish(judgement.verdict, judgement.destination, &request);
  return publish_refused(std::move(judgement), &request);
}

Verdict PolicyGate::early_request(const Destination& destination, const Request& request) {
  return publish_refused(judge(destination, &request), &request);
}

Verdict PolicyGate::restrict(Upstream& upstream, const Destination& destination, const Request* request) {
  Destination to = destination;
  std::optional<Judgement> kept;
  Judgement refused;
  const bool some_left = upstream.keep([&](const IpAddress& address) {
    to.address = address;
    Judgement judgement = judge(to, request);
    const bool allowed = judgement.verdict.allowed;
    if (!allowed)
      refused = std::move(judgement);
    else
      kept = kept ? both(*std::move(kept), std::move(judgement)) : std::move(judgement);
    return allowed;
  });
  if (!some_left) return publish_refused(std::move(refused), request);
  if (kept && kept->verdict.log && request != nullptr) publish(kept->verdict, kept->destination, request);
  return kept ? kept->verdict : Verdict();
}

Verdict PolicyGate::every_address(const Upstream& upstream, const Destination& destination,
                                  const Request& request) {
  Destination to = destination;
  std::optional<Judgement> all;
  upstream.each_address([&](const IpAddress& address) {
    if (all && !all->verdict.allowed) return;
    to.address = address;
    Judgement judgement = judge(to, &request);
    all = all ? both(*std::move(all), std::move(judgement)) : std::move(judgement);
  });
  Judgement judgement = all ? *std::move(all) : judge(destination, &request);
  if (judgement.verdict.allowed && judgement.verdict.log)
    publish(judgement.verdict, judgement.destination, &request);
  return publish_refused(std::move(judgement), &request);
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

PolicyGate::Judgement PolicyGate::ask(Destination destination, const Request* request) {
  if (request == nullptr) {
    Verdict verdict = decider_.decide(events_.client(), destination, nullptr);
    return {std::move(verdict), std::move(destination)};
  }
  RequestSummary summary = request->summary;
  const auto joined = with_whole_cookie(summary.fields);
  if (joined) summary.fields = &*joined;
  Verdict verdict = decider_.decide(events_.client(), destination, &summary);
  return {std::move(verdict), std::move(destination)};
}

PolicyGate::Judgement PolicyGate::judge(const Destination& destination, const Request* request) {
  if (request == nullptr) return ask(destination, nullptr);
  // A redirected client connected to an address: what it asks for is a name all the same.
  Destination first = destination;
  if (events_.client().redirected_from && !request->tls_name.empty())
    first.name = request->tls_name;
  else if (events_.client().redirected_from && !request->authority.empty())
    first.name = host_of(request->authority);
  Judgement judgement = ask(first, request);
  const auto ask_too = [&](std::string name) {
    judgement =
        both(std::move(judgement), ask({std::move(name), destination.port, destination.address}, request));
  };
  const std::string_view tls_name = request->tls_name;
  const std::string_view authority = request->authority;
  if (judgement.verdict.allowed && !tls_name.empty() && tls_name != first.name)
    ask_too(std::string(tls_name));
  const bool says_more = !authority.empty() && authority != first.name && authority != tls_name;
  if (!judgement.verdict.allowed || !says_more) return judgement;
  std::string name = host_of(authority);
  if (name != first.name && name != tls_name) ask_too(std::move(name));
  return judgement;
}

Verdict PolicyGate::publish_refused(Judgement judgement, const Request* request) {
  const auto& [verdict, destination] = judgement;
  if (verdict.allowed) return std::move(judgement.verdict);
  publish(verdict, destination, request);
  refuse(destination, verdict.rule.empty() ? kDefault : verdict.rule,
         request != nullptr ? request->stream : std::nullopt);
  return std::move(judgement.verdict);
}

void PolicyGate::refuse_unseen(Verdict verdict, const Destination& destination) {
  verdict.allowed = false;
  publish_refused({std::move(verdict), destination}, nullptr);
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
