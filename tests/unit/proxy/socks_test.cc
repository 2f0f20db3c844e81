// What clients ask for in SOCKS 5, however it is cut, and what is refused.
#include "proxy/socks.h"

#include <gtest/gtest.h>

#include <span>
#include <string>

namespace weir::proxy {
namespace {

using std::string;
using State = SocksRequest::State;

const string kGreeting("\x05\x01\x00", 3);

SocksRequest asked(const string& bytes) {
  SocksRequest request;
  for (const char byte : bytes) request.feed(std::as_bytes(std::span(&byte, 1)));
  return request;
}

string where(const SocksRequest& request) {
  return request.destination().name + " " + std::to_string(request.destination().port);
}

TEST(Socks, EachKindOfAddress) {
  const struct {
    string request;
    string where;
  } cases[] = {
      {string("\x05\x01\x00\x01\x0a\x00\x00\x01\x01\xbb", 10), "10.0.0.1 443"},
      {string("\x05\x01\x00\x03\x0bOrigin.test\x00\x50", 18), "origin.test 80"},
      {string("\x05\x01\x00\x04", 4) + string(15, '\0') + string("\x01\x00\x50", 3), "::1 80"},
  };
  for (const auto& one : cases) {
    auto request = asked(kGreeting + one.request + "rest");
    ASSERT_EQ(request.state(), State::asked) << one.where << request.why();
    EXPECT_EQ(where(request), one.where);
    EXPECT_EQ(request.take_output(), string("\x05\x00", 2));
  }
}

TEST(Socks, WhatFollowsIsKept) {
  SocksRequest request;
  const string bytes = kGreeting + string("\x05\x01\x00\x01\x0a\x00\x00\x01\x01\xbb", 10) + "hello";
  request.feed(std::as_bytes(std::span(bytes)));
  ASSERT_EQ(request.state(), State::asked);
  EXPECT_EQ(string(reinterpret_cast<const char*>(request.unread().data()), request.unread().size()), "hello");
}

TEST(Socks, WhatIsNotUnderstoodIsRefused) {
  const struct {
    string bytes;
    string output;  // its last two bytes' second: the code
  } cases[] = {
      {string("\x04\x01\x00", 3), ""},
      {string("\x05\x01\x02", 3), string("\x05\xff", 2)},
      {kGreeting + string("\x05\x02\x00\x01\x0a\x00\x00\x01\x01\xbb", 10), string("\x05\x00\x05\x07", 4)},
      {kGreeting + string("\x05\x01\x00\x07\x0a\x00\x00\x01\x01\xbb", 10), string("\x05\x00\x05\x08", 4)},
      {kGreeting + string("\x05\x01\x00\x03\x03"
                          "a:b\x00\x50",
                          10),
       string("\x05\x00\x05\x01", 4)},
      {kGreeting + string("\x05\x01\x00\x03\x03"
                          "a\0b\x00\x50",
                          10),
       string("\x05\x00\x05\x01", 4)},
      {kGreeting + string("\x05\x01\x00\x01\x0a\x00\x00\x01\x00\x00", 10), string("\x05\x00\x05\x01", 4)},
      {kGreeting + string("\x05\x01\x01\x01\x0a\x00\x00\x01\x01\xbb", 10), string("\x05\x00\x05\x01", 4)},
  };
  for (const auto& one : cases) {
    auto request = asked(one.bytes);
    EXPECT_EQ(request.state(), State::refused) << one.output.size();
    EXPECT_NE(request.why(), "");
    EXPECT_TRUE(request.take_output().starts_with(one.output)) << request.why();
  }
}

}  // namespace
}  // namespace weir::proxy
