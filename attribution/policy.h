// The two synchronous questions that stand beside the event stream: who is behind an accepted socket, and may
// it speak. Both are asked on the proxy's data path before a byte is forwarded, so both must be answered from
// a snapshot, without locks that another thread can hold for long.
#pragma once

#include <cstdint>
#include <expected>
#include <string>

#include "attribution/identity.h"

namespace weir {

struct Client {
  SocketCookie cookie;
  ProcessKey process;
  std::uint64_t network_namespace_cookie = 0;
};

// Finds the client behind a connection that the proxy accepted.
// `client_view` is the tuple as the client sees it: local = what accept() returned, peer = our listener.
// Thread-safe. The error is a sentence for the log. A client that can't be resolved is refused by the proxy.
class ClientResolver {
 public:
  virtual ~ClientResolver() = default;
  virtual std::expected<Client, std::string> resolve(const Tuple& client_view) = 0;
};

struct Destination {
  std::string name;  // as the client asked: a host name in lower case, or a literal address without brackets
  std::uint16_t port = 0;
};

// What is known of a request when the verdict is asked for; all empty when only a connection is known.
struct RequestSummary {
  std::string method;
  std::string target;
};

struct Verdict {
  bool allowed = true;
  std::string rule;  // the rule that decided, "" for the default
};

// Thread-safe, never blocks.
class PolicyDecider {
 public:
  virtual ~PolicyDecider() = default;
  virtual Verdict decide(const Client& client, const Destination& destination,
                         const RequestSummary* request) = 0;
};

}  // namespace weir
