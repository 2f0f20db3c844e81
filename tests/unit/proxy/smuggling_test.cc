// Requests that two readers could take for different ones, and what is malformed in other ways: each ends in
// an answer of the proxy's own or in a closed connection, and nothing of it arrives at an origin.
#include <gtest/gtest.h>

#include "h2_bridge.h"
#include "harness.h"

namespace weir::proxy::test {
namespace {

using std::string;

struct Case {
  const char* what;
  string bytes;
};

const string kNext = "GET /smuggled HTTP/1.1\r\nHost: o.test\r\n\r\n";

// `target`: "/" or an absolute one.
std::vector<Case> cases(const string& target) {
  const string get = "GET " + target + " HTTP/1.1\r\nHost: o.test\r\n";
  const string post = "POST " + target + " HTTP/1.1\r\nHost: o.test\r\n";
  const string chunked = post + "Transfer-Encoding: chunked\r\n\r\n";
  return {
      // Two lengths
      {"CL.TE", post + "Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nG"},
      {"TE.CL",
       post + "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n5c\r\n" + kNext + "\r\n0\r\n\r\n"},
      {"two lengths", post + "Content-Length: 0\r\nContent-Length: 40\r\n\r\n" + kNext},
      {"the same length twice", post + "Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc"},
      {"a list of lengths", post + "Content-Length: 3, 3\r\n\r\nabc"},
      {"a length with a sign", post + "Content-Length: +3\r\n\r\nabc"},
      {"a length below nothing", post + "Content-Length: -1\r\n\r\n"},
      {"a length in hexadecimal", post + "Content-Length: 0x3\r\n\r\nabc"},
      {"a length with an underscore", post + "Content-Length: 1_0\r\n\r\n"},
      {"a length beyond 64 bits", post + "Content-Length: 18446744073709551616\r\n\r\n"},
      {"an empty length", post + "Content-Length: \r\n\r\n"},
      {"a length in the middle of text", post + "Content-Length: 3abc\r\n\r\nabc"},
      // Transfer-Encoding in disguise
      {"chunked twice", post + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"},
      {"chunked and identity", post + "Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n"},
      {"identity", post + "Transfer-Encoding: identity\r\nContent-Length: 3\r\n\r\nabc"},
      {"xchunked", post + "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"},
      {"chunked in quotes", post + "Transfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n"},
      {"a vertical tab before chunked", post + "Transfer-Encoding:\x0b"
                                               "chunked\r\n\r\n0\r\n\r\n"},
      {"a space before the colon", post + "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n"},
      {"a tab before the colon", post + "Transfer-Encoding\t: chunked\r\n\r\n0\r\n\r\n"},
      {"a folded value", post + "Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n"},
      {"a folded length", post + "Content-Length: 4\r\n 0\r\n\r\nabcd"},
      {"a field behind a bare LF", post + "X: y\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"},
      {"a field behind a bare CR", post + "X: y\rTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"},
      {"chunked of HTTP/1.0",
       "POST " + target + " HTTP/1.0\r\nHost: o.test\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"},
      // Chunks
      {"a chunk's size in C's way", chunked + "0x3\r\nabc\r\n0\r\n\r\n"},
      {"a chunk's size with a sign", chunked + "+3\r\nabc\r\n0\r\n\r\n"},
      {"a chunk below nothing", chunked + "-3\r\nabc\r\n0\r\n\r\n"},
      {"a chunk's size beyond 64 bits", chunked + "10000000000000003\r\nabc\r\n0\r\n\r\n"},
      {"a space behind a chunk's size", chunked + "3 \r\nabc\r\n0\r\n\r\n"},
      {"no size of a chunk", chunked + "\r\nabc\r\n0\r\n\r\n"},
      {"a chunk longer than its size", chunked + "3\r\nabcd\r\n0\r\n\r\n"},
      {"a bare LF behind a chunk's size", chunked + "3\nabc\r\n0\r\n\r\n"},
      {"a bare LF behind a chunk", chunked + "3\r\nabc\n0\r\n\r\n"},
      {"a bare LF in an extension", chunked + "3;a\nb\r\nabc\r\n0\r\n\r\n"},
      {"a bare CR in an extension", chunked + "3;a\rb\r\nabc\r\n0\r\n\r\n"},
      {"a bare LF behind the last chunk", chunked + "0\n\r\n"},
      {"a folded trailer", chunked + "0\r\nX: y\r\n z\r\n\r\n"},
      {"a trailer without a colon", chunked + "0\r\nGET / HTTP/1.1\r\n\r\n"},
      // Fields and lines
      {"bare LF everywhere", "GET " + target + " HTTP/1.1\nHost: o.test\n\n"},
      {"a bare LF behind the request line", "GET " + target + " HTTP/1.1\nHost: o.test\r\n\r\n"},
      {"a bare LF at the head's end", get + "\n"},
      {"a bare CR at the head's end", get + "\r\r\n"},
      {"NUL in a value", get + string("X: a\0b\r\n\r\n", 10)},
      {"NUL in a name", get + string("X\0: a\r\n\r\n", 9)},
      {"a control character in a value", get + "X: a\x01\r\n\r\n"},
      {"an empty name", get + ": x\r\n\r\n"},
      {"a name with a space", get + "X Y: z\r\n\r\n"},
      {"a line without a colon", get + "nonsense\r\n\r\n"},
      {"a folded first field", "GET " + target + " HTTP/1.1\r\n Host: o.test\r\n\r\n"},
      {"two hosts", get + "Host: other.test\r\n\r\n"},
      {"a host with a path", "GET " + target + " HTTP/1.1\r\nHost: o.test/x\r\n\r\n"},
      {"a host with userinfo", "GET " + target + " HTTP/1.1\r\nHost: u@o.test\r\n\r\n"},
      {"no host", "GET " + target + " HTTP/1.1\r\n\r\n"},
      {"a space in the target", "GET " + target + "a b HTTP/1.1\r\nHost: o.test\r\n\r\n"},
      {"two spaces", "GET  " + target + " HTTP/1.1\r\nHost: o.test\r\n\r\n"},
      {"no version", "GET " + target + "\r\n\r\n"},
      {"another version", "GET " + target + " HTTP/1.2\r\nHost: o.test\r\n\r\n"},
      {"HTTP/2's preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"},
      {"a method that is none", "GE(T " + target + " HTTP/1.1\r\nHost: o.test\r\n\r\n"},
  };
}

bool is_refused(const string& answer) {
  return answer.empty() || answer.starts_with("HTTP/1.1 400 ") || answer.starts_with("HTTP/1.1 501 ");
}

TEST(Smuggling, NothingArrivesAtAnOriginOfHttp1) {
  World world;
  world.start();
  Origin origin(world.origin_ca.server_context({"origin.test"}), [](Wire& wire) { wire.read_to_end(); });
  for (const auto& [what, text] : cases("/")) {
    SCOPED_TRACE(what);
    auto client = world.open(origin, "origin.test");
    client.write(text + kNext);
    const string answer = client.read_to_end();
    EXPECT_TRUE(is_refused(answer)) << answer;
  }
  world.proxy->stop(std::chrono::milliseconds(0));
  EXPECT_EQ(origin.received(), "");
}

TEST(Smuggling, NothingArrivesInTheClear) {
  World world;
  world.start();
  Origin origin(nullptr, [](Wire& wire) { wire.read_to_end(); });
  for (const auto& [what, text] : cases("http://127.0.0.1:" + std::to_string(origin.port()) + "/")) {
    SCOPED_TRACE(what);
    auto client = world.connect();
    client.write(text + kNext);
    const string answer = client.read_to_end();
    EXPECT_TRUE(is_refused(answer)) << answer;
  }
  world.proxy->stop(std::chrono::milliseconds(0));
  EXPECT_EQ(origin.received(), "");
}

// One that only turns out malformed after its head has gone on does not arrive whole, nor anything after it.
TEST(Smuggling, NothingMoreArrivesOfWhatTurnsOutMalformed) {
  World world;
  world.start();
  std::atomic<int> begun = 0;
  Origin origin(world.origin_ca.server_context({"origin.test"}), [&](Wire& wire) {
    wire.read_until("a\r\n");
    ++begun;
    begun.notify_all();
    wire.read_to_end();
  });
  int count = 0;
  for (const string bad :
       {"0x3\r\nabc\r\n0\r\n\r\n", "3\r\nabcd\r\n0\r\n\r\n", "0\r\nX: y\r\n z\r\n\r\n", "0\n\r\n"}) {
    SCOPED_TRACE(bad);
    auto client = world.open(origin, "origin.test");
    client.write("POST / HTTP/1.1\r\nHost: o.test\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n");
    begun.wait(count++);
    client.write(bad + kNext);
    EXPECT_TRUE(is_refused(client.read_to_end()));
  }
  world.proxy->stop(std::chrono::milliseconds(0));
  EXPECT_EQ(origin.received().find("0\r\n\r\n"), string::npos);
  EXPECT_EQ(origin.received().find("smuggled"), string::npos);
}

TEST(Smuggling, NothingArrivesAtAnOriginOfHttp2) {
  for (const auto& [what, text] : cases("/")) {
    SCOPED_TRACE(what);
    ReverseBridge bridge;
    bridge.client(text + kNext);
    EXPECT_TRUE(is_refused(bridge.answered)) << bridge.answered;
    // Content is judged after its head: then the stream is reset.
    for (const auto& one : bridge.to_upstream.of(1)) EXPECT_FALSE(one.type != kRst && one.ends());
    EXPECT_LE(bridge.to_upstream.of_type(kHeaders).size(), bridge.to_upstream.of_type(kRst).size());
    EXPECT_TRUE(bridge.to_upstream.of(3).empty());
  }
}

}  // namespace
}  // namespace weir::proxy::test
