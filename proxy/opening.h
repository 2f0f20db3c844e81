// What a connection begins with, once it is known where it goes: TLS and for which name, a request, or
// something else. Nothing is taken: what was looked at is put back.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

#include "attribution/policy.h"
#include "proxy/stream.h"

namespace weir::proxy {

// What a server may read otherwise than we do, or where we read nothing: then no name that we found, or
// didn't find, is the one that it goes by.
enum class Unreadable : std::uint8_t { nothing, hello, request };

struct Opening {
  bool is_tls = false;
  bool has_encrypted_hello = false;
  bool is_request = false;  // of HTTP/1, to an origin
  bool is_http2 = false;    // in the clear, with prior knowledge
  Unreadable unreadable = Unreadable::nothing;
  bool server_spoke = false;  // before the client did
  std::string server_name;
  std::vector<std::string> protocols;  // that the ClientHello offers
};

inline HelloFacts facts_of(const Opening& opening) {
  return {opening.is_tls, !opening.server_name.empty(), opening.has_encrypted_hello};
}

// In some protocols the server speaks first: waiting for the client alone would wait for ever.
Task<void> wait_for_either_side(Stream& client, Stream& upstream, std::chrono::milliseconds idle_timeout);

// A server of HTTP/2 says its SETTINGS at once: it waits for its client all the same (RFC 9113, section 3.4).
bool speaks_http2_first(Stream& upstream);

// `upstream` may be null: there is none that could speak.
Task<Opening> peek_opening(Stream& client, Stream* upstream, std::chrono::milliseconds timeout);

}  // namespace weir::proxy
