// Where a TLS library keeps the 32 random bytes of its ClientHello: they are on the wire in the clear, so
// they tell which socket an object of the library talks through.
#pragma once

#include <cstdint>
#include <expected>
#include <string>

#include "bpf/probes/machine_code.h"

namespace weir::bpf {

// The bytes are at `random_at` of what the pointer at `pointer_at` of the object points to; with pointer_at
// 0, which no library has, of the object itself.
struct ClientRandom {
  std::uint32_t pointer_at = 0;
  std::uint32_t random_at = 0;

  bool operator==(const ClientRandom&) const = default;
};

// From the code of the library's own functions that tell them, by running these on a sketch of the processor:
//   size_t SSL_get_client_random(const SSL*, unsigned char* out, size_t length)   OpenSSL, BoringSSL
//   void gnutls_session_get_random(session, gnutls_datum_t* client, gnutls_datum_t* server)
// An error unless every path through the function that answers gives the same 32 bytes. Any bytes may be
// given.
std::expected<ClientRandom, std::string> find_client_random(const FunctionCode& get_client_random);
std::expected<ClientRandom, std::string> find_session_random(const FunctionCode& get_random);

}  // namespace weir::bpf
