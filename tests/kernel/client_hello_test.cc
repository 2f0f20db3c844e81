// Which socket an object's bytes are said to be of, when its library never sees the socket: the one that
// carried its ClientHello, in whatever order things happen and whoever else has the same bytes. Needs root.
#include <gtest/gtest.h>
#include <unistd.h>

#include <string>
#include <vector>

#include "tests/kernel/support.h"

namespace weir::test {
namespace {

// Sessions with their bytes in memory. Prints each connection's cookie.
constexpr const char* kSessions = R"(
import os, socket, ssl, sys, threading
port = int(sys.argv[1])
context = ssl._create_unverified_context()

def connect(to=port):
    raw = socket.create_connection(("127.0.0.1", to))
    print(int.from_bytes(raw.getsockopt(socket.SOL_SOCKET, 57, 8), "little"), flush=True)
    return raw

class Session:
    def __init__(self, raw, context=context, server=False):
        self.raw, self.incoming, self.outgoing = raw, ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server, None if server else "localhost")

    def hello(self):
        try:
            self.tls.do_handshake()
        except ssl.SSLWantReadError:
            return self.outgoing.read()

    def run(self, call, *arguments):
        while True:
            try:
                return call(*arguments)
            except ssl.SSLWantReadError:
                pass
            finally:
                self.raw.sendall(self.outgoing.read())
            self.incoming.write(self.raw.recv(65536))

    def shake_hands(self):
        self.run(self.tls.do_handshake)

    def ask(self, size):
        self.run(self.tls.write, b"GET /%d HTTP/1.1\r\n\r\n" % size)

    def read(self):
        while self.run(self.tls.read, 65536):
            pass
        self.raw.close()
)";

class SocketOfClientHello : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    tap_ = new Tap;
    libssl_ = new PrivateLibssl;
    origin_ = new TlsOrigin;
    const int file = libssl_->open();
    auto target = tap_->kernel().attach(file, libssl_->sites());
    ::close(file);
    ASSERT_TRUE(target) << target.error().what;
    const std::uint32_t own = static_cast<std::uint32_t>(::getpid());
    tap_->kernel().set_own_processes({&own, 1});
  }
  static void TearDownTestSuite() {
    delete origin_;
    delete libssl_;
    delete tap_;
  }

  // Runs a script to its end; the cookies that it printed, once their connections are over.
  std::vector<SocketCookie> run(const std::string& script, std::uint16_t port = origin_->port()) {
    Child python({"python3", "-c", kSessions + script, std::to_string(port)}, {libssl_->environment()});
    pid_ = python.pid();
    std::vector<SocketCookie> cookies;
    const std::string output = python.finish();
    for (std::size_t at = 0; at < output.size(); at = output.find('\n', at) + 1)
      cookies.push_back(SocketCookie{std::stoull(output.substr(at))});
    for (const SocketCookie cookie : cookies)
      EXPECT_TRUE(tap_->wait_for([&] { return !tap_->events().closed(cookie).empty(); }));
    return cookies;
  }

  std::vector<const Bytes*> bytes_of(SocketCookie cookie) const {
    return tap_->events().all<Bytes>(
        [&](const auto& event) { return event.cookie == cookie && event.object; });
  }
  // What TLS objects said over the connection; each side's bytes once and in order.
  std::string said(SocketCookie cookie, Direction direction) const {
    std::string text;
    for (const Bytes* bytes : bytes_of(cookie)) {
      if (bytes->direction != direction) continue;
      if (bytes->offset != text.size()) return text + "[hole or overlap]";
      text.append(reinterpret_cast<const char*>(bytes->data.data()), bytes->data.size());
    }
    return text;
  }
  static std::string request(std::size_t size) {
    return "GET /" + std::to_string(size) + " HTTP/1.1\r\n\r\n";
  }
  void expect_exchange(SocketCookie cookie, std::size_t size) const {
    EXPECT_EQ(said(cookie, Direction::sent), request(size));
    const std::string response = said(cookie, Direction::received);
    ASSERT_GE(response.size(), size);
    EXPECT_EQ(response.substr(response.size() - size), body(size));
  }

  static inline Tap* tap_;
  static inline PrivateLibssl* libssl_;
  static inline TlsOrigin* origin_;
  std::uint32_t pid_ = 0;
};

TEST_F(SocketOfClientHello, OfTwoSessionsAtOnce) {
  const auto cookies = run(R"(
a, b = Session(connect()), Session(connect())
hello_a, hello_b = a.hello(), b.hello()
b.raw.sendall(hello_b)
a.raw.sendall(hello_a)
a.shake_hands(), b.shake_hands()
b.ask(2000), a.ask(10)
a.read(), b.read()
)");
  ASSERT_EQ(cookies.size(), 2u);
  expect_exchange(cookies[0], 10);
  expect_exchange(cookies[1], 2000);
}

// The library is called before the ClientHello is sent, which another thread does.
TEST_F(SocketOfClientHello, AfterTheObjectsFirstCall) {
  const auto cookies = run(R"(
session = Session(connect())
try:
    session.tls.read(1)
except ssl.SSLWantReadError:
    pass
hello = session.outgoing.read()
thread = threading.Thread(target=lambda: session.raw.sendall(hello))
thread.start(), thread.join()
session.shake_hands(), session.ask(3000), session.read()
)");
  ASSERT_EQ(cookies.size(), 1u);
  expect_exchange(cookies[0], 3000);
}

// The same bytes go out again, before anything is known of the object: from its own process, and others.
TEST_F(SocketOfClientHello, ReplayedByOthers) {
  const auto cookies = run(R"(
session, same, others = Session(connect()), connect(), [connect(), connect()]
hello = session.hello()
session.raw.sendall(hello)
same.sendall(hello)
for other in others:
    if os.fork() == 0:
        other.sendall(hello)
        os._exit(0)
    os.wait()
session.shake_hands(), session.ask(40), session.read()
)");
  ASSERT_EQ(cookies.size(), 4u);
  expect_exchange(cookies[0], 40);
  for (std::size_t i = 1; i < cookies.size(); ++i) EXPECT_TRUE(bytes_of(cookies[i]).empty()) << i;
}

constexpr const char* kChildGoesOn = R"(
if os.fork() == 0:
    session.ask(50), session.read()
    os._exit(0)
os.wait()
)";

TEST_F(SocketOfClientHello, OfAParentsObject) {
  const auto cookies = run(std::string("session = Session(connect())\nsession.shake_hands()") + kChildGoesOn);
  ASSERT_EQ(cookies.size(), 1u);
  expect_exchange(cookies[0], 50);
  for (const Bytes* bytes : bytes_of(cookies[0])) EXPECT_NE(bytes->process.pid, pid_);
}

// Whose of the two sockets a child's object is, the ClientHello can't tell; what the object has made can.
TEST_F(SocketOfClientHello, OfAParentsObjectReplayed) {
  const auto cookies = run(std::string(R"(
session, other = Session(connect()), connect()
hello = session.hello()
session.raw.sendall(hello)
other.sendall(hello)
session.shake_hands()
)") + kChildGoesOn);
  ASSERT_EQ(cookies.size(), 2u);
  EXPECT_TRUE(bytes_of(cookies[1]).empty());
  const std::string response = said(cookies[0], Direction::received);
  ASSERT_GE(response.size(), 50u);
  EXPECT_EQ(response.substr(response.size() - 50), body(50));
  // What was said before is told as of no socket, and of the same object.
  const auto without = tap_->events().all<Bytes>([&](const auto& event) { return !event.cookie; });
  ASSERT_EQ(without.size(), 1u);
  EXPECT_EQ(without.front()->data.size(), request(50).size());
  EXPECT_EQ(without.front()->object, bytes_of(cookies[0]).front()->object);
}

// By CONNECT, with a proxy that sends the ClientHello on from a socket of its own.
TEST_F(SocketOfClientHello, ThroughAProxy) {
  Child proxy({"python3", "-c", R"(
import socket, sys, threading
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
client = listener.accept()[0]
while not client.recv(1000).endswith(b"\r\n\r\n"):
    pass
there = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")

def pass_on(source, target):
    while data := source.recv(65536):
        target.sendall(data)
    target.shutdown(socket.SHUT_WR)

thread = threading.Thread(target=pass_on, args=(client, there))
thread.start()
pass_on(there, client)
thread.join()
)",
               std::to_string(origin_->port())});
  const std::string port = proxy.read_line();
  const auto cookies = run(R"(
raw = connect()
raw.sendall(b"CONNECT localhost:443 HTTP/1.1\r\nHost: localhost:443\r\n\r\n")
while not raw.recv(1000).endswith(b"\r\n\r\n"):
    pass
session = Session(raw)
session.shake_hands(), session.ask(600), session.read()
)",
                           static_cast<std::uint16_t>(std::stoul(port)));
  proxy.finish();
  ASSERT_EQ(cookies.size(), 1u);
  expect_exchange(cookies[0], 600);
  EXPECT_TRUE(
      tap_->events()
          .all<Bytes>([&](const auto& event) { return event.object && event.process.pid == proxy.pid(); })
          .empty());
}

// Nobody saw the ClientHello: its connection is told when it is used, and its bytes are linked by what is
// sent.
TEST_F(SocketOfClientHello, OlderThanThePrograms) {
  Child python({"python3", "-c", std::string(kSessions) + R"(
session = Session(connect())
session.shake_hands()
print("ready", flush=True)
sys.stdin.read()
session.ask(70), session.read()
)",
                std::to_string(origin_->port())},
               {libssl_->environment()});
  const SocketCookie cookie{std::stoull("0" + python.read_line())};
  const std::uint32_t pid = python.pid();
  ASSERT_EQ(python.read_line(), "ready");
  Tap late;
  const int file = libssl_->open();
  ASSERT_TRUE(late.kernel().attach(file, libssl_->sites()));
  ::close(file);
  python.finish();
  ASSERT_TRUE(late.wait_for([&] { return !late.events().closed(cookie).empty(); }));
  const auto opened = late.events().opened_by(pid);
  ASSERT_EQ(opened.size(), 1u);
  EXPECT_EQ(opened[0]->cookie, cookie);
  EXPECT_EQ(opened[0]->tuple.peer.port, origin_->port());
  EXPECT_TRUE(opened[0]->before_start);
  EXPECT_EQ(late.events().closed(cookie).size(), 1u);
  const auto bytes = late.events().all<Bytes>([=](const auto& event) { return event.process.pid == pid; });
  ASSERT_GE(bytes.size(), 2u);
  EXPECT_EQ(bytes.front()->cookie, SocketCookie{});  // the request was read before it was sent
  for (const Bytes* one : bytes) {
    EXPECT_EQ(one->object, bytes.front()->object);
    if (one != bytes.front()) {
      EXPECT_EQ(one->cookie, cookie);
    }
  }
}

// A server's object has the random bytes of its client, here the same process.
TEST_F(SocketOfClientHello, ReceivedByTheProcessThatSentIt) {
  const auto cookies = run(R"(
def anonymous(protocol):
    context = ssl.SSLContext(protocol)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("aNULL:@SECLEVEL=0")
    return context

listener = socket.create_server(("127.0.0.1", 0))

def serve():
    session = Session(listener.accept()[0], anonymous(ssl.PROTOCOL_TLS_SERVER), True)
    session.shake_hands()
    session.run(session.tls.read, 1000)
    session.run(session.tls.write, b"an answer")
    session.raw.close()

thread = threading.Thread(target=serve)
thread.start()
session = Session(connect(listener.getsockname()[1]), anonymous(ssl.PROTOCOL_TLS_CLIENT))
session.shake_hands()
session.ask(9)
session.run(session.tls.read, 1000)
thread.join()
)");
  ASSERT_EQ(cookies.size(), 1u);
  EXPECT_EQ(said(cookies[0], Direction::sent), request(9));
  EXPECT_EQ(said(cookies[0], Direction::received), "an answer");
}

}  // namespace
}  // namespace weir::test
