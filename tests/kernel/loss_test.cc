// What a full ring loses, and what the kernel side can't read: counted by cause, each byte once, and told
// before what comes next. Needs root.
#include <gtest/gtest.h>

#include <string>

#include "tests/kernel/support.h"

namespace weir::test {
namespace {

// A client in cleartext, and the server that it speaks to. Prints how many bytes it has sent when it has sent
// more than the ring holds, then 1,000 more at a word.
constexpr const char* kClient = R"(
import os, socket, sys, tempfile, threading
sys.stdin.readline()
listener = socket.create_server(("127.0.0.1", 0))
client = socket.create_connection(listener.getsockname())
server, _ = listener.accept()
def serve():
    while server.recv(100_000):
        pass
reader = threading.Thread(target=serve)
reader.start()
sent = 0
def send(data):
    global sent
    client.sendall(data)
    sent += len(data)
send(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 701000\r\n\r\n")
with tempfile.TemporaryFile() as file:
    file.write(b"f" * 200_000)
    file.seek(0)
    sent += client.sendfile(file)
for _ in range(50):
    send(b"r" * 10_000)
print(sent, flush=True)
sys.stdin.readline()
send(b"x" * 1000)
client.close()
reader.join()
)";

TEST(Loss, IsCountedToTheByteAndToldBeforeWhatComesNext) {
  if (!default_options().socket_events) GTEST_SKIP() << "cleartext isn't read by system calls";
  Child python({"python3", "-c", kClient});
  const std::uint32_t pid = python.pid();
  bpf::LoadOptions options = default_options();
  options.ring_bytes = 256 * 1024;
  options.filters.only.push_back(bpf::parse_filter("pid:" + std::to_string(pid)).value());
  Tap tap(options);
  python.write_line("flood");  // nobody reads the ring meanwhile
  const std::uint64_t sent = std::stoull("0" + python.read_line());
  ASSERT_TRUE(tap.wait_for([&] { return !tap.events().opened_by(pid).empty(); }));
  const SocketCookie cookie = tap.events().opened_by(pid).front()->cookie;
  tap.source().drain_for_the_end();
  const auto counters = tap.source().counters();
  python.write_line("go on");
  python.finish();
  ASSERT_TRUE(tap.wait_for([&] { return !tap.events().closed(cookie).empty(); }));

  EXPECT_EQ(counters.unaddressed_bytes, 200'000u);
  EXPECT_GT(counters.ring_full_bytes, 0u);
  EXPECT_EQ(counters.unreadable_bytes, 0u);
  std::uint64_t read = 0;
  const auto bytes = tap.events().all<Bytes>([&](const auto& event) { return event.cookie == cookie; });
  ASSERT_FALSE(bytes.empty());
  for (const Bytes* one : bytes) read += one->data.size();
  EXPECT_EQ(read - 1000 + counters.ring_full_bytes + counters.unaddressed_bytes, sent);
  EXPECT_EQ(tap.events().closed(cookie)[0]->plaintext_sent, sent + 1000);

  // In its order: what no memory was named for, where the ring's loss ends, and the bytes behind it.
  const auto gaps = tap.events().all<Gap>([&](const auto& event) { return event.cookie == cookie; });
  ASSERT_GE(gaps.size(), 2u);
  std::uint64_t unaddressed = 0;
  for (const Gap* gap : gaps) unaddressed += gap->reason == Gap::Reason::other ? gap->length : 0;
  EXPECT_EQ(unaddressed, 200'000u);
  EXPECT_EQ(gaps.back()->reason, Gap::Reason::ring_full);
  EXPECT_EQ(gaps.back()->offset, sent);
  EXPECT_EQ(gaps.back()->length, 0u);
  EXPECT_EQ(bytes.back()->offset, sent);
  EXPECT_LE(gaps.back()->time, bytes.back()->time);
  EXPECT_EQ(tap.source().counters().ring_full_bytes, counters.ring_full_bytes);
}

}  // namespace
}  // namespace weir::test
