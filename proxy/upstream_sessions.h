// TLS sessions that upstreams offered, to be resumed: the next connection to the same upstream then needs no
// certificate, which was verified for the same name in the first handshake. One thread's; bounded, the least
// recently used upstream's go first.
#pragma once

#include <openssl/ssl.h>

#include <deque>
#include <list>
#include <string>
#include <string_view>
#include <unordered_map>

#include "proxy/tls.h"

namespace weir::proxy {

class UpstreamSessions {
 public:
  explicit UpstreamSessions(std::size_t most) : most_(most) {}

  // To be called once for each context whose connections use resume().
  static void enable(SSL_CTX* context);
  // Before the handshake: `ssl` resumes what this upstream offered, and leaves here what it will offer. The
  // upstream's text must hold all that its certificate is verified for. Must outlive `ssl`.
  void resume(SSL* ssl, std::string upstream);

 private:
  using Session = std::unique_ptr<SSL_SESSION, OpensslDeleter<SSL_SESSION_free>>;
  struct Entry {
    std::string upstream;
    std::deque<Session> sessions;  // the newest last; never empty
  };

  static int take(SSL* ssl, SSL_SESSION* session);
  void keep(const std::string& upstream, Session session);
  void forget(std::list<Entry>::iterator entry);

  const std::size_t most_;
  std::size_t kept_ = 0;
  std::list<Entry> entries_;  // most recently used first
  std::unordered_map<std::string_view, std::list<Entry>::iterator> by_upstream_;
};

}  // namespace weir::proxy
