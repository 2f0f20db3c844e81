// What is said to a proxy above this one, however its answers are cut, and how it is named.
#include "proxy/upstream_proxy.h"

#include <gtest/gtest.h>

namespace weir::proxy {
namespace {

using std::string;
using State = ProxyHandshake::State;

const Destination kDestination{"origin.test", 443, {}};

UpstreamProxy proxy(const string& url) {
  const auto parsed = parse_upstream_proxy(url);
  EXPECT_TRUE(parsed) << url;
  return parsed.value_or(UpstreamProxy());
}

// Feeds answers one byte at a time; gives all that was said.
string talk(ProxyHandshake& handshake, const std::vector<string>& answers) {
  string said = handshake.take_output();
  for (const string& answer : answers) {
    for (const char byte : answer) {
      if (handshake.state() != State::unfinished) return said;
      handshake.feed(std::as_bytes(std::span(&byte, 1)));
    }
    said += handshake.take_output();
  }
  return said;
}

TEST(UpstreamProxy, IsNamedByAUrl) {
  const auto http = proxy("http://a%20b:c%40d@proxy.test:3128/");
  EXPECT_EQ(http.kind, UpstreamProxy::Kind::http);
  EXPECT_EQ(http.address.name, "proxy.test");
  EXPECT_EQ(http.address.port, 3128);
  EXPECT_EQ(http.user, "a b");
  EXPECT_EQ(http.password, "c@d");
  const auto socks = proxy("socks5://[::1]");
  EXPECT_EQ(socks.kind, UpstreamProxy::Kind::socks5);
  EXPECT_EQ(socks.address.name, "::1");
  EXPECT_EQ(socks.address.port, 1080);
  EXPECT_EQ(socks.user, "");
}

TEST(UpstreamProxy, WhatNamesNoneIsRefusedWithoutItsSecret) {
  for (const char* url :
       {"https://proxy.test", "proxy.test:80", "http://", "http://:secret@p", "http://u:%zz@p",
        "http://u%3a:secret@p", "http://u:secret@p:0", "http://u:secret@p/path", "socks4://p"}) {
    const auto parsed = parse_upstream_proxy(url);
    ASSERT_FALSE(parsed) << url;
    EXPECT_EQ(parsed.error().find("secret"), string::npos) << parsed.error();
  }
}

TEST(UpstreamProxy, ConnectKeepsWhatFollows) {
  const auto handshake = ProxyHandshake::begin(proxy("http://p"), {"::1", 443, {}});
  EXPECT_EQ(handshake->take_output(), "CONNECT [::1]:443 HTTP/1.1\r\nHost: [::1]:443\r\n\r\n");
  const string answer = "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
  handshake->feed(std::as_bytes(std::span(answer)));
  EXPECT_EQ(handshake->state(), State::connected);
  EXPECT_EQ(string(reinterpret_cast<const char*>(handshake->unread().data()), handshake->unread().size()),
            "hello");
}

TEST(UpstreamProxy, ConnectRefused) {
  for (const char* answer : {"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n",
                             "HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", "SSH-2.0-x\r\n\r\n",
                             "HTTP/1.1 101 Switching Protocols\r\n\r\n"}) {
    const auto handshake = ProxyHandshake::begin(proxy("http://p"), kDestination);
    talk(*handshake, {answer});
    EXPECT_EQ(handshake->state(), State::refused) << answer;
    EXPECT_NE(handshake->why(), "");
  }
}

TEST(UpstreamProxy, SocksByteForByte) {
  const auto handshake = ProxyHandshake::begin(proxy("socks5://u:p@x"), kDestination);
  const string said = talk(*handshake, {string("\x05\x02", 2), string("\x01\x00", 2),
                                        string("\x05\x00\x00\x03\x02xy\x00\x50", 9)});
  EXPECT_EQ(handshake->state(), State::connected);
  EXPECT_EQ(said, string("\x05\x02\x00\x02", 4) + string("\x01\x01u\x01p", 5) +
                      string("\x05\x01\x00\x03\x0borigin.test\x01\xbb", 18));
  EXPECT_TRUE(handshake->unread().empty());
}

TEST(UpstreamProxy, SocksRefused) {
  const std::vector<std::vector<string>> talks = {
      {string("\x04\x00", 2)},                                                          // another version
      {string("\x05\xff", 2)},                                                          // no method
      {string("\x05\x02", 2), string("\x01\x01", 2)},                                   // wrong password
      {string("\x05\x00", 2), string("\x05\x05\x00\x01\x00\x00\x00\x00\x00\x00", 10)},  // refused
      {string("\x05\x00", 2), string("\x05\x00\x00\x07\x00\x00\x00\x00\x00\x00", 10)},  // no such kind
  };
  for (const auto& answers : talks) {
    const auto handshake = ProxyHandshake::begin(proxy("socks5://u:p@x"), kDestination);
    talk(*handshake, answers);
    EXPECT_EQ(handshake->state(), State::refused) << answers.size();
  }
  const auto unasked = ProxyHandshake::begin(proxy("socks5://x"), kDestination);
  talk(*unasked, {string("\x05\x02", 2)});
  EXPECT_EQ(unasked->state(), State::refused) << "it wants what it was not offered";
}

}  // namespace
}  // namespace weir::proxy
