// What a client asks the proxy for: authorities and absolute targets taken apart, and the lists that a
// destination is held against. Pure functions; they never resolve a name.
#pragma once

#include <cstdint>
#include <expected>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "attribution/identity.h"
#include "attribution/policy.h"

namespace weir::proxy {

// "host:port", "[::1]:443"; without a port, `default_port` if there is one. The name comes out in lower case,
// without brackets and without a final dot. Nothing when it is no authority (RFC 3986, 3.2; no userinfo).
std::optional<Destination> parse_authority(std::string_view text, std::optional<std::uint16_t> default_port);

// What a Host field or an authority names. One that is malformed names what servers take it for: what stands
// before the first colon, without a final dot.
std::string host_of(std::string_view authority);

struct AbsoluteTarget {
  Destination destination;
  std::string authority;    // as the client wrote it, without userinfo: the Host to send
  std::string origin_form;  // "/path?query", or "*" (OPTIONS of the whole server)
};

// "http://host[:port][/path][?query]"; the error says what is wrong in a few words.
std::expected<AbsoluteTarget, std::string> parse_absolute_target(std::string_view target,
                                                                 std::string_view method);

// "example.org" covers that name in any case, ".example.org" it and all below it. `name` is in lower case.
bool covers(std::string_view entry, std::string_view name);

// The entry that covers the name: "example.org" exactly, ".example.org" it and all below it. Null when none.
const std::string* find_passthrough(const std::vector<std::string>& entries, std::string_view name);

// Would a connection to `destination` reach one of `refused`, whatever address of this host it names?
bool reaches_any(const Endpoint& destination, const std::vector<Endpoint>& refused);

}  // namespace weir::proxy
