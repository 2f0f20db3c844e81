// decode() on records made by hand: every kind, and everything that a record can have wrong.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <span>

#include "bpf/event_source.h"
#include "bpf/wire.h"

namespace weir::bpf {
namespace {

constexpr ClockOffset kClock{std::chrono::nanoseconds(1'000'000)};

template <class T>
T make(std::uint32_t kind) {
  T record{};
  wire_header header{kind, sizeof(T), 77};
  std::memcpy(&record, &header, sizeof header);
  return record;
}

template <class T>
std::vector<std::byte> to_bytes(const T& record, std::string_view payload = {}) {
  std::vector<std::byte> bytes(sizeof record + payload.size());
  std::memcpy(bytes.data(), &record, sizeof record);
  std::ranges::copy(std::as_bytes(std::span(payload)), bytes.begin() + sizeof record);
  return bytes;
}

template <class E, class T>
E decoded(const T& record, std::string_view payload = {}) {
  const auto event = decode(to_bytes(record, payload), kClock);
  EXPECT_TRUE(event && std::holds_alternative<E>(*event));
  return event && std::holds_alternative<E>(*event) ? std::get<E>(*event) : E{};
}

wire_exec make_exec() {
  auto exec = make<wire_exec>(WIRE_PROCESS_EXECED);
  exec.process.process = {42, 0, 4200};
  exec.process.parent = {1, 0, 100};
  exec.process.inner_pid = 7;
  exec.process.exec_id = 9;
  exec.process.uid = 1000;
  constexpr std::string_view path("curl\0bin\0usr\0", 13), arguments("curl\0\0-s\0", 9);
  std::memcpy(exec.text, path.data(), path.size());
  std::memcpy(exec.text + path.size(), arguments.data(), arguments.size());
  exec.process.path_bytes = path.size();
  exec.process.argument_bytes = arguments.size();
  exec.process.header.size = sizeof(wire_process) + path.size() + arguments.size();
  return exec;
}

TEST(Decode, Exec) {
  const auto event = decoded<ProcessEvent>(make_exec());
  EXPECT_EQ(event.what, ProcessEvent::What::execed);
  EXPECT_EQ(event.time.time_since_epoch().count(), 1'000'077);
  EXPECT_EQ(event.process, (ProcessKey{42, 4200}));
  EXPECT_EQ(event.parent, (ProcessKey{1, 100}));
  EXPECT_EQ(event.inner_pid, 7u);
  EXPECT_EQ(event.exec_id, 9u);
  EXPECT_EQ(event.uid, 1000u);
  EXPECT_EQ(event.executable_path, "/usr/bin/curl");
  EXPECT_EQ(event.arguments, (std::vector<std::string>{"curl", "", "-s"}));
  EXPECT_FALSE(event.arguments_truncated);
}

TEST(Decode, CutTextsAreSaidToBeCut) {
  auto exec = make_exec();
  exec.process.flags = WIRE_PATH_TRUNCATED | WIRE_ARGUMENTS_TRUNCATED;
  exec.process.argument_bytes -= 1;  // the last NUL is missing
  exec.process.header.size -= 1;
  const auto event = decoded<ProcessEvent>(exec);
  EXPECT_EQ(event.executable_path, ".../usr/bin/curl");
  EXPECT_EQ(event.arguments.back(), "-s");
  EXPECT_TRUE(event.arguments_truncated);
}

TEST(Decode, Policy) {
  auto decided = make<wire_policy_decided>(WIRE_POLICY_DECIDED);
  decided.owner.process = {42, 0, 4200};
  decided.owner.uid = 1000;
  decided.family = 4;
  decided.address[0] = 10;
  decided.port = 443;
  auto event = decoded<PolicyDecided>(decided);
  EXPECT_EQ(event.process, (ProcessKey{42, 4200}));
  EXPECT_EQ(event.uid, 1000u);
  EXPECT_EQ(event.peer.to_string(), "10.0.0.0:443");
  EXPECT_EQ(event.rule, "default");
  EXPECT_EQ(event.tap, Tap::native);
  EXPECT_FALSE(event.allowed || event.udp);
  std::memset(decided.rule, 'x', sizeof decided.rule);
  event = decoded<PolicyDecided>(decided);
  EXPECT_EQ(event.rule, std::string(sizeof decided.rule, 'x')) << "without its end";
  decided.family = 5;
  EXPECT_FALSE(decode(to_bytes(decided), kClock));
}

TEST(Decode, Connections) {
  auto opened = make<wire_opened>(WIRE_CONNECTION_OPENED);
  opened.owner = {99, {42, 0, 4200}, 5, 6, 7, 1000, 0, 0};
  opened.tuple.family = 4;
  opened.tuple.local[0] = 127;
  opened.tuple.local[3] = 1;
  opened.tuple.local_port = 1234;
  opened.tuple.peer[0] = 10;
  opened.tuple.peer_port = 443;
  opened.flags = WIRE_BEFORE_START;
  const auto event = decoded<ConnectionOpened>(opened);
  EXPECT_EQ(event.cookie.value, 99u);
  EXPECT_EQ(event.owner.pid, 42u);
  EXPECT_FALSE(event.owner_uid) << "who used it first need not have opened it";
  EXPECT_EQ(event.network_namespace_cookie, 5u);
  EXPECT_EQ(event.tuple.local.to_string(), "127.0.0.1:1234");
  EXPECT_EQ(event.tuple.peer.to_string(), "10.0.0.0:443");
  EXPECT_TRUE(event.before_start);
  EXPECT_FALSE(event.accepted);
  opened.flags = WIRE_ACCEPTED;
  EXPECT_TRUE(decoded<ConnectionOpened>(opened).accepted);
  EXPECT_EQ(decoded<ConnectionOpened>(opened).owner_uid, 1000u);
  EXPECT_EQ(decoded<ConnectionOpened>(opened).owner_exec_id, 7u);
  opened.tuple.family = 5;
  EXPECT_FALSE(decode(to_bytes(opened), kClock));

  auto closed = make<wire_closed>(WIRE_CONNECTION_CLOSED);
  closed.sent = 10;
  closed.plaintext_sent = 4;
  closed.error = 111;
  EXPECT_EQ(decoded<ConnectionClosed>(closed).bytes_sent, 10u);
  EXPECT_FALSE(decoded<ConnectionClosed>(closed).plaintext_sent.has_value());
  closed.flags = WIRE_HAS_PLAINTEXT;
  EXPECT_EQ(decoded<ConnectionClosed>(closed).plaintext_sent, 4u);
  EXPECT_EQ(decoded<ConnectionClosed>(closed).error, 111);
}

TEST(Decode, Tls) {
  auto handshake = make<wire_handshake>(WIRE_TLS_HANDSHAKE);
  handshake.object = {{42, 0, 4200}, 0xabc, 3, WIRE_LIBRARY_OPENSSL};
  handshake.version = 0x0304;
  const auto event = decoded<Handshake>(handshake);
  EXPECT_EQ(event.object, (TlsObjectId{{42, 4200}, 0xabc, 3}));
  EXPECT_EQ(event.version, "1.3");
  EXPECT_EQ(event.library, TlsLibrary::openssl);
  EXPECT_TRUE(event.completed);

  auto gap = make<wire_gap>(WIRE_TLS_GAP);
  gap.length = 16384;
  EXPECT_EQ(decoded<Gap>(gap).length, 16384u);
  for (const auto& [cause, reason] : {std::pair{WIRE_GAP_UNREADABLE, Gap::Reason::fault},
                                      std::pair{WIRE_GAP_UNADDRESSED, Gap::Reason::other},
                                      std::pair{WIRE_GAP_RING_FULL, Gap::Reason::ring_full}}) {
    gap.cause = cause;
    EXPECT_EQ(decoded<Gap>(gap).reason, reason);
  }
  auto ended = make<wire_ended>(WIRE_TLS_ENDED);
  ended.direction = WIRE_RECEIVED;
  ended.offset = 77;
  EXPECT_EQ(decoded<StreamEnded>(ended).direction, Direction::received);
  EXPECT_EQ(decoded<StreamEnded>(ended).offset, 77u);
}

TEST(Decode, CleartextBelongsToTheConnectionAndNamesItsCaller) {
  auto bytes = make<wire_bytes>(WIRE_TLS_BYTES);
  bytes.header.size = sizeof bytes + 5;
  bytes.length = 5;
  bytes.object = {{42, 0, 4200}, 0, 0, WIRE_LIBRARY_NONE};
  const auto event = decoded<Bytes>(bytes, "GET /");
  EXPECT_FALSE(event.object);
  EXPECT_EQ(event.process, (ProcessKey{42, 4200}));
}

// What OpenSSL's client would send for "a.test", with no other extension.
std::string client_hello() {
  const auto vector = [](std::size_t width, std::string content) {
    std::string length;
    for (std::size_t i = width; i-- > 0;) length += static_cast<char>(content.size() >> (8 * i));
    return length + content;
  };
  const std::string name = vector(2, std::string(1, '\0') + vector(2, "a.test"));
  const std::string extensions = std::string(2, '\0') + vector(2, name);
  const std::string hello = "\x03\x03" + std::string(32, 'r') + vector(1, "") + vector(2, "\x13\x01") +
                            vector(1, std::string(1, '\0')) + vector(2, extensions);
  return "\x16\x03\x01" + vector(2, "\x01" + vector(3, hello));
}

TEST(Decode, ClientHelloGivesTheServerName) {
  const std::string hello = client_hello();
  auto bytes = make<wire_bytes>(WIRE_CLIENT_HELLO);
  bytes.header.size = static_cast<__u32>(sizeof bytes + hello.size());
  bytes.length = static_cast<__u32>(hello.size());
  bytes.cookie = 7;
  const auto event = decoded<Handshake>(bytes, hello);
  EXPECT_EQ(event.cookie.value, 7u);
  EXPECT_EQ(event.sni, "a.test");
  EXPECT_EQ(event.library, TlsLibrary::unknown);
  EXPECT_FALSE(event.completed);
  // Cut short, it says less.
  bytes.header.size = sizeof bytes + 10;
  bytes.length = 10;
  EXPECT_EQ(decoded<Handshake>(bytes, hello.substr(0, 10)).sni, "");
}

TEST(Decode, BytesLeaveOutTheRestOfTheReservation) {
  auto bytes = make<wire_bytes>(WIRE_TLS_BYTES);
  bytes.header.size = sizeof bytes + 5;
  bytes.length = 5;
  bytes.offset = 1000;
  const auto event = decoded<Bytes>(bytes, "hello, and what the ring rounded up");
  EXPECT_EQ(event.offset, 1000u);
  EXPECT_EQ(std::string(reinterpret_cast<const char*>(event.data.data()), event.data.size()), "hello");
  bytes.length = 6;
  EXPECT_FALSE(decode(to_bytes(bytes, "hello world"), kClock));
}

// Whatever the bytes are: an event or nothing, and never a byte beyond the record (AddressSanitizer watches).
TEST(Decode, SurvivesCutAndDamagedRecords) {
  auto bytes = make<wire_bytes>(WIRE_TLS_BYTES);
  bytes.header.size = sizeof bytes + 5;
  bytes.length = 5;
  auto handshake = make<wire_handshake>(WIRE_TLS_HANDSHAKE);
  auto exec = to_bytes(make_exec());
  exec.resize(make_exec().process.header.size);
  for (const auto& whole : {exec, to_bytes(bytes, "hello"), to_bytes(handshake),
                            to_bytes(make<wire_opened>(WIRE_CONNECTION_OPENED))}) {
    for (std::size_t size = 0; size < whole.size(); ++size) {
      const std::vector<std::byte> cut(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(size));
      EXPECT_FALSE(decode(cut, kClock)) << size;
    }
    const std::size_t head = std::min<std::size_t>(whole.size(), 120);
    for (std::size_t at = 0; at < head; ++at) {
      auto damaged = whole;
      damaged[at] = std::byte{0xff};
      (void)decode(damaged, kClock);
    }
  }
}

TEST(Decode, RefusesUnknownKindsAndLyingSizes) {
  EXPECT_FALSE(decode(to_bytes(make<wire_header>(static_cast<wire_kind>(0))), kClock));
  EXPECT_FALSE(decode(to_bytes(make<wire_header>(200)), kClock));
  auto exec = make_exec();
  exec.process.path_bytes = WIRE_PATH_BYTES + 1;
  EXPECT_FALSE(decode(to_bytes(exec), kClock));
  exec = make_exec();
  exec.process.argument_bytes = WIRE_ARGUMENT_BYTES + 1;
  EXPECT_FALSE(decode(to_bytes(exec), kClock));
  exec = make_exec();
  exec.process.path_bytes += exec.process.argument_bytes + 1;  // more than the record holds
  EXPECT_FALSE(decode(to_bytes(exec), kClock));
  exec = make_exec();
  exec.process.header.size = 8;
  EXPECT_FALSE(decode(to_bytes(exec), kClock));
  exec.process.header.size = sizeof exec + 1;
  EXPECT_FALSE(decode(to_bytes(exec), kClock));
}

TEST(Decode, RefusesWhatNoKernelWouldSay) {
  auto closed = make<wire_closed>(WIRE_CONNECTION_CLOSED);
  closed.error = -1;
  EXPECT_FALSE(decode(to_bytes(closed), kClock));
  closed.error = 0;
  closed.header.boot_ns = INT64_MAX;
  EXPECT_FALSE(decode(to_bytes(closed), kClock));
}

}  // namespace
}  // namespace weir::bpf
