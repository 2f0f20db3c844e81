// Certificates that we show to upstreams which ask for one, by the upstream's name. Immutable once made, so
// any number of threads may use it; the keys live in this process.
#pragma once

#include <openssl/ssl.h>

#include <expected>
#include <string>
#include <string_view>
#include <vector>

#include "proxy/proxy.h"
#include "proxy/tls.h"

namespace weir::proxy {

class ClientIdentities {
 public:
  ClientIdentities() = default;
  // The error names what it came from.
  static std::expected<ClientIdentities, Error> read(const std::vector<ClientCertificate>& sources);

  // Before the handshake: shows the first one whose name covers `upstream`, if there is one.
  void use(SSL* ssl, std::string_view upstream) const;

 private:
  struct Identity {
    std::string name;
    Certificate certificate;
    std::vector<Certificate> chain;
    PrivateKey key;
  };
  std::vector<Identity> identities_;
};

}  // namespace weir::proxy
