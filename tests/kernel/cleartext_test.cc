// What is read at the socket itself, however the process sends and receives, and until it has taken the last
// byte. Needs root.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "tests/kernel/support.h"

namespace weir::test {
namespace {

// Both ends in one process. Each connection of `client` prints its cookie.
constexpr const char* kEnds = R"(
import os, socket, struct, time
server = socket.create_server(("127.0.0.1", 0))

def connect(protocol=0):
    client = socket.socket(socket.AF_INET, socket.SOCK_STREAM, protocol)
    client.connect(server.getsockname())
    print(int.from_bytes(client.getsockopt(socket.SOL_SOCKET, 57, 8), "little"), flush=True)
    return client, server.accept()[0]

def answer(size):
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + b"x" * size

def wait_until_over(client):
    while client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] != 7:  # TCP_CLOSE
        time.sleep(0.001)

def read_all(client):
    while client.recv(65536):
        pass

client, peer = connect()
)";
constexpr char kGet[] = "GET / HTTP/1.1\r\n\r\n";
constexpr char kSmallAnswer[] = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nxx";

class Cleartext : public ::testing::Test {
 protected:
  static void SetUpTestSuite() { tap_ = new Tap; }
  static void TearDownTestSuite() { delete tap_; }
  void SetUp() override {
    if (!default_options().socket_events) GTEST_SKIP() << "cleartext isn't read by system calls";
  }

  // Runs a script to its end; its connection, once that is over.
  const ConnectionClosed* run(const std::string& script) {
    Child python({"python3", "-c", kEnds + script});
    pid_ = python.pid();
    cookie_ = {std::stoull(python.read_line())};
    python.finish();
    tap_->wait_for([&] { return !tap_->events().closed(cookie_).empty(); });
    const auto closed = tap_->events().closed(cookie_);
    EXPECT_EQ(closed.size(), 1u);
    return closed.size() == 1 ? closed.front() : nullptr;
  }
  std::string sent() const { return tap_->events().stream(cookie_, Direction::sent); }
  std::string received() const { return tap_->events().stream(cookie_, Direction::received); }
  std::vector<const Gap*> gaps() const {
    return tap_->events().all<Gap>([&](const auto& gap) { return gap.cookie == cookie_; });
  }

  static inline Tap* tap_;
  SocketCookie cookie_;
  std::uint32_t pid_ = 0;
};

TEST_F(Cleartext, WhatIsReadAfterBothSidesHaveEnded) {
  const auto* closed = run(R"(
client.sendall(b"GET / HTTP/1.1\r\n\r\n"); client.shutdown(socket.SHUT_WR)
read_all(peer); peer.sendall(answer(2)); peer.close()
wait_until_over(client); read_all(client); client.close()
)");
  ASSERT_NE(closed, nullptr);
  EXPECT_EQ(sent(), kGet);
  EXPECT_EQ(received(), kSmallAnswer);
  EXPECT_EQ(closed->bytes_sent, sent().size());
  EXPECT_EQ(closed->bytes_received, received().size());
  EXPECT_EQ(closed->plaintext_received, received().size());
  EXPECT_TRUE(closed->sent_end);
  EXPECT_TRUE(closed->received_end);
}

TEST_F(Cleartext, WhatIsReadAfterAReset) {
  const auto* closed = run(R"(
client.sendall(b"GET / HTTP/1.1\r\n\r\n"); peer.recv(100); peer.sendall(answer(2))
peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)); peer.close()
wait_until_over(client); client.recv(65536); client.close()
)");
  ASSERT_NE(closed, nullptr);
  EXPECT_EQ(received(), kSmallAnswer);
  EXPECT_FALSE(closed->received_end);
}

TEST_F(Cleartext, WhatIsNeverReadIsNoPlaintext) {
  const auto* closed = run(R"(
client.sendall(b"GET / HTTP/1.1\r\n\r\n"); client.shutdown(socket.SHUT_WR)
read_all(peer); peer.sendall(answer(2)); peer.close()
wait_until_over(client); client.close()
)");
  ASSERT_NE(closed, nullptr);
  EXPECT_EQ(closed->plaintext_received, 0u);
  EXPECT_EQ(closed->bytes_received, std::string(kSmallAnswer).size());
}

TEST_F(Cleartext, WhatIsSplicedAwayIsAGap) {
  const auto* closed = run(R"(
client.sendall(b"GET / HTTP/1.1\r\n\r\n"); peer.recv(100); peer.sendall(answer(5000))
read, write = os.pipe()
left = len(answer(5000))
while left:
    moved = os.splice(client.fileno(), write, left)
    left -= len(os.read(read, moved))
client.sendall(b"GET / HTTP/1.1\r\n\r\n"); peer.recv(100); peer.sendall(answer(2)); peer.close()
read_all(client); client.close()
)");
  ASSERT_NE(closed, nullptr);
  const auto lost = gaps();
  ASSERT_EQ(lost.size(), 1u);
  EXPECT_EQ(lost[0]->direction, Direction::received);
  EXPECT_EQ(lost[0]->offset, 0u);
  const std::uint64_t first = closed->bytes_received.value_or(0) - std::string(kSmallAnswer).size();
  EXPECT_EQ(lost[0]->length, first);
  EXPECT_EQ(closed->plaintext_received, closed->bytes_received);
}

TEST_F(Cleartext, WhatIsSplicedAwayAtTheEndIsCounted) {
  const auto* closed = run(R"(
client.sendall(b"GET / HTTP/1.1\r\n\r\n"); peer.recv(100); peer.sendall(answer(2)); peer.close()
read, write = os.pipe()
while os.splice(client.fileno(), write, 65536):
    pass
client.close()
)");
  ASSERT_NE(closed, nullptr);
  EXPECT_TRUE(gaps().empty());
  EXPECT_EQ(closed->plaintext_received, std::string(kSmallAnswer).size());
}

TEST_F(Cleartext, WhatIsReceivedIntoNowhereIsAGap) {
  const auto* closed = run(R"(
client.sendall(b"GET / HTTP/1.1\r\n\r\n"); peer.recv(100); peer.sendall(answer(2))
client.recv(65536, socket.MSG_TRUNC); client.close()
)");
  ASSERT_NE(closed, nullptr);
  ASSERT_EQ(gaps().size(), 1u);
  EXPECT_EQ(gaps()[0]->length, std::string(kSmallAnswer).size());
}

TEST_F(Cleartext, ARequestThatBeginsInPieces) {
  for (const std::string pieces :
       {R"(b"G", b"ET / HTTP/1.1\r\n\r\n")", R"(b"GET", b" / HTTP/1.1\r\n\r\n")"}) {
    ASSERT_NE(run("for piece in (" + pieces + "): client.sendall(piece); peer.recv(100)"), nullptr);
    EXPECT_EQ(sent(), kGet) << pieces;
  }
  ASSERT_NE(run(R"(client.sendall(b"\r\nGET / HTTP/1.1\r\n\r\n"))"), nullptr);
  EXPECT_EQ(sent(), std::string("\r\n") + kGet);
}

TEST_F(Cleartext, WhatIsNeitherTlsNorHttpIsSaidToBe) {
  const auto* ssh = run(R"(client.sendall(b"SSH-2.0-OpenSSH_9\r\n"))");
  ASSERT_NE(ssh, nullptr);
  EXPECT_TRUE(ssh->other_protocol);
  const auto* http = run(R"(client.sendall(b"GET / HTTP/1.1\r\n\r\n"))");
  ASSERT_NE(http, nullptr);
  EXPECT_FALSE(http->other_protocol);
}

// Its socket is not the one that connected.
// "EHLO me" looks like a request's beginning.
TEST_F(Cleartext, AServerThatSpeaksFirstSpeaksNoHttp) {
  const auto* smtp = run(R"(
peer.sendall(b"220 mail.test\r\n"); assert client.recv(64)
client.sendall(b"EHLO me\r\n"); peer.recv(64); peer.sendall(b"250 mail.test\r\n"); assert client.recv(64)
client.close(); read_all(peer); peer.close()
)");
  ASSERT_TRUE(smtp);
  EXPECT_TRUE(smtp->other_protocol);
  EXPECT_EQ(sent(), "");
  EXPECT_EQ(received(), "");
  EXPECT_TRUE(gaps().empty());
}

TEST_F(Cleartext, OverMultipathTcp) {
  Child python({"python3", "-c", std::string(kEnds) + R"(
client, peer = connect(262)
client.sendall(b"GET / HTTP/1.1\r\n\r\n"); peer.recv(100); peer.sendall(answer(200000)); peer.close()
while client.recv(10000):
    pass
client.close()
)"});
  const std::uint32_t pid = python.pid();
  python.finish();
  ASSERT_TRUE(tap_->wait_for([&] { return tap_->events().opened_by(pid).size() == 2; }));
  cookie_ = tap_->events().opened_by(pid).back()->cookie;
  ASSERT_TRUE(tap_->wait_for([&] { return !tap_->events().closed(cookie_).empty(); }));
  EXPECT_EQ(sent(), kGet);
  EXPECT_EQ(received(), "HTTP/1.1 200 OK\r\nContent-Length: 200000\r\n\r\n" + std::string(200'000, 'x'));
  EXPECT_TRUE(gaps().empty());
}

TEST_F(Cleartext, ReceivedBySeveralThreads) {
  const auto* closed = run(R"(
import threading
client.sendall(b"GET / HTTP/1.1\r\n\r\n"); peer.recv(100)
threads = [threading.Thread(target=read_all, args=(client,)) for _ in range(4)]
for thread in threads: thread.start()
for _ in range(500): peer.sendall(answer(2))
peer.close()
for thread in threads: thread.join()
client.close()
)");
  ASSERT_NE(closed, nullptr);
  EXPECT_EQ(closed->plaintext_received, closed->bytes_received);
}

// What it had received goes with the first connection.
TEST_F(Cleartext, ASocketThatConnectsAgainBeforeItHasRead) {
  Child python({"python3", "-c", std::string(kEnds) + R"(
import ctypes
client.sendall(b"GET / HTTP/1.1\r\n\r\n"); client.shutdown(socket.SHUT_WR)
read_all(peer); peer.sendall(answer(2)); peer.close()
wait_until_over(client)
assert ctypes.CDLL(None).connect(client.fileno(), bytes(16), 16) == 0  # AF_UNSPEC
client.connect(server.getsockname()); peer = server.accept()[0]
client.sendall(b"GET /again HTTP/1.1\r\n\r\n"); client.close(); read_all(peer); peer.close()
)"});
  cookie_ = {std::stoull(python.read_line())};
  python.finish();
  ASSERT_TRUE(tap_->wait_for([&] { return tap_->events().closed(cookie_).size() == 2; }));
  const auto closed = tap_->events().closed(cookie_);
  EXPECT_EQ(closed[0]->bytes_sent, std::string(kGet).size());
  EXPECT_EQ(closed[0]->bytes_received, std::string(kSmallAnswer).size());
  EXPECT_EQ(closed[1]->bytes_sent, std::string("GET /again HTTP/1.1\r\n\r\n").size());
  EXPECT_EQ(closed[1]->bytes_received, 0u);
}

}  // namespace
}  // namespace weir::test
