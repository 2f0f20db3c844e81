// Peers that stop in the wrong place, and requests that say one thing to policy and another to a server.
#include <gtest/gtest.h>
#include <openssl/bio.h>
#include <sys/socket.h>

#include "h2_bridge.h"
#include "h2_wire.h"
#include "harness.h"

namespace weir::proxy::test {
namespace {

using std::string;

const string kName = "origin.test";
const string kOk = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const string kGet = "GET / HTTP/1.1\r\nHost: origin.test\r\n\r\n";

void answer_all(Wire& wire) {
  while (!wire.read_until("\r\n\r\n").empty()) wire.write(kOk);
}

// The TLS record of these bytes, not sent.
string record_of(Wire& wire, const string& bytes) {
  BIO* const socket = SSL_get_wbio(wire.ssl());
  BIO_up_ref(socket);
  BIO* const memory = BIO_new(BIO_s_mem());
  SSL_set0_wbio(wire.ssl(), memory);
  EXPECT_EQ(SSL_write(wire.ssl(), bytes.data(), static_cast<int>(bytes.size())),
            static_cast<int>(bytes.size()));
  char* data = nullptr;
  const long size = BIO_get_mem_data(memory, &data);
  const string record(data, static_cast<std::size_t>(size));
  SSL_set0_wbio(wire.ssl(), socket);
  return record;
}

void send_raw(Wire& wire, const string& bytes) {
  EXPECT_EQ(::send(SSL_get_rfd(wire.ssl()), bytes.data(), bytes.size(), MSG_NOSIGNAL),
            static_cast<ssize_t>(bytes.size()));
}

// The others of its thread are served meanwhile.
TEST(Hostile, HalfARecordKeepsNobodyWaiting) {
  World world;
  Config config;
  config.threads = 1;
  world.start(config);
  Origin origin(world.origin_ca.server_context({.name = kName, .http2 = true}), [](Wire& wire) {
    wire.write(frame(kSettings, 0, 0));
    wire.read_to_end();
  });
  auto client = world.open(origin, kName, true);
  const string record = record_of(client, kHello + head(1, request_fields()));
  send_raw(client, record.substr(0, record.size() / 2));
  Origin plain(nullptr, answer_all);
  auto other = world.connect();
  for (int i = 0; i < 3; ++i) {
    other.write("GET http://127.0.0.1:" + std::to_string(plain.port()) + "/ HTTP/1.1\r\nHost: x\r\n\r\n");
    ASSERT_EQ(other.read_exactly(kOk.size()), kOk) << i;
  }
  send_raw(client, record.substr(record.size() / 2));
  EXPECT_FALSE(client.read_some().empty());
}

TEST(Hostile, RecordsInPiecesAreReadAsTheyCome) {
  World world;
  world.start();
  const auto send_in_pieces = [](Wire& wire, const string& bytes) {
    const string record = record_of(wire, bytes);
    for (std::size_t at = 0; at < record.size(); at += 20) send_raw(wire, record.substr(at, 20));
  };
  Origin origin(world.origin_ca.server_context({kName}), [&](Wire& wire) {
    for (int i = 0; i < 3; ++i) {
      wire.read_until("\r\n\r\n");
      send_in_pieces(wire, kOk);
    }
    wire.read_until("\r\n\r\n");
    send_in_pieces(wire, "HTTP/1.1 200 OK\r\n\r\n");
    send_in_pieces(wire, "until the end");
  });
  auto client = world.open(origin, kName);
  for (int i = 0; i < 3; ++i) {
    send_in_pieces(client, kGet);
    EXPECT_EQ(client.read_exactly(kOk.size()), kOk);
  }
  client.write(kGet);
  EXPECT_EQ(client.read_to_end(), "HTTP/1.1 200 OK\r\n\r\nuntil the end");
}

TEST(Hostile, OneRequestNamesOneHost) {
  World world;
  world.decider.refused_name = "admin.test";
  world.start();
  Origin origin(world.origin_ca.server_context({kName}), answer_all);
  const auto answer_to = [&](const string& target, const string& host) {
    auto client = world.open(origin, kName);
    client.write("GET " + target + " HTTP/1.1\r\nHost: " + host + "\r\n\r\n");
    return client.read_until("\r\n").substr(9, 3);
  };
  EXPECT_EQ(answer_to("https://origin.test/", "origin.test"), "200");
  EXPECT_EQ(answer_to("https://Origin.test:8443/", "origin.test."), "200");
  EXPECT_EQ(answer_to("http://admin.test/", "origin.test"), "400");
  EXPECT_EQ(answer_to("https://u@admin.test/", "origin.test"), "400");
  for (const string host : {"admin.test", "ADMIN.test.", "admin.test:x", "admin.test.:x", "admin.test:1:2"})
    EXPECT_EQ(answer_to("/", host), "403") << host;
  EXPECT_EQ(origin.received().find("admin"), string::npos);
}

// What is asked for in HTTP/2 behind an upgrade nobody would see.
TEST(Hostile, AnUpgradeToAnotherHttpIsNotPassedOn) {
  World world;
  world.start();
  Origin origin(world.origin_ca.server_context({kName}), answer_all);
  {
    auto client = world.open(origin, kName);
    client.write(
        "GET /1 HTTP/1.1\r\nHost: origin.test\r\nConnection: keep-alive, Upgrade, HTTP2-Settings\r\n"
        "Upgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\nX: y\r\n\r\n");
    EXPECT_EQ(client.read_exactly(kOk.size()), kOk);
    client.write(
        "GET /2 HTTP/1.1\r\nHost: origin.test\r\nConnection: Upgrade\r\nUpgrade: websocket, TLS/1.0\r\n\r\n");
    EXPECT_EQ(client.read_exactly(kOk.size()), kOk);
    client.write("GET /3 HTTP/1.1\r\nHost: origin.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
    EXPECT_EQ(client.read_exactly(kOk.size()), kOk);
  }
  ASSERT_TRUE(wait_for([&] { return origin.received().find("/3") != string::npos; }));
  EXPECT_EQ(origin.received(),
            "GET /1 HTTP/1.1\r\nHost: origin.test\r\nConnection: keep-alive\r\nX: y\r\n\r\n"
            "GET /2 HTTP/1.1\r\nHost: origin.test\r\n\r\n"
            "GET /3 HTTP/1.1\r\nHost: origin.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
}

TEST(Hostile, InterimResponsesHaveAnEnd) {
  TranslatingBridge translating;
  translating.client(head(1, request_fields()));
  string interims;
  for (unsigned i = 0; i < kMostInterims; ++i) interims += "HTTP/1.1 103 Early\r\nLink: l\r\n\r\n";
  EXPECT_TRUE(translating.upstream(0, interims));
  EXPECT_EQ(translating.to_client.of(1).size(), kMostInterims);
  EXPECT_FALSE(translating.upstream(0, interims));
  ASSERT_EQ(translating.to_client.of_type(kHeaders).size(), kMostInterims + 1);
  EXPECT_EQ(translating.to_client.of_type(kHeaders).back().fields.front().second, "502");

  Bridge bridge;
  bridge.client(head(1, request_fields()));
  for (unsigned i = 0; i < 2 * kMostInterims; ++i) bridge.upstream(head(1, {{":status", "103"}}, false));
  const auto heads = bridge.to_client.of_type(kHeaders);
  ASSERT_EQ(heads.size(), kMostInterims + 1);
  EXPECT_EQ(heads.back().fields.front().second, "502");
  EXPECT_EQ(bridge.to_upstream.of_type(kRst).size(), 1u);
}

// A client that connects early and asks late would have seen it leave.
TEST(Hostile, AnUpstreamThatLeftBeforeTheFirstRequestIsReplaced) {
  World world;
  world.start();
  std::atomic<int> connections = 0;
  std::atomic<bool> left = false;
  Origin origin(world.origin_ca.server_context({kName}), [&](Wire& wire) {
    if (connections++ > 0) return answer_all(wire);
    wire.close();
    left = true;
    left.notify_all();
  });
  auto client = world.open(origin, kName);
  left.wait(false);
  client.write("POST / HTTP/1.1\r\nHost: origin.test\r\nContent-Length: 0\r\n\r\n");
  EXPECT_EQ(client.read_exactly(kOk.size()), kOk);
}

TEST(Hostile, AnEmptyLineBeforeARequestIsNoRequest) {
  World world;
  world.start();
  Origin origin(world.origin_ca.server_context({kName}), answer_all);
  auto client = world.open(origin, kName);
  client.write("\r\n" + kGet);
  EXPECT_EQ(client.read_exactly(kOk.size()), kOk);
  client.write(kGet + "\r\n" + kGet);
  EXPECT_EQ(client.read_exactly(2 * kOk.size()), kOk + kOk);
}

}  // namespace
}  // namespace weir::proxy::test
