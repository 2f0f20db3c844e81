// Reads the server name and the protocols that are offered (ALPN) out of a TLS ClientHello that has only been
// peeked at, to decide whether the connection is opened. Bounded; hostile input costs nothing but a verdict.
// It never judges the rest of the hello: that is the TLS library's.
#pragma once

#include <cstddef>
#include <expected>
#include <span>
#include <string>
#include <vector>

namespace weir {

// Bytes of the connection's beginning that are looked at, at most.
inline constexpr std::size_t kMaxClientHello = 64 * 1024;

// `malformed`: a server may take it for the beginning of TLS all the same, and read a name in it.
enum class HelloError { incomplete, not_tls, malformed };

struct ClientHello {
  std::string server_name;  // in lower case, without a final dot; "": none, or `unreadable_name`
  std::vector<std::string>
      protocols;  // as ALPN offers them, in the client's order; none when it is malformed
  // It has an encrypted ClientHello (RFC 9849): then the name may be one that many services share, and the
  // true one is inside. Browsers send one that means nothing, too, which can't be told apart.
  bool has_encrypted = false;
  // It has a server name that is no host name, or several, or extensions that can't be told apart: what a
  // server makes of it is not known.
  bool unreadable_name = false;
};

// `data` is all that the client has sent so far. RFC 8446, 4.1.2 and 5.1; RFC 6066, 3; RFC 7301, 3.1; RFC
// 9849, 5.
std::expected<ClientHello, HelloError> parse_client_hello(std::span<const std::byte> data);

}  // namespace weir
