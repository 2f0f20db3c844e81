// Making TLS contexts and reading what became of a handshake. Upstream verification has no switch to turn it
// off; a leaf is for the one name it was asked for.
#include "proxy/tls.h"

#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>

#include <array>
#include <utility>

#include "attribution/identity.h"
#include "ca/truststore.h"

namespace weir::proxy {
namespace {

constexpr std::string_view kHttp1 = "\x08http/1.1";  // as ALPN writes them
constexpr std::string_view kHttp2 = "\x02h2";
constexpr std::size_t kReadBuffer = 32 * 1024;

std::string openssl_error() {
  const auto error = ERR_peek_last_error();
  const char* reason = ERR_reason_error_string(error);
  return reason != nullptr ? reason : "OpenSSL failed";
}

// TLS 1.3's key schedule with SHA-384 costs several times that with SHA-256, which processors have
// instructions for. OpenSSL, and its clients, name AES-256 first.
constexpr const char* kSuites = "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256";

// The same for TLS 1.2, with the leaf's kind of key first.
constexpr const char* kServersCiphers =
    "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-ECDSA-CHACHA20-POLY1305:DEFAULT";

void set_common_options(SSL_CTX* context) {
  SSL_CTX_set_ciphersuites(context, kSuites);
  SSL_CTX_set_min_proto_version(context, TLS1_2_VERSION);
  SSL_CTX_set_options(context, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION);
  SSL_CTX_set_mode(context, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER |
                                SSL_MODE_RELEASE_BUFFERS);
  SSL_CTX_set_read_ahead(context, 1);
  SSL_CTX_set_default_read_buffer_len(context, kReadBuffer);
}

const unsigned char* bytes_of(std::string_view text) {
  return reinterpret_cast<const unsigned char*>(text.data());
}

// The protocol that is to be taken, where it is offered; else the handshake goes on without one, as servers
// that know no ALPN do.
int select_alpn(SSL* ssl, const unsigned char** out, unsigned char* out_length, const unsigned char* offered,
                unsigned int offered_length, void*) {
  const auto* chosen = static_cast<const std::string_view*>(SSL_get_app_data(ssl));
  const std::string_view wanted = chosen != nullptr ? *chosen : kHttp1;
  const int found = SSL_select_next_proto(const_cast<unsigned char**>(out), out_length, bytes_of(wanted),
                                          static_cast<unsigned int>(wanted.size()), offered, offered_length);
  return found == OPENSSL_NPN_NEGOTIATED ? SSL_TLSEXT_ERR_OK : SSL_TLSEXT_ERR_NOACK;
}

std::chrono::system_clock::time_point renewal_time(const X509* leaf) {
  int days = 0;
  int seconds = 0;
  ASN1_TIME_diff(&days, &seconds, nullptr, X509_get0_notAfter(leaf));
  return std::chrono::system_clock::now() + (std::chrono::days(days) + std::chrono::seconds(seconds)) * 2 / 3;
}

struct VerifyError {
  long code;
  const char* type;
  const char* phrase;
};
constexpr std::array kVerifyErrors = {
    VerifyError{X509_V_ERR_CERT_HAS_EXPIRED, "tls_certificate_expired", "expired"},
    VerifyError{X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT, "tls_certificate_self_signed", "is self-signed"},
    VerifyError{X509_V_ERR_HOSTNAME_MISMATCH, "tls_certificate_wrong_host", "is for another host"},
    VerifyError{X509_V_ERR_IP_ADDRESS_MISMATCH, "tls_certificate_wrong_host", "is for another host"},
};

// OpenSSL's question for a client certificate: we have none, but remember that there was one.
int note_certificate_request(SSL* ssl, X509**, EVP_PKEY**) {
  SSL_set_app_data(ssl, const_cast<std::string_view*>(&kHttp1));  // any that is not null
  return 0;
}

}  // namespace

std::expected<std::unique_ptr<LeafCache>, Error> LeafCache::create(ca::LeafSigner& signer,
                                                                   std::size_t capacity) {
  std::unique_ptr<LeafCache> cache(new LeafCache(signer, capacity));
  cache->key_.reset(EVP_EC_gen("P-256"));
  std::size_t length = 0;
  if (!cache->key_ ||
      EVP_PKEY_get_octet_string_param(cache->key_.get(), "pub", cache->point_.data(), cache->point_.size(),
                                      &length) != 1 ||
      length != cache->point_.size()) {
    return std::unexpected(Error{"no leaf key could be made: " + openssl_error(), ""});
  }
  return cache;
}

void LeafCache::forget() {
  const std::lock_guard lock(mutex_);
  ++forgotten_;
  by_name_.clear();
  entries_.clear();
}

std::expected<Ssl, std::string> LeafCache::make_ssl(const std::string& name) {
  std::uint64_t asked_after = 0;
  {
    const std::lock_guard lock(mutex_);
    asked_after = forgotten_;
    const auto found = by_name_.find(name);
    if (found != by_name_.end() && std::chrono::system_clock::now() < found->second->renew_at) {
      entries_.splice(entries_.begin(), entries_, found->second);
      return Ssl(SSL_new(found->second->context.get()));
    }
  }
  auto entry = make_entry(name);
  if (!entry) return std::unexpected(entry.error());
  Ssl ssl(SSL_new(entry->context.get()));

  const std::lock_guard lock(mutex_);
  if (forgotten_ != asked_after) return ssl;  // the one who signed may have been the former CA
  if (const auto old = by_name_.find(name); old != by_name_.end()) {
    old->second->context = std::move(entry->context);
    old->second->renew_at = entry->renew_at;
    return ssl;
  }
  entries_.push_front(std::move(*entry));
  by_name_.emplace(entries_.front().name, entries_.begin());
  if (entries_.size() > capacity_) {
    by_name_.erase(entries_.back().name);
    entries_.pop_back();
  }
  return ssl;
}

std::expected<LeafCache::Entry, std::string> LeafCache::make_entry(const std::string& name) {
  const auto der = signer_.sign({name, point_});
  if (!der) return std::unexpected(der.error().what);
  signed_.fetch_add(1, std::memory_order_relaxed);

  const unsigned char* cursor = der->data();
  const unsigned char* end = cursor + der->size();
  const Certificate leaf(d2i_X509(nullptr, &cursor, end - cursor));
  const Certificate issuer(leaf && cursor < end ? d2i_X509(nullptr, &cursor, end - cursor) : nullptr);
  SslContext context(SSL_CTX_new(TLS_server_method()));
  if (!leaf || !context)
    return std::unexpected("the leaf for " + name + " can't be read: " + openssl_error());
  set_common_options(context.get());
  SSL_CTX_set_session_cache_mode(context.get(), SSL_SESS_CACHE_OFF);
  SSL_CTX_set_cipher_list(context.get(), kServersCiphers);
  // Our order; but a client that puts ChaCha20 first has no AES instructions.
  SSL_CTX_set_options(context.get(), SSL_OP_CIPHER_SERVER_PREFERENCE | SSL_OP_PRIORITIZE_CHACHA);
  SSL_CTX_set_num_tickets(context.get(), 1);
  SSL_CTX_set_alpn_select_cb(context.get(), select_alpn, nullptr);
  const bool usable = SSL_CTX_use_certificate(context.get(), leaf.get()) == 1 &&
                      SSL_CTX_use_PrivateKey(context.get(), key_.get()) == 1 &&
                      (!issuer || SSL_CTX_add1_chain_cert(context.get(), issuer.get()) == 1);
  if (!usable) return std::unexpected("the leaf for " + name + " can't be used: " + openssl_error());
  return Entry{name, std::move(context), renewal_time(leaf.get())};
}

std::expected<SslContext, Error> make_upstream_context(const std::vector<std::filesystem::path>& extra_ca) {
  SslContext context(SSL_CTX_new(TLS_client_method()));
  if (!context) return std::unexpected(Error{openssl_error(), ""});
  set_common_options(context.get());
  SSL_CTX_set_verify(context.get(), SSL_VERIFY_PEER, nullptr);
  SSL_CTX_set_client_cert_cb(context.get(), note_certificate_request);

  auto files = extra_ca;
  if (auto bundle = ca::system_bundle(); !bundle.empty()) files.push_back(std::move(bundle));
  for (const auto& file : files) {
    if (SSL_CTX_load_verify_file(context.get(), file.c_str()) != 1) {
      return std::unexpected(Error{file.string() + ": no certificates can be read: " + openssl_error(),
                                   "give a PEM file of CA certificates"});
    }
  }
  ERR_clear_error();
  return context;
}

std::string_view alpn_name(HttpProtocol protocol) {
  return (protocol == HttpProtocol::http2 ? kHttp2 : kHttp1).substr(1);
}

std::vector<HttpProtocol> known_protocols(const std::vector<std::string>& offered) {
  std::vector<HttpProtocol> known;
  for (const auto& name : offered) {
    for (const auto protocol : {HttpProtocol::http1, HttpProtocol::http2})
      if (name == alpn_name(protocol)) known.push_back(protocol);
  }
  if (known.empty()) known.push_back(HttpProtocol::http1);
  return known;
}

void take_protocol(SSL* ssl, HttpProtocol protocol) {
  const std::string_view* wanted = protocol == HttpProtocol::http2 ? &kHttp2 : &kHttp1;
  SSL_set_app_data(ssl, const_cast<std::string_view*>(wanted));
}

Ssl make_upstream_ssl(SSL_CTX* context, const std::string& name, const std::vector<HttpProtocol>& offered) {
  Ssl ssl(SSL_new(context));
  if (!ssl) return ssl;
  std::string protocols;
  for (const auto protocol : offered) protocols += protocol == HttpProtocol::http2 ? kHttp2 : kHttp1;
  SSL_set_alpn_protos(ssl.get(), bytes_of(protocols), static_cast<unsigned int>(protocols.size()));
  const bool literal = parse_ip_address(name).family != IpAddress::Family::unknown;
  const bool named = literal ? X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(ssl.get()), name.c_str()) == 1
                             : SSL_set1_host(ssl.get(), name.c_str()) == 1 &&
                                   SSL_set_tlsext_host_name(ssl.get(), name.c_str()) == 1;
  if (!named) ssl.reset();
  return ssl;
}

bool was_asked_for_certificate(const SSL* ssl) {
  return SSL_get_app_data(ssl) != nullptr;
}

UpstreamFailure describe_handshake_failure(SSL* ssl, const std::string& name,
                                           const std::string& library_error) {
  const long code = SSL_get_verify_result(ssl);
  if (code == X509_V_OK) {
    return {"tls_handshake",
            "TLS handshake with upstream " + name + " failed (tls_handshake): " + library_error};
  }
  for (const auto& known : kVerifyErrors) {
    if (known.code != code) continue;
    return {known.type, "upstream certificate of " + name + " " + known.phrase + " (" + known.type + ")"};
  }
  return {"tls_certificate_untrusted", "upstream certificate of " + name +
                                           " is not trusted: " + X509_verify_cert_error_string(code) +
                                           " (tls_certificate_untrusted)"};
}

std::string tls_version(const SSL* ssl) {
  const std::string_view version = SSL_get_version(ssl);  // "TLSv1.3"
  return version.starts_with("TLSv") ? std::string(version.substr(4)) : std::string(version);
}

std::string negotiated_alpn(const SSL* ssl) {
  const unsigned char* data = nullptr;
  unsigned int length = 0;
  SSL_get0_alpn_selected(ssl, &data, &length);
  return length == 0 ? std::string() : std::string(reinterpret_cast<const char*>(data), length);
}

}  // namespace weir::proxy
