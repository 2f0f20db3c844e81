#include "attribution/client_hello.h"

#include <gtest/gtest.h>
#include <openssl/ssl.h>

#include <memory>

#include "attribution/text.h"

namespace weir::test {
namespace {

using std::string;

std::span<const std::byte> view(const string& text) {
  return std::as_bytes(std::span(text));
}

// What OpenSSL sends for the name.
string client_hello(const string& name, const string& protocols = "") {
  const std::unique_ptr<SSL_CTX, decltype(&SSL_CTX_free)> context(SSL_CTX_new(TLS_client_method()),
                                                                  SSL_CTX_free);
  const std::unique_ptr<SSL, decltype(&SSL_free)> ssl(SSL_new(context.get()), SSL_free);
  if (!name.empty()) SSL_set_tlsext_host_name(ssl.get(), name.c_str());
  SSL_set_alpn_protos(ssl.get(), reinterpret_cast<const unsigned char*>(protocols.data()),
                      static_cast<unsigned int>(protocols.size()));
  BIO* out = BIO_new(BIO_s_mem());
  SSL_set_bio(ssl.get(), BIO_new(BIO_s_mem()), out);
  SSL_connect(ssl.get());
  char* data = nullptr;
  const long size = BIO_get_mem_data(out, &data);
  return {data, static_cast<std::size_t>(size)};
}

// The same handshake message in records of `piece` bytes.
string in_small_records(const string& record, std::size_t piece) {
  string split;
  for (std::size_t at = 5; at < record.size(); at += piece) {
    const auto part = record.substr(at, piece);
    split += string("\x16\x03\x01", 3) + static_cast<char>(part.size() >> 8) +
             static_cast<char>(part.size() & 0xff);
    split += part;
  }
  return split;
}

TEST(ClientHello, GivesTheServerName) {
  const auto hello = parse_client_hello(view(client_hello("Origin.Test")));
  ASSERT_TRUE(hello);
  EXPECT_EQ(hello->server_name, "origin.test");
  const auto unnamed = parse_client_hello(view(client_hello("")));
  ASSERT_TRUE(unnamed);
  EXPECT_EQ(unnamed->server_name, "");
}

TEST(ClientHello, AFinalDotIsNoPartOfTheName) {
  const auto hello = parse_client_hello(view(client_hello("Origin.test.")));
  ASSERT_TRUE(hello);
  EXPECT_EQ(hello->server_name, "origin.test");
  EXPECT_FALSE(hello->unreadable_name);
}

TEST(ClientHello, ANameThatIsNoneIsNotTakenForNoName) {
  for (const string name : {"origin.test..", "origin test", "origin.test:443", "."}) {
    const auto hello = parse_client_hello(view(client_hello(name)));
    ASSERT_TRUE(hello) << name;
    EXPECT_EQ(hello->server_name, "") << name;
    EXPECT_TRUE(hello->unreadable_name) << name;
  }
  EXPECT_FALSE(parse_client_hello(view(client_hello("")))->unreadable_name);
  // A list that ends before its name does.
  auto damaged = client_hello("origin.test");
  damaged[damaged.find("origin.test") - 4] = '\x02';
  EXPECT_TRUE(parse_client_hello(view(damaged))->unreadable_name);
}

TEST(ClientHello, EmptyRecordsArePassedOver) {
  const string empty("\x16\x03\x01\x00\x00", 5);
  const auto whole = client_hello("origin.test");
  string some;
  for (int i = 0; i < 32; ++i) some += empty;
  const auto hello = parse_client_hello(view(some + whole));
  ASSERT_TRUE(hello);
  EXPECT_EQ(hello->server_name, "origin.test");
  EXPECT_EQ(parse_client_hello(view(some)).error(), HelloError::incomplete);
  EXPECT_EQ(parse_client_hello(view(some + empty)).error(), HelloError::malformed);
}

TEST(ClientHello, WhatAServerMayTakeForTlsIsMalformed) {
  const auto error = [](const string& bytes) { return parse_client_hello(view(bytes)).error(); };
  EXPECT_EQ(error(string("\x15\x03\x01\x00\x02\x01\x00", 7)), HelloError::malformed) << "an alert before it";
  EXPECT_EQ(error(string("\x80\x2e\x01\x03\x01", 5)), HelloError::malformed) << "SSLv2's framing";
  EXPECT_EQ(error(string("\x80\x2e\x01", 3)), HelloError::incomplete);
  EXPECT_EQ(error(string("\x80\x00\x00\x28\x01", 5)), HelloError::not_tls);
  EXPECT_EQ(error("\x15x"), HelloError::not_tls);
  EXPECT_EQ(error(string("\x16\x03\x01\x00\x00", 5) + "GET"), HelloError::malformed);
}

TEST(ClientHello, GivesTheProtocols) {
  const auto hello = parse_client_hello(view(client_hello("origin.test", "\x02h2\x08http/1.1")));
  ASSERT_TRUE(hello);
  EXPECT_EQ(hello->protocols, (std::vector<string>{"h2", "http/1.1"}));
  EXPECT_TRUE(parse_client_hello(view(client_hello("origin.test")))->protocols.empty());
  // A name that is longer than its list.
  auto damaged = client_hello("origin.test", "\x02h2");
  damaged[damaged.find("\x02h2")] = '\x03';
  EXPECT_TRUE(parse_client_hello(view(damaged))->protocols.empty());
}

TEST(ClientHello, TellsAnEncryptedOne) {
  EXPECT_FALSE(parse_client_hello(view(client_hello("origin.test")))->has_encrypted);
  auto with = client_hello("origin.test");
  // The session ticket's extension, which OpenSSL sends empty, becomes the other.
  const auto at = with.find(string("\x00\x23\x00\x00", 4));
  ASSERT_NE(at, string::npos);
  with.replace(at, 2, "\xfe\x0d");
  const auto hello = parse_client_hello(view(with));
  ASSERT_TRUE(hello);
  EXPECT_TRUE(hello->has_encrypted);
  EXPECT_EQ(hello->server_name, "origin.test");
}

TEST(ClientHello, EveryPrefixIsIncompleteAndEverySplitReads) {
  const auto whole = client_hello("origin.test");
  for (std::size_t size = 0; size < whole.size(); ++size) {
    const auto hello = parse_client_hello(view(whole.substr(0, size)));
    ASSERT_FALSE(hello) << size;
    ASSERT_EQ(hello.error(), HelloError::incomplete) << size;
  }
  for (const std::size_t piece : {1, 2, 3, 4, 7, 100}) {
    const auto hello = parse_client_hello(view(in_small_records(whole, piece)));
    ASSERT_TRUE(hello) << piece;
    EXPECT_EQ(hello->server_name, "origin.test");
  }
}

TEST(ClientHello, HostileInputIsRefusedOrNameless) {
  const auto error = [](const string& bytes) { return parse_client_hello(view(bytes)).error(); };
  EXPECT_EQ(error("GET / HTTP/1.1\r\n"), HelloError::not_tls);
  EXPECT_EQ(error("\x16\x02\x01"), HelloError::not_tls);
  EXPECT_EQ(error(string("\x16\x03\x01\xff\xff", 5)), HelloError::malformed);
  EXPECT_EQ(error(string("\x16\x03\x01\x00\x04\x02\x00\x00\x00", 9)), HelloError::malformed);
  EXPECT_EQ(error(string("\x16\x03\x01\x00\x04\x01\xff\xff\xff", 9)), HelloError::malformed);
  // Every byte changed once: any verdict, no harm.
  const auto whole = client_hello("origin.test");
  for (std::size_t at = 0; at < whole.size(); ++at) {
    for (const char value : {'\0', '\x7f', '\xff'}) {
      auto damaged = whole;
      damaged[at] = value;
      const auto hello = parse_client_hello(view(damaged));
      if (hello && !hello->server_name.empty()) {
        EXPECT_TRUE(is_host_name(hello->server_name));
      }
    }
  }
}

}  // namespace
}  // namespace weir::test
