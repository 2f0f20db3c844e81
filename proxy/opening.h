// What a connection begins with, once it is known where it goes: TLS and for which name, a request, or
// something else. Nothing is taken: what was looked at is put back.
#pragma once

#include <chrono>
#include <string>
#include <vector>

#include "attribution/policy.h"
#include "proxy/stream.h"

namespace weir::proxy {

struct Opening {
  bool is_tls = false;
  bool has_encrypted_hello = false;
  bool is_unreadable = false;  // a server may find a name in it where we find none (client_hello.h)
  bool is_request = false;     // of HTTP/1, to an origin
  bool server_spoke = false;   // before the client did
  std::string server_name;
  std::vector<std::string> protocols;  // that the ClientHello offers
};

inline HelloFacts facts_of(const Opening& opening) {
  return {opening.is_tls, !opening.server_name.empty(), opening.has_encrypted_hello};
}

// In some protocols the server speaks first: waiting for the client alone would wait for ever.
Task<void> wait_for_either_side(Stream& client, Stream& upstream, std::chrono::milliseconds idle_timeout);

// `upstream` may be null: there is none that could speak. A request is only looked for if it may be one.
Task<Opening> peek_opening(Stream& client, Stream* upstream, std::chrono::milliseconds timeout,
                           bool may_be_request);

}  // namespace weir::proxy
