// What the proxy answers in place of an origin: a request that may not pass, or an upstream that gave no
// answer that may be passed on.
#pragma once

#include <string>

#include "http/h1_parser.h"

namespace weir::proxy {

struct OwnAnswer {
  int status = 0;
  std::string text{};
  std::string error_type{};  // of an upstream that failed, as in proxy.h
};

// `upstream`: its name.
OwnAnswer upstream_closed(const std::string& upstream);
OwnAnswer upstream_timed_out(const std::string& upstream);
OwnAnswer upstream_malformed(const std::string& upstream, const std::string& sent);
OwnAnswer upstream_oversized(const std::string& upstream);
OwnAnswer upstream_refused(const std::string& upstream, const http::ParseError& error);

}  // namespace weir::proxy
