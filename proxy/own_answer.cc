#include "proxy/own_answer.h"

namespace weir::proxy {

OwnAnswer upstream_closed(const std::string& upstream) {
  return {502, "upstream " + upstream + " closed the connection without an answer", "upstream_closed"};
}

OwnAnswer upstream_timed_out(const std::string& upstream) {
  return {504, "upstream " + upstream + " did not answer in time", "upstream_timeout"};
}

OwnAnswer upstream_malformed(const std::string& upstream, const std::string& sent) {
  return {502, "upstream " + upstream + " sent " + sent, "upstream_malformed_response"};
}

OwnAnswer upstream_oversized(const std::string& upstream) {
  return {502, "upstream " + upstream + " sent too large a head", "upstream_oversized_response"};
}

OwnAnswer upstream_refused(const std::string& upstream, const http::ParseError& error) {
  if (error.kind == http::ParseError::Kind::too_large) return upstream_oversized(upstream);
  return upstream_malformed(upstream, "a malformed answer: " + error.what);
}

}  // namespace weir::proxy
