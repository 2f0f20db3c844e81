// TLS contexts: the client side's, one for each name with a leaf of the local CA, and the upstream side's,
// which verifies. The leaves' key is made at start and lives in this process only; the CA's key never comes
// here.
#pragma once

#include <openssl/ssl.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <expected>
#include <filesystem>
#include <list>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "ca/ca.h"
#include "proxy/proxy.h"

namespace weir::proxy {

template <auto Free>
struct OpensslDeleter {
  template <typename T>
  void operator()(T* object) const {
    Free(object);
  }
};
using SslContext = std::unique_ptr<SSL_CTX, OpensslDeleter<SSL_CTX_free>>;
using Ssl = std::unique_ptr<SSL, OpensslDeleter<SSL_free>>;
using Certificate = std::unique_ptr<X509, OpensslDeleter<X509_free>>;
using PrivateKey = std::unique_ptr<EVP_PKEY, OpensslDeleter<EVP_PKEY_free>>;

// Server contexts by name, the least recently used dropped first; a leaf is signed anew when two thirds of
// its time are over. Thread-safe; signing happens outside the lock.
class LeafCache {
 public:
  static std::expected<std::unique_ptr<LeafCache>, Error> create(ca::LeafSigner& signer,
                                                                 std::size_t capacity);
  // An SSL object of the name's context, which takes HTTP/1.1 where it is offered; the error is the signer's.
  std::expected<Ssl, std::string> make_ssl(const std::string& name);
  // Each name's leaf is signed anew when it is next asked for, as after the CA has changed.
  void forget();
  std::uint64_t leaves_signed() const { return signed_.load(std::memory_order_relaxed); }

 private:
  struct Entry {
    std::string name;
    SslContext context;
    std::chrono::system_clock::time_point renew_at;
  };

  LeafCache(ca::LeafSigner& signer, std::size_t capacity) : signer_(signer), capacity_(capacity) {}
  std::expected<Entry, std::string> make_entry(const std::string& name);

  ca::LeafSigner& signer_;
  const std::size_t capacity_;
  PrivateKey key_;
  ca::PublicPoint point_{};
  std::atomic<std::uint64_t> signed_ = 0;

  std::mutex mutex_;
  std::uint64_t forgotten_ = 0;  // how often
  std::list<Entry> entries_;     // most recently used first
  std::unordered_map<std::string_view, std::list<Entry>::iterator> by_name_;
};

// Verifies against the system's bundle and `extra_ca`.
std::expected<SslContext, Error> make_upstream_context(const std::vector<std::filesystem::path>& extra_ca);

// The two that we know (RFC 7301's names).
enum class HttpProtocol : std::uint8_t { http1, http2 };
std::string_view alpn_name(HttpProtocol protocol);
// What a client offers of these, in its order. A client that offers none speaks HTTP/1.1.
std::vector<HttpProtocol> known_protocols(const std::vector<std::string>& offered);

// An SSL object that sends `name` as SNI (unless it is a literal address), verifies the certificate for it
// and offers these protocols.
Ssl make_upstream_ssl(SSL_CTX* context, const std::string& name, const std::vector<HttpProtocol>& offered);
// During or after the handshake: the upstream asked for a certificate, and there was none for it.
bool was_asked_for_certificate(const SSL* ssl);
// Of a LeafCache's SSL object, before the handshake: takes this protocol, if it is offered.
void take_protocol(SSL* ssl, HttpProtocol protocol);

// Why an upstream can't be used: an error.type of proxy.h, and a sentence that names the upstream.
struct UpstreamFailure {
  std::string type;
  std::string what;
};
UpstreamFailure describe_handshake_failure(SSL* ssl, const std::string& name,
                                           const std::string& library_error);

std::string tls_version(const SSL* ssl);  // "1.2", "1.3"
std::string negotiated_alpn(const SSL* ssl);

}  // namespace weir::proxy
