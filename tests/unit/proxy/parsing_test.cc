// The proxy's pure functions: authorities and targets, heads on their way through.
#include <gtest/gtest.h>

#include "harness.h"
#include "http/h1_parser.h"
#include "proxy/destination.h"
#include "proxy/forwarding.h"

namespace weir::proxy::test {
namespace {

using std::string;

TEST(Destination, Authorities) {
  const auto text = [](std::string_view authority, std::optional<std::uint16_t> port = {}) {
    const auto parsed = parse_authority(authority, port);
    return parsed ? parsed->name + "|" + std::to_string(parsed->port) : "";
  };
  EXPECT_EQ(text("Example.ORG:443"), "example.org|443");
  EXPECT_EQ(text("example.org.:443"), "example.org|443");
  EXPECT_EQ(text("example.org", 80), "example.org|80");
  EXPECT_EQ(text("example.org:", 80), "example.org|80");
  EXPECT_EQ(text("[::1]:8443"), "::1|8443");
  EXPECT_EQ(text("127.0.0.1:1"), "127.0.0.1|1");
  for (const char* bad : {"", ":443", "example.org", "example.org:", "example.org:0", "example.org:65536",
                          "a:b:1", "a b:1", "user@host:1", "[::1:1", "[nonsense]:1", "[127.0.0.1]:1", "-a:1",
                          ".a:1", "a..b:1", "a..:1", "example.org:+1", "example.org:443x", "[::1]443"}) {
    EXPECT_EQ(text(bad), "") << bad;
  }
}

TEST(Destination, AbsoluteTargets) {
  const auto plain = parse_absolute_target("HTTP://user:pw@Example.org:8080/a?b", "GET");
  ASSERT_TRUE(plain);
  EXPECT_EQ(plain->destination.name, "example.org");
  EXPECT_EQ(plain->authority, "Example.org:8080");
  EXPECT_EQ(plain->origin_form, "/a?b");
  EXPECT_EQ(parse_absolute_target("http://h", "GET")->origin_form, "/");
  EXPECT_EQ(parse_absolute_target("http://h?q", "GET")->origin_form, "/?q");
  EXPECT_EQ(parse_absolute_target("http://h", "OPTIONS")->origin_form, "*");
  for (const char* bad : {"/", "*", "https://h/", "http://", "http:///x", "http://h:99999/", "http://h/#f"}) {
    EXPECT_FALSE(parse_absolute_target(bad, "GET")) << bad;
  }
}

TEST(Destination, PassthroughEntries) {
  const std::vector<string> entries = {"Exact.org", ".below.org"};
  EXPECT_NE(find_passthrough(entries, "exact.org"), nullptr);
  EXPECT_NE(find_passthrough(entries, "below.org"), nullptr);
  EXPECT_NE(find_passthrough(entries, "a.b.below.org"), nullptr);
  EXPECT_EQ(find_passthrough(entries, "sub.exact.org"), nullptr);
  EXPECT_EQ(find_passthrough(entries, "notbelow.org"), nullptr);
  EXPECT_EQ(find_passthrough(entries, ""), nullptr);
}

TEST(Destination, OwnListenersAreReachedByManyNames) {
  const auto endpoint = [](const char* address) { return Endpoint{parse_ip_address(address), 7443}; };
  const std::vector<Endpoint> loopback = {endpoint("127.0.0.1")};
  EXPECT_TRUE(reaches_any(endpoint("127.0.0.1"), loopback));
  EXPECT_TRUE(reaches_any(endpoint("::ffff:127.0.0.1"), loopback));
  EXPECT_TRUE(reaches_any(endpoint("0.0.0.0"), loopback));
  EXPECT_TRUE(reaches_any(endpoint("::"), loopback));
  EXPECT_FALSE(reaches_any(endpoint("192.0.2.1"), loopback));
  EXPECT_FALSE(reaches_any({parse_ip_address("127.0.0.1"), 7444}, loopback));
  const std::vector<Endpoint> everywhere = {endpoint("0.0.0.0")};
  EXPECT_TRUE(reaches_any(endpoint("127.0.0.2"), everywhere));
  EXPECT_FALSE(reaches_any(endpoint("192.0.2.1"), everywhere));
}

TEST(Forwarding, AbsoluteRequestsLoseProxyFieldsOnly) {
  http::RequestHead head;
  head.method = "GET";
  head.target = "http://Origin.test:81/x";
  head.fields = {{"hOst", "other"},
                 {"X-A", "1"},
                 {"Proxy-Connection", "keep-alive"},
                 {"Connection", "X-Gone, Content-Length, Upgrade"},
                 {"X-Gone", "1"},
                 {"Content-Length", "3"},
                 {"Upgrade", "echo"},
                 {"x-a", "2"},
                 {"Proxy-Authorization", "Basic eA=="}};
  const auto target = parse_absolute_target(head.target, head.method);
  const auto sent = http::serialize(to_origin_request(head, *target));
  EXPECT_EQ(
      sent,
      "GET /x HTTP/1.1\r\nhOst: Origin.test:81\r\nX-A: 1\r\nConnection: upgrade\r\nContent-Length: 3\r\n"
      "Upgrade: echo\r\nx-a: 2\r\n\r\n");
}

TEST(Forwarding, AbsoluteRequestsWithoutHostGetOne) {
  http::RequestHead head{"GET", "http://origin.test:81/x", {1, 0}, {{"X-A", "1"}}};
  const auto target = parse_absolute_target(head.target, head.method);
  EXPECT_EQ(http::serialize(to_origin_request(head, *target)),
            "GET /x HTTP/1.0\r\nHost: origin.test:81\r\nX-A: 1\r\n\r\n");
}

TEST(Forwarding, KeepAliveRules) {
  http::RequestHead request;
  EXPECT_TRUE(wants_keep_alive(request, false));
  request.fields = {{"Proxy-Connection", "close"}};
  EXPECT_TRUE(wants_keep_alive(request, false));
  EXPECT_FALSE(wants_keep_alive(request, true));
  request.fields = {{"connection", "foo, Close"}};
  EXPECT_FALSE(wants_keep_alive(request, false));
  request.version = {1, 0};
  request.fields = {};
  EXPECT_FALSE(wants_keep_alive(request, false));
  request.fields = {{"Connection", "keep-alive"}};
  EXPECT_TRUE(wants_keep_alive(request, false));
  EXPECT_FALSE(allows_keep_alive(http::ResponseHead{}, {http::Framing::until_close, 0}));
}

}  // namespace
}  // namespace weir::proxy::test
