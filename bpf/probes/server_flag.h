// Where a TLS library notes that an object of its is a server's: a server's object holds the random bytes of
// its client's ClientHello, and must not be taken for that client's.
#pragma once

#include <cstdint>
#include <expected>
#include <string>

#include "bpf/probes/machine_code.h"
#include "bpf/wire.h"

namespace weir::bpf {

// The object is a server's when what is at `at` of it is not 0: a bit of the byte, the byte, or an int.
struct ServerFlag {
  std::uint32_t at = 0;                  // 1 to kMaxServerFlagAt
  std::uint32_t flag = WIRE_SERVER_BIT;  // the bit's number, or of enum wire_server_flag

  bool operator==(const ServerFlag&) const = default;
};

constexpr std::uint32_t kMaxServerFlagAt = 0xfff;  // what a site's cookie has room for

// From the code of the library's own function that tells it, by running that on a sketch of the processor
// with objects that have one bit set each:
//   int SSL_is_server(const SSL*)   OpenSSL, BoringSSL
// An error unless that is decided by one member alone, with or without a type before it that is 0 for TLS
// (OpenSSL 3.2 and later). Any bytes may be given.
std::expected<ServerFlag, std::string> find_server_flag(const FunctionCode& is_server);

}  // namespace weir::bpf
