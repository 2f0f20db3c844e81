// Reading PEM, and handing what it held to OpenSSL.
#include "proxy/client_identities.h"

#include <openssl/err.h>
#include <openssl/pem.h>

#include <utility>

#include "proxy/destination.h"

namespace weir::proxy {
namespace {

using Bio = std::unique_ptr<BIO, OpensslDeleter<BIO_free_all>>;

Bio open(const std::string& pem) {
  return Bio(BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size())));
}

// A key that is locked by a pass phrase must not make the agent ask for it.
int no_passphrase(char*, int, int, void*) {
  return -1;
}

}  // namespace

std::expected<ClientIdentities, Error> ClientIdentities::read(const std::vector<ClientCertificate>& sources) {
  ClientIdentities made;
  for (const auto& source : sources) {
    Identity identity{source.name, {}, {}, {}};
    const Bio certificates = open(source.pem);
    identity.certificate.reset(PEM_read_bio_X509(certificates.get(), nullptr, no_passphrase, nullptr));
    while (Certificate next{PEM_read_bio_X509(certificates.get(), nullptr, no_passphrase, nullptr)})
      identity.chain.push_back(std::move(next));
    const Bio keys = open(source.pem);
    identity.key.reset(PEM_read_bio_PrivateKey(keys.get(), nullptr, no_passphrase, nullptr));
    const bool fits = identity.certificate && identity.key &&
                      X509_check_private_key(identity.certificate.get(), identity.key.get()) == 1;
    ERR_clear_error();
    if (!fits) {
      const char* const missing = !identity.certificate ? "holds no certificate"
                                  : !identity.key       ? "holds no private key that can be read"
                                                        : "holds a key that is not its certificate's";
      return std::unexpected(
          Error{source.file + " " + missing,
                "give a PEM file with the certificate, then its chain, and its key without a pass phrase"});
    }
    made.identities_.push_back(std::move(identity));
  }
  return made;
}

void ClientIdentities::use(SSL* ssl, std::string_view upstream) const {
  for (const Identity& identity : identities_) {
    if (!covers(identity.name, upstream)) continue;
    SSL_use_certificate(ssl, identity.certificate.get());
    for (const Certificate& next : identity.chain) SSL_add1_chain_cert(ssl, next.get());
    SSL_use_PrivateKey(ssl, identity.key.get());
    return;
  }
}

}  // namespace weir::proxy
