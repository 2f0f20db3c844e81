// Keeping and offering sessions. A ticket of TLS 1.3 is used once (RFC 8446, appendix C.4), an older session
// again and again: servers need not offer another.
#include "proxy/upstream_sessions.h"

#include <iterator>
#include <memory>
#include <utility>

namespace weir::proxy {
namespace {

constexpr std::size_t kMostSessions = 64;  // of one upstream: as many connections at once resume

// Where the sessions of one connection go.
struct Home {
  UpstreamSessions* sessions;
  std::string upstream;
};

void free_home(void*, void* home, CRYPTO_EX_DATA*, int, long, void*) {
  delete static_cast<Home*>(home);
}

int home_index() {
  static const int index = SSL_get_ex_new_index(0, nullptr, nullptr, nullptr, free_home);
  return index;
}

}  // namespace

void UpstreamSessions::enable(SSL_CTX* context) {
  SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
  SSL_CTX_sess_set_new_cb(context, take);
}

void UpstreamSessions::resume(SSL* ssl, std::string upstream) {
  const auto found = by_upstream_.find(upstream);
  if (found != by_upstream_.end()) {
    entries_.splice(entries_.begin(), entries_, found->second);
    auto& sessions = found->second->sessions;
    for (bool taken = false; !taken && !sessions.empty();) {
      SSL_SESSION* const newest = sessions.back().get();
      taken = SSL_SESSION_is_resumable(newest) == 1 && SSL_set_session(ssl, newest) == 1;
      if (taken && SSL_SESSION_get_protocol_version(newest) < TLS1_3_VERSION) break;
      sessions.pop_back();
      --kept_;
    }
    if (sessions.empty()) forget(found->second);
  }
  auto home = std::make_unique<Home>(this, std::move(upstream));
  if (SSL_set_ex_data(ssl, home_index(), home.get()) == 1) home.release();
}

// OpenSSL calls this for each session that is offered. It spoils its own when the connection ends without a
// close_notify of ours, so a copy is kept; 0: the session is not ours.
int UpstreamSessions::take(SSL* ssl, SSL_SESSION* session) {
  const auto* home = static_cast<const Home*>(SSL_get_ex_data(ssl, home_index()));
  if (home == nullptr || SSL_get_verify_result(ssl) != X509_V_OK) return 0;
  if (Session copy(SSL_SESSION_dup(session)); copy) home->sessions->keep(home->upstream, std::move(copy));
  return 0;
}

void UpstreamSessions::keep(const std::string& upstream, Session session) {
  auto found = by_upstream_.find(upstream);
  if (found == by_upstream_.end()) {
    entries_.push_front({upstream, {}});
    found = by_upstream_.emplace(entries_.front().upstream, entries_.begin()).first;
  }
  auto& sessions = found->second->sessions;
  sessions.push_back(std::move(session));
  ++kept_;
  if (sessions.size() > kMostSessions) {
    sessions.pop_front();
    --kept_;
  }
  while (kept_ > most_ && entries_.size() > 1) forget(std::prev(entries_.end()));
}

void UpstreamSessions::forget(std::list<Entry>::iterator entry) {
  kept_ -= entry->sessions.size();
  by_upstream_.erase(entry->upstream);
  entries_.erase(entry);
}

}  // namespace weir::proxy
