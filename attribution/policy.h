// The two synchronous questions that stand beside the event stream: who is behind an accepted socket, and may
// it speak. Both are asked on the proxy's data path before a byte is forwarded, so both must be answered from
// a snapshot, without locks that another thread can hold for long.
#pragma once

#include <cstdint>
#include <expected>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "attribution/container.h"
#include "attribution/identity.h"
#include "http/message.h"

namespace weir {

// Who a process was when it connected, as rules ask for it.
struct ClientFacts {
  std::string executable_path;  // as seen from the process's own root; "" when not known
  std::optional<std::uint32_t> uid;
  bool cgroup_known = false;
  std::string cgroup_path;                            // of cgroup v2, "/" is the root
  std::string container_id;                           // "" when its cgroup names none
  std::shared_ptr<const ContainerNames> container{};  // null: not known, or in none
  bool container_claimed = false;                     // as in ContainerFacts: it may be another

  bool container_known() const { return cgroup_known && !container_claimed; }
  bool container_names_known() const { return container_known() && (container_id.empty() || container); }
};

// What a connection begins with, as rules ask for it.
struct HelloFacts {
  bool is_tls = false;
  bool has_server_name = false;
  bool has_encrypted = false;  // client_hello.h
};

struct Client {
  SocketCookie cookie;
  ProcessKey process;
  std::uint64_t network_namespace_cookie = 0;
  std::optional<std::uint32_t> uid{};          // when it connected; where the resolver knows
  std::uint64_t exec_id = 0;                   // tells the programs of one process apart; 0: not known
  std::shared_ptr<const ClientFacts> facts{};  // null: not known, or no rule can ask
  // Where it connected to, of a connection that the kernel side redirected to us.
  std::optional<Endpoint> redirected_from{};
  bool steered = false;               // and only for policy's sake: what no rule asks to see is left closed
  std::optional<HelloFacts> hello{};  // not known before the client has said something
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
  std::string name;  // as the client asked: a host name in lower case, or a literal address without brackets;
                     // "" when it is not known yet (redirected, before the ClientHello)
  std::uint16_t port = 0;
  IpAddress address{};  // the one that is, or will be, connected to; unknown before it is resolved
};

// A request, when the verdict is for one. The views and `fields` are valid for the call alone.
struct RequestSummary {
  std::string_view method;
  std::string_view target;               // origin-form, absolute-form or "*", as sent
  const http::Fields* fields = nullptr;  // null: none
  std::string_view authority{};          // HTTP/2's, a field "host" to rules; "": none
};

inline RequestSummary summarize(const http::RequestHead& head) {
  return {head.method, head.target, &head.fields};
}

struct Verdict {
  bool allowed = true;
  bool log = false;  // a "log" rule decided: it is to have a `policy` record
  // What only decrypting shows (method, path, headers) may yet decide otherwise: the connection must be
  // opened and each of its requests asked for; it must be neither tunnelled nor passed through.
  bool inspect = false;
  // Something that was not known when it was asked could have decided otherwise, or have it logged.
  bool undecided = false;
  std::string rule{};  // the rule that decided, or that asks to inspect; "" for the default
};

// Thread-safe, never blocks. Asked more than once for a connection, each time with more: at CONNECT with name
// and port, before connecting with the address, once the SNI is known with that name, and for each request.
// What isn't known yet can't refuse, unless every way it could turn out would. See docs/policy.md.
class PolicyDecider {
 public:
  virtual ~PolicyDecider() = default;
  virtual Verdict decide(const Client& client, const Destination& destination,
                         const RequestSummary* request) = 0;
};

}  // namespace weir
