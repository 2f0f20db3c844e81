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

constexpr std::array<unsigned char, 9> kAlpn = {8, 'h', 't', 't', 'p', '/', '1', '.', '1'};
constexpr std::size_t kReadBuffer = 32 * 1024;

std::string openssl_error() {
  const auto error = ERR_peek_last_error();
  const char* reason = ERR_reason_error_string(error);
  return reason != nullptr ? reason : "OpenSSL failed";
}

Certificate read_certificate(const std::string& pem) {
  const std::unique_ptr<BIO, OpensslDeleter<BIO_free>> bio(
      BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size())));
  return Certificate(PEM_read_bio_X509(bio.get(), nullptr, nullptr, nullptr));
}

void set_common_options(SSL_CTX* context) {
  SSL_CTX_set_min_proto_version(context, TLS1_2_VERSION);
  SSL_CTX_set_options(context, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION);
  SSL_CTX_set_mode(context, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER |
                                SSL_MODE_RELEASE_BUFFERS);
  SSL_CTX_set_read_ahead(context, 1);
  SSL_CTX_set_default_read_buffer_len(context, kReadBuffer);
}

// HTTP/1.1 where it is offered; without a common protocol the handshake goes on without one, as servers that
// know no ALPN do.
int select_alpn(SSL*, const unsigned char** out, unsigned char* out_length, const unsigned char* offered,
                unsigned int offered_length, void*) {
  const int found = SSL_select_next_proto(const_cast<unsigned char**>(out), out_length, kAlpn.data(),
                                          kAlpn.size(), offered, offered_length);
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

}  // namespace

std::expected<std::unique_ptr<LeafCache>, Error> LeafCache::create(ca::LeafSigner& signer,
                                                                   const std::string& ca_certificate_pem,
                                                                   std::size_t capacity) {
  std::unique_ptr<LeafCache> cache(new LeafCache(signer, capacity));
  cache->ca_certificate_ = read_certificate(ca_certificate_pem);
  if (!cache->ca_certificate_) {
    return std::unexpected(
        Error{"the CA's certificate can't be read: " + openssl_error(), "run: weir ca show"});
  }
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

std::expected<Ssl, std::string> LeafCache::make_ssl(const std::string& name) {
  {
    const std::lock_guard lock(mutex_);
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
  const Certificate leaf(d2i_X509(nullptr, &cursor, static_cast<long>(der->size())));
  SslContext context(SSL_CTX_new(TLS_server_method()));
  if (!leaf || !context)
    return std::unexpected("the leaf for " + name + " can't be read: " + openssl_error());
  set_common_options(context.get());
  SSL_CTX_set_session_cache_mode(context.get(), SSL_SESS_CACHE_OFF);
  SSL_CTX_set_alpn_select_cb(context.get(), select_alpn, nullptr);
  const bool usable = SSL_CTX_use_certificate(context.get(), leaf.get()) == 1 &&
                      SSL_CTX_use_PrivateKey(context.get(), key_.get()) == 1 &&
                      SSL_CTX_add1_chain_cert(context.get(), ca_certificate_.get()) == 1;
  if (!usable) return std::unexpected("the leaf for " + name + " can't be used: " + openssl_error());
  return Entry{name, std::move(context), renewal_time(leaf.get())};
}

std::expected<SslContext, Error> make_upstream_context(const std::vector<std::filesystem::path>& extra_ca) {
  SslContext context(SSL_CTX_new(TLS_client_method()));
  if (!context) return std::unexpected(Error{openssl_error(), ""});
  set_common_options(context.get());
  SSL_CTX_set_verify(context.get(), SSL_VERIFY_PEER, nullptr);
  SSL_CTX_set_alpn_protos(context.get(), kAlpn.data(), kAlpn.size());

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

Ssl make_upstream_ssl(SSL_CTX* context, const std::string& name) {
  Ssl ssl(SSL_new(context));
  if (!ssl) return ssl;
  const bool literal = parse_ip_address(name).family != IpAddress::Family::unknown;
  const bool named = literal ? X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(ssl.get()), name.c_str()) == 1
                             : SSL_set1_host(ssl.get(), name.c_str()) == 1 &&
                                   SSL_set_tlsext_host_name(ssl.get(), name.c_str()) == 1;
  if (!named) ssl.reset();
  return ssl;
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
