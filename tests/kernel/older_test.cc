// What was there before the programs were loaded: connections, in whatever network namespace, and TLS objects
// whose program does the sending itself. Needs root.
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <set>
#include <sstream>
#include <string>

#include "tests/kernel/support.h"

namespace weir::test {
namespace {

std::uint32_t self() {
  return static_cast<std::uint32_t>(::getpid());
}

void seed(Tap& tap, bool again = false) {
  const auto iterator = tap.kernel().open_socket_iterator(again);
  ASSERT_TRUE(iterator) << iterator.error().what;
  const auto seeded = tap.source().seed_connections(*iterator);
  ::close(*iterator);
  ASSERT_TRUE(seeded) << seeded.error().what;
}

// Opens a connection to itself in its own network namespace, tells of both ends, and says a word on it when
// it is told to.
constexpr const char* kNamespaceClient = R"(
import fcntl, socket, struct, sys
with socket.socket() as control:
    fcntl.ioctl(control, 0x8914, struct.pack("16sH14x", b"lo", 1))  # SIOCSIFFLAGS, IFF_UP
family, address = (socket.AF_INET6, "::1") if sys.argv[1] == "6" else (socket.AF_INET, "127.0.0.1")
with socket.socket(family) as listener:
    listener.bind((address, 0))
    listener.listen()
    client = socket.create_connection(listener.getsockname()[:2])
    server = listener.accept()[0]
def cookie(one, option=57):
    return int.from_bytes(one.getsockopt(socket.SOL_SOCKET, option, 8), "little")
print(client.getsockname()[1], client.getpeername()[1], cookie(client, 71), flush=True)
sys.stdin.read()
client.sendall(b"four")
server.recv(4)
client.close()
print(cookie(server))
)";

TEST(Older, ConnectionsAreToldWithCookieTupleAndOwner) {
  for (const std::string family : {"4", "6"}) {
    Child client({"unshare", "-n", "python3", "-c", kNamespaceClient, family});
    std::uint16_t local = 0, peer = 0;
    std::uint64_t namespace_cookie = 0;
    std::istringstream(client.read_line()) >> local >> peer >> namespace_cookie;
    ASSERT_NE(local, 0);

    Tap late;
    seed(late);
    const auto opened = late.events().opened_by(client.pid());
    ASSERT_EQ(opened.size(), 1u) << "the accepted side is none of the process's own connections";
    const std::string address = family == "4" ? "127.0.0.1:" : "[::1]:";
    EXPECT_EQ(opened[0]->tuple.local.to_string(), address + std::to_string(local));
    EXPECT_EQ(opened[0]->tuple.peer.to_string(), address + std::to_string(peer));
    EXPECT_EQ(opened[0]->network_namespace_cookie, namespace_cookie);
    EXPECT_TRUE(opened[0]->before_start);
    EXPECT_NE(opened[0]->owner.start_boottime_ns, 0u);

    const SocketCookie cookie = opened[0]->cookie;
    EXPECT_NE(cookie.value, 0u);
    client.finish();
    ASSERT_TRUE(late.wait_for([&] { return !late.events().closed(cookie).empty(); }));
    ASSERT_EQ(late.events().closed(cookie).size(), 1u);
    EXPECT_EQ(late.events().closed(cookie)[0]->bytes_sent, 4u);
  }
}

// A connection is told by the hooks or by the iterator, once; to a reader that comes later, again.
TEST(Older, WhatOpensMeanwhileIsToldOnce) {
  Tap tap;
  Child client({"unshare", "-n", "python3", "-c", kNamespaceClient, "4"});
  client.read_line();
  const auto told = [&] { return tap.events().opened_by(client.pid()).size(); };
  seed(tap);
  ASSERT_TRUE(tap.wait_for([&] { return told() > 0; }));
  EXPECT_EQ(told(), 1u);
  EXPECT_FALSE(tap.events().opened_by(client.pid())[0]->before_start);
  seed(tap, true);
  ASSERT_EQ(told(), 2u);
  const auto opened = tap.events().opened_by(client.pid());
  EXPECT_EQ(opened[0]->cookie, opened[1]->cookie);
  EXPECT_EQ(opened[0]->tuple, opened[1]->tuple);
  EXPECT_TRUE(opened[1]->before_start);
}

// Two sessions through memory BIOs and a connection in the clear, all on one thread, in turns: the clients of
// asyncio and Node are like this. Prints the cookies before anything but the handshakes is said.
constexpr const char* kMemoryClient = R"(
import socket, ssl, sys
context = ssl._create_unverified_context()
def cookie(raw):
    return int.from_bytes(raw.getsockopt(socket.SOL_SOCKET, 57, 8), "little")
class Session:
    def __init__(self):
        self.raw = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing)
        while True:
            try:
                self.tls.do_handshake()
                self.flush()
                return
            except ssl.SSLWantReadError:
                self.flush()
                self.incoming.write(self.raw.recv(65536))
    def flush(self):
        if self.outgoing.pending:
            self.raw.sendall(self.outgoing.read())
    def receive(self):
        while True:
            try:
                data = self.tls.read(65536)
                if not data:
                    return
            except ssl.SSLWantReadError:
                more = self.raw.recv(65536)
                if not more:
                    return
                self.incoming.write(more)
            except ssl.SSLError:
                return
listener = socket.create_server(("127.0.0.1", 0))
plain = socket.create_connection(listener.getsockname())
far = listener.accept()[0]
sessions = [Session(), Session()]
print(cookie(plain), *(cookie(one.raw) for one in sessions), flush=True)
sys.stdin.read()
for i in range(2):
    plain.sendall(b"not a request, whatever it looks like\n")
    far.recv(100)
requests = [b"GET /1%d HTTP/1.1\r\nHost: %s\r\n\r\n" % (i, b"h" * 3) for i in range(2)]
# Both have made their records before either is sent, and the last one made goes first.
for one, request in zip(sessions, requests):
    one.tls.write(request)
plain.sendall(b"between")
for one in reversed(sessions):
    one.flush()
for one in sessions:
    one.receive()
)";

TEST(OlderTlsObjects, AreLinkedByTheirCiphertext) {
  const TlsOrigin origin;
  const PrivateLibssl libssl;
  Child python({"python3", "-c", kMemoryClient, std::to_string(origin.port())}, {libssl.environment()});
  std::uint64_t plain = 0, sessions[2] = {};
  std::istringstream(python.read_line()) >> plain >> sessions[0] >> sessions[1];
  ASSERT_NE(sessions[1], 0u);

  Tap late;
  const std::uint32_t own = self();
  late.kernel().set_own_processes({&own, 1});
  const int file = libssl.open();
  ASSERT_TRUE(late.kernel().attach(file, libssl.sites()));
  ::close(file);
  seed(late);
  const std::uint32_t pid = python.pid();
  python.finish();
  ASSERT_TRUE(late.wait_for([&] { return !late.events().closed({sessions[1]}).empty(); }));

  // The object of each socket, and what was said through it before and after its socket was known.
  for (std::size_t i = 0; i < 2; ++i) {
    const SocketCookie cookie{sessions[i]};
    std::set<TlsObjectId> objects;
    for (const auto* bytes : late.events().all<Bytes>([&](const auto& one) { return one.cookie == cookie; }))
      objects.insert(bytes->object);
    ASSERT_EQ(objects.size(), 1u) << i;
    std::string sent, received;
    for (const auto* bytes :
         late.events().all<Bytes>([&](const auto& one) { return one.object == *objects.begin(); })) {
      auto& stream = bytes->direction == Direction::sent ? sent : received;
      EXPECT_EQ(bytes->offset, stream.size());
      stream.append(reinterpret_cast<const char*>(bytes->data.data()), bytes->data.size());
      EXPECT_TRUE(!bytes->cookie || bytes->cookie == cookie);
    }
    EXPECT_TRUE(sent.starts_with("GET /1" + std::to_string(i) + " ")) << sent;
    EXPECT_EQ(received.substr(0, 15), "HTTP/1.1 200 OK");
    EXPECT_TRUE(received.ends_with(body(10 + i)));
    const auto closed = late.events().closed(cookie);
    ASSERT_FALSE(closed.empty());
    EXPECT_EQ(closed[0]->plaintext_sent, sent.size());
    EXPECT_EQ(closed[0]->plaintext_received, received.size());
  }
  EXPECT_TRUE(late.events()
                  .all<Bytes>([&](const auto& one) {
                    return one.process.pid == pid && one.cookie == SocketCookie{plain};
                  })
                  .empty());
}

}  // namespace
}  // namespace weir::test
