// A conversation over HTTP/2 that begins at the connection's start.
#pragma once

#include "http/h2_exchange.h"
#include "tests/unit/http/conversation.h"
#include "tests/unit/http/h2_wire.h"

namespace weir::http::test {

struct Talk {
  Client client;
  Server server;
  std::vector<Step> steps = {req(client.open()), res(server.open())};

  // Not +, which doesn't say which operand's header block comes first.
  Talk& operator<<(Step step) {
    steps.push_back(std::move(step));
    return *this;
  }
  Case expect(std::string_view name, Lines whole, Lines late = {}, Unparsed unparsed = {0, 0}) const {
    return {name, steps, std::move(whole), std::move(late), unparsed};
  }
};

inline Result run_all_h2(const std::vector<Step>& steps, const ExchangeLimits& limits = capturing()) {
  return run_all<H2ExchangeBuilder>(steps, limits);
}

inline void check_h2(const Case& c) {
  SCOPED_TRACE(c.name);
  const auto result = run_all_h2(c.steps);
  check(c, result);
  EXPECT_EQ(result.protocol, Protocol::http2);
}

}  // namespace weir::http::test
