// Plaintext and connections of real TLS clients, as the loaded programs tell them. Needs root.
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <set>
#include <string>

#include "tests/kernel/support.h"

namespace weir::test {
namespace {

// One loaded kernel side and one probed copy of libssl for all tests: attaching takes tens of milliseconds.
class Tls : public ::testing::Test {
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

  std::string url(const std::string& path) const {
    return "https://localhost:" + std::to_string(origin_->port()) + path;
  }
  const ConnectionOpened* only_connection(std::uint32_t pid) {
    tap_->wait_for([&] {
      const auto opened = tap_->events().opened_by(pid);
      return !opened.empty() && !tap_->events().closed(opened.back()->cookie).empty();
    });
    const auto opened = tap_->events().opened_by(pid);
    return opened.size() == 1 ? opened.front() : nullptr;
  }

  static inline Tap* tap_;
  static inline PrivateLibssl* libssl_;
  static inline TlsOrigin* origin_;
};

// The kinds of links that this process holds, as the kernel names them.
std::set<std::string> link_types() {
  std::set<std::string> types;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fdinfo")) {
    std::ifstream info(entry.path());
    for (std::string key, value; info >> key >> value;)
      if (key == "link_type:") types.insert(value);
  }
  return types;
}

TEST_F(Tls, TheWayIsTheOneThatWasAskedFor) {
  const auto options = default_options();
  std::set<std::string> names;
  for (const auto& program : tap_->kernel().programs()) names.insert(program.name);
  EXPECT_EQ(names.contains("sock_send_length (BTF tracepoint)"), options.socket_events);
  EXPECT_EQ(names.contains("sys_enter (BTF tracepoint)"), !options.socket_events);
  EXPECT_EQ(link_types().contains("uprobe_multi"), options.uprobe_multi);
}

TEST_F(Tls, CurlsExchangeIsWhole) {
  Child curl({"curl", "-sk4", "-o", "/dev/null", url("/40000")}, {libssl_->environment()});
  const std::uint32_t pid = curl.pid();
  curl.finish();
  const auto* opened = only_connection(pid);
  ASSERT_NE(opened, nullptr);
  const auto served = origin_->served_to(opened->tuple.local.port);
  EXPECT_EQ(opened->tuple.peer.to_string(), "127.0.0.1:" + std::to_string(origin_->port()));
  EXPECT_FALSE(served.request.empty());
  EXPECT_EQ(tap_->events().stream(opened->cookie, Direction::sent), served.request);
  EXPECT_EQ(tap_->events().stream(opened->cookie, Direction::received), served.response);

  const auto handshakes =
      tap_->events().all<Handshake>([&](const auto& event) { return event.cookie == opened->cookie; });
  ASSERT_EQ(handshakes.size(), 2u);  // the ClientHello on the socket, the session at the library
  EXPECT_EQ(handshakes[0]->sni, "localhost");
  EXPECT_EQ(handshakes[1]->version, "1.3");
  EXPECT_EQ(handshakes[1]->library, TlsLibrary::openssl);

  const auto closed = tap_->events().closed(opened->cookie);
  ASSERT_EQ(closed.size(), 1u);
  EXPECT_EQ(closed[0]->bytes_sent, served.raw_received);
  EXPECT_EQ(closed[0]->bytes_received, served.raw_sent);
  EXPECT_EQ(closed[0]->plaintext_sent, served.request.size());
  EXPECT_EQ(closed[0]->plaintext_received, served.response.size());
  EXPECT_EQ(closed[0]->error, 0);
}

// Who rejects a certificate says nothing; the session's library is told all the same.
TEST_F(Tls, ASessionInWhichNothingWasSaid) {
  Child curl({"curl", "-s4", "--cacert", "/etc/ssl/certs/ca-certificates.crt", url("/1")},
             {libssl_->environment()});
  const std::uint32_t pid = curl.pid();
  curl.finish();
  const auto* opened = only_connection(pid);
  ASSERT_NE(opened, nullptr);
  const auto handshakes =
      tap_->events().all<Handshake>([&](const auto& event) { return event.cookie == opened->cookie; });
  ASSERT_EQ(handshakes.size(), 2u);
  EXPECT_EQ(handshakes[1]->library, TlsLibrary::openssl);
  EXPECT_TRUE(handshakes[1]->unused);
  const auto closed = tap_->events().closed(opened->cookie);
  ASSERT_EQ(closed.size(), 1u);
  EXPECT_FALSE(closed[0]->plaintext_sent);
}

// A Python client that prints "pid-local port-cookie" and then does what its arguments say.
constexpr const char* kPythonClient = R"(
import socket, ssl, sys, mmap
port, blocking, size, memory = int(sys.argv[1]), sys.argv[2] == "blocking", int(sys.argv[3]), sys.argv[4]
context = ssl._create_unverified_context()
raw = socket.create_connection(("127.0.0.1", port))
cookie = int.from_bytes(raw.getsockopt(socket.SOL_SOCKET, 57, 8), "little")
print(cookie, flush=True)
tls = context.wrap_socket(raw, server_hostname="sized.test")
state = 1
data = bytearray(size)
for i in range(size if memory == "touched" else 0):
    state = (state * 1664525 + 1013904223) & 0xffffffff
    data[i] = state >> 24
if memory == "untouched":
    data = mmap.mmap(-1, max(size, 1))
tls.sendall(b"POST / HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % size)
if blocking:
    tls.sendall(memoryview(data)[:size])
else:
    import select
    tls.setblocking(False)
    view = memoryview(data)[:size]
    while view:
        try:
            view = view[tls.send(view):]
        except (ssl.SSLWantWriteError, ssl.SSLWantReadError):
            select.select([tls], [tls], [])
    tls.setblocking(True)
while tls.recv(100000):
    pass
tls.close()
)";

struct Sized {
  const char* mode;
  std::size_t bytes;
  const char* memory;
};

class SizedBodies : public Tls, public ::testing::WithParamInterface<Sized> {};

TEST_P(SizedBodies, SentByPythonAreWhole) {
  const auto& [mode, bytes, memory] = GetParam();
  Child python(
      {"python3", "-c", kPythonClient, std::to_string(origin_->port()), mode, std::to_string(bytes), memory},
      {libssl_->environment()});
  const std::uint32_t pid = python.pid();
  const SocketCookie cookie{std::stoull("0" + python.read_line())};
  python.finish();
  const auto* opened = only_connection(pid);
  ASSERT_NE(opened, nullptr);
  EXPECT_EQ(opened->cookie, cookie);
  const auto served = origin_->served_to(opened->tuple.local.port);
  const auto sent = tap_->events().stream(cookie, Direction::sent);
  EXPECT_EQ(sent.size(), served.request.size());
  EXPECT_TRUE(sent == served.request);
  EXPECT_TRUE(tap_->events().stream(cookie, Direction::received) == served.response);
  const auto closed = tap_->events().closed(cookie);
  EXPECT_EQ(closed[0]->plaintext_sent, served.request.size());
  EXPECT_EQ(closed[0]->bytes_sent, served.raw_received);
}

INSTANTIATE_TEST_SUITE_P(
    Tls, SizedBodies,
    ::testing::Values(Sized{"blocking", 1, "touched"}, Sized{"blocking", 8191, "touched"},
                      Sized{"blocking", 8192, "touched"}, Sized{"blocking", 8193, "touched"},
                      Sized{"blocking", 16384, "touched"}, Sized{"blocking", 16385, "touched"},
                      Sized{"blocking", 32769, "untouched"}, Sized{"blocking", 5'000'000, "untouched"},
                      Sized{"nonblocking", 5'000'000, "touched"},
                      Sized{"nonblocking", 5'000'000, "untouched"}),
    [](const auto& parameter) {
      return std::string(parameter.param.mode) + std::to_string(parameter.param.bytes) +
             parameter.param.memory;
    });

// The kernel ends a thread with SIGILL whose uretprobes return in another order than they were entered.
TEST_F(Tls, FibersThatSwitchInsideACallLiveAndAreSeen) {
  Child fibers({WEIR_FIBERS, std::to_string(origin_->port()), "8"}, {libssl_->environment()});
  const std::uint32_t pid = fibers.pid();
  ASSERT_EQ(fibers.finish(), "whole\n");
  tap_->wait_for([&] {
    const auto opened = tap_->events().opened_by(pid);
    return opened.size() == 8 && std::ranges::all_of(opened, [&](const auto* one) {
             return !tap_->events().closed(one->cookie).empty();
           });
  });
  for (const auto* opened : tap_->events().opened_by(pid)) {
    const auto served = origin_->served_to(opened->tuple.local.port);
    EXPECT_FALSE(served.request.empty());
    EXPECT_TRUE(tap_->events().stream(opened->cookie, Direction::sent) == served.request);
    EXPECT_TRUE(tap_->events().stream(opened->cookie, Direction::received) == served.response);
  }
}

TEST_F(Tls, ReceivedBodiesOfAnySizeAreWhole) {
  for (const std::size_t size : {1, 8191, 8192, 8193, 16384, 16385, 32769, 5'000'000}) {
    Child curl({"curl", "-sk4", "-o", "/dev/null", url("/" + std::to_string(size))},
               {libssl_->environment()});
    const std::uint32_t pid = curl.pid();
    curl.finish();
    const auto* opened = only_connection(pid);
    ASSERT_NE(opened, nullptr);
    const auto served = origin_->served_to(opened->tuple.local.port);
    EXPECT_TRUE(tap_->events().stream(opened->cookie, Direction::received) == served.response) << size;
  }
}

// One SSL object, given one socket after the other: with SSL_clear between them, and without.
TEST_F(Tls, AReusedObjectIsAnotherGeneration) {
  for (const char* between : {"clear", "nothing"}) {
    Child python({"python3", "-c", R"(
import ctypes, socket, sys
ssl = ctypes.CDLL("libssl.so.3")
for name in "TLS_client_method", "SSL_CTX_new", "SSL_new":
    getattr(ssl, name).restype = ctypes.c_void_p
context = ctypes.c_void_p(ssl.SSL_CTX_new(ctypes.c_void_p(ssl.TLS_client_method())))
tls = ctypes.c_void_p(ssl.SSL_new(context))
for request in b"GET /10 HTTP/1.1\r\n\r\n", b"GET /2000 HTTP/1.1\r\n\r\n":
    raw = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
    ssl.SSL_set_fd(tls, raw.fileno())
    assert ssl.SSL_connect(tls) == 1
    assert ssl.SSL_write(tls, request, len(request)) == len(request)
    buffer = ctypes.create_string_buffer(100000)
    while ssl.SSL_read(tls, buffer, 100000) > 0:
        pass
    ssl.SSL_shutdown(tls)
    raw.close()
    if sys.argv[2] == "clear":
        assert ssl.SSL_clear(tls) == 1
    else:
        ssl.SSL_set_shutdown(tls, 0)
        ssl.SSL_set_connect_state(tls)
)",
                  std::to_string(origin_->port()), between},
                 {libssl_->environment()});
    const std::uint32_t pid = python.pid();
    python.finish();
    ASSERT_TRUE(tap_->wait_for([&] {
      const auto opened = tap_->events().opened_by(pid);
      return opened.size() == 2 && !tap_->events().closed(opened[1]->cookie).empty();
    }));
    std::set<std::uint32_t> generations;
    for (const auto* opened : tap_->events().opened_by(pid)) {
      const auto served = origin_->served_to(opened->tuple.local.port);
      EXPECT_TRUE(tap_->events().stream(opened->cookie, Direction::sent) == served.request);
      EXPECT_TRUE(tap_->events().stream(opened->cookie, Direction::received) == served.response);
      const auto bytes =
          tap_->events().all<Bytes>([&](const auto& event) { return event.cookie == opened->cookie; });
      ASSERT_FALSE(bytes.empty());
      generations.insert(bytes[0]->object.generation);
    }
    EXPECT_EQ(generations.size(), 2u) << between;
  }
}

// With counters of its own: Tls has none of what is lost.
class SentByTheKernel : public Tls {};

// A kernel that encrypts is not needed: a BIO of the program's own says that it does, and the file goes into
// a socket that nobody reads as TLS.
TEST_F(SentByTheKernel, AFileIsAGapOfItsLength) {
  constexpr std::uint64_t kLength = 70'000;
  Child python({"python3", "-c", R"(
import ctypes, socket, sys, tempfile
ssl = ctypes.CDLL("libssl.so.3")
pointer, size = ctypes.c_void_p, int(sys.argv[2])
def call(name, *arguments, result=pointer):
    function = getattr(ssl, name)
    function.restype = result
    value = function(*arguments)
    return pointer(value) if result is pointer else value
tls = call("SSL_new", call("SSL_CTX_new", call("TLS_client_method")))
raw = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
ssl.SSL_set_fd(tls, raw.fileno())
assert ssl.SSL_connect(tls) == 1
request = b"GET /10 HTTP/1.1\r\n\r\n"
assert ssl.SSL_write(tls, request, len(request)) == len(request)
buffer = ctypes.create_string_buffer(1000)
while ssl.SSL_read(tls, buffer, 1000) > 0:
    pass
sink, other_end = socket.socketpair()
FLUSH, GET_KTLS_SEND, GET_FD, DESCRIPTOR = 11, 73, 105, 0x0100
@ctypes.CFUNCTYPE(ctypes.c_long, pointer, ctypes.c_int, ctypes.c_long, pointer)
def control(bio, command, number, place):
    if command == GET_FD and place:
        ctypes.cast(place, ctypes.POINTER(ctypes.c_int))[0] = sink.fileno()
    return sink.fileno() if command == GET_FD else command in (FLUSH, GET_KTLS_SEND)
method = call("BIO_meth_new", DESCRIPTOR | 99, b"stands for the kernel's TLS")
ssl.BIO_meth_set_ctrl(method, control)
bio = call("BIO_new", method)
ssl.BIO_set_init(bio, 1)
call("SSL_set0_wbio", tls, bio, result=None)
with tempfile.TemporaryFile() as file:
    file.write(bytes(size))
    file.flush()
    sent = call("SSL_sendfile", tls, file.fileno(), ctypes.c_long(0), ctypes.c_size_t(size), 0,
                result=ctypes.c_ssize_t)
    assert sent == size, sent
    assert call("SSL_sendfile", tls, -1, ctypes.c_long(0), ctypes.c_size_t(1), 0, result=ctypes.c_ssize_t) < 0
raw.close()
)",
                std::to_string(origin_->port()), std::to_string(kLength)},
               {libssl_->environment()});
  const std::uint32_t pid = python.pid();
  python.finish();
  const auto* opened = only_connection(pid);
  ASSERT_NE(opened, nullptr);
  const auto served = origin_->served_to(opened->tuple.local.port);
  const auto gaps =
      tap_->events().all<Gap>([&](const auto& event) { return event.cookie == opened->cookie; });
  ASSERT_EQ(gaps.size(), 1u);
  EXPECT_EQ(gaps[0]->direction, Direction::sent);
  EXPECT_EQ(gaps[0]->offset, served.request.size());
  EXPECT_EQ(gaps[0]->length, kLength);
  EXPECT_EQ(tap_->events().closed(opened->cookie)[0]->plaintext_sent, served.request.size() + kLength);
}

// A server's side is not copied, nor is its connection told.
TEST_F(Tls, AcceptedConnectionsAreSilent) {
  const TemporaryDirectory directory;
  const std::string key = directory.path() / "key.pem", certificate = directory.path() / "cert.pem";
  Child({"openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj",
         "/CN=localhost", "-keyout", key, "-out", certificate})
      .finish();
  Child server({"python3", "-c", R"(
import ssl, socket, sys
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[2], sys.argv[1])
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
connection = context.wrap_socket(listener.accept()[0], server_side=True)
connection.recv(1000)
connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
connection.unwrap()
)",
                key, certificate},
               {libssl_->environment()});
  const std::string port = server.read_line();
  Child curl({"curl", "-sk4", "https://127.0.0.1:" + port + "/"}, {libssl_->environment()});
  const std::uint32_t client = curl.pid(), serving = server.pid();
  EXPECT_EQ(curl.finish(), "ok");
  server.finish();
  ASSERT_NE(only_connection(client), nullptr);
  EXPECT_FALSE(
      tap_->events().all<Bytes>([=](const auto& event) { return event.process.pid == client; }).empty());
  EXPECT_TRUE(
      tap_->events().all<Bytes>([=](const auto& event) { return event.process.pid == serving; }).empty());
  EXPECT_TRUE(tap_->events().opened_by(serving).empty());
}

// A client and a server that were connected before the programs came: the client's side is told from then on.
TEST_F(Tls, ConnectionsOlderThanTheProgramsAreSaidToBe) {
  Child python({"python3", "-c", R"(
import socket, ssl, subprocess, sys, tempfile
directory = tempfile.TemporaryDirectory()
key, certificate = directory.name + "/key", directory.name + "/certificate"
subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj",
                "/CN=localhost", "-keyout", key, "-out", certificate], check=True, stderr=subprocess.DEVNULL)
serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
serving.load_cert_chain(certificate, key)
with socket.create_server(("127.0.0.1", 0)) as free:
    port = free.getsockname()[1]
listener = socket.socket()
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listener.bind(("127.0.0.1", port))
listener.listen()
client = socket.create_connection(("127.0.0.1", port))
server = listener.accept()[0]
cookie = int.from_bytes(client.getsockopt(socket.SOL_SOCKET, 57, 8), "little")
import threading
def serve():
    global server
    server = serving.wrap_socket(server, server_side=True)
thread = threading.Thread(target=serve)
thread.start()
client = ssl._create_unverified_context().wrap_socket(client)
thread.join()
print(cookie, flush=True)
sys.stdin.read()
client.sendall(b"question")
server.recv(100)
server.sendall(b"answer")
client.recv(100)
)"},
               {libssl_->environment()});
  const std::uint32_t pid = python.pid();
  const SocketCookie cookie{std::stoull("0" + python.read_line())};
  Tap late;
  const int file = libssl_->open();
  ASSERT_TRUE(late.kernel().attach(file, libssl_->sites()));
  ::close(file);
  python.finish();
  ASSERT_TRUE(late.wait_for([&] { return !late.events().closed(cookie).empty(); }));
  const auto opened = late.events().opened_by(pid);
  ASSERT_EQ(opened.size(), 1u);
  EXPECT_EQ(opened[0]->cookie, cookie);
  EXPECT_TRUE(opened[0]->before_start);
  EXPECT_EQ(late.events().stream(cookie, Direction::sent), "question");
  EXPECT_EQ(late.events().stream(cookie, Direction::received), "answer");
  for (const auto* bytes :
       late.events().all<Bytes>([=](const auto& event) { return event.process.pid == pid; }))
    EXPECT_EQ(bytes->cookie, cookie);
}

TEST_F(Tls, NothingIsLost) {
  const auto counters = tap_->source().counters();
  EXPECT_EQ(counters.malformed, 0u);
  EXPECT_EQ(counters.ring_full, 0u);
  EXPECT_EQ(counters.faults, 0u);
  EXPECT_EQ(counters.table_full, 0u);
}

}  // namespace
}  // namespace weir::test
