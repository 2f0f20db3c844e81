// Asks policy on behalf of one client connection, under each name that a destination goes by, and tells the
// engine what was refused or is to be logged. Every way out of the proxy goes through here.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "attribution/policy.h"
#include "http/message.h"
#include "proxy/connection_events.h"
#include "proxy/upstream.h"

namespace weir::proxy {

// What a refused client reads.
inline std::string refusal_text(const Verdict& verdict) {
  return "refused by policy: " + (verdict.rule.empty() ? std::string("default") : verdict.rule);
}

class PolicyGate {
 public:
  // One request. `tls_name` is what its TLS connection was opened for, `authority` what the request itself
  // names (Host, :authority): none of the names may lead where another may not. Both are "" in the clear,
  // where the destination is made of what the request names.
  struct Request {
    RequestSummary summary;
    std::string_view tls_name{};
    std::string_view authority{};
    std::optional<std::uint64_t> stream{};  // HTTP/2's
  };

  PolicyGate(PolicyDecider& decider, ConnectionEvents& events) : decider_(decider), events_(events) {}

  // These publish a refusal. A connection: at CONNECT, and once its ClientHello names a host.
  Verdict connection(const Destination& destination);
  // A connection that may be for a name which we can't read, whatever `destination` is called: refused, for
  // that reason, where any name could decide otherwise.
  Verdict unnamed(const Destination& destination, const std::string& why);
  // A request on a connection to `destination`, whose address is known: what is to be logged is published,
  // too.
  Verdict request(const Destination& destination, const Request& request);
  // A request before its destination is resolved, of which restrict() will then have the last word.
  Verdict early_request(const Destination& destination, const Request& request);
  // After `upstream` was resolved for the destination, and each time before it connects: leaves out the
  // addresses that are refused; a refusal when none is left. `request` may be null.
  Verdict restrict(Upstream& upstream, const Destination& destination, const Request* request);

  // A request that may go over any of several connections: to none of whose addresses it may be refused.
  Verdict every_address(const Upstream& upstream, const Destination& destination, const Request& request);

  // A connection that will not be opened: published, if a rule wants it told.
  void log(const Verdict& verdict, const Destination& destination);
  // What a rule asks to see won't be seen: refused by that rule.
  void refuse_unseen(Verdict verdict, const Destination& destination);
  // A refusal for a reason that no rule's verdict is: the connection's decision alone.
  void refuse(const Destination& destination, const std::string& why,
              std::optional<std::uint64_t> stream = {});

 private:
  // What was said of a destination, under that of its names which decided.
  struct Judgement {
    Verdict verdict;
    Destination destination;
  };
  static Judgement both(Judgement first, Judgement second);
  Judgement judge(const Destination& destination, const Request* request);
  Judgement ask(Destination destination, const Request* request);
  Verdict publish_refused(Judgement judgement, const Request* request);
  void publish(const Verdict& verdict, const Destination& destination, const Request* request);

  PolicyDecider& decider_;
  ConnectionEvents& events_;
};

}  // namespace weir::proxy
