// What a client of HTTP/2 must not do: the MUST NOTs of RFC 9113 that a server can see. None reaches the
// upstream.
#include <gtest/gtest.h>

#include "h2_bridge.h"

namespace weir::proxy::test {
namespace {

using std::string;

struct Misdeed {
  const char* what;
  string bytes;
  enum class End { stream, connection } end;
  std::uint32_t code;  // 0: any
};

Pairs without(const string& name) {
  Pairs fields;
  for (const auto& field : request_fields())
    if (field.first != name) fields.push_back(field);
  return fields;
}

std::vector<Misdeed> misdeeds() {
  using enum Misdeed::End;
  constexpr std::uint32_t kProtocol = 1, kFlow = 3, kSize = 6, kCompression = 9;
  const auto with = [](const Pairs& more) { return head(1, request_fields(more)); };
  const auto as = [](const string& method, const string& path) {
    return head(1, request_fields({}, method, path));
  };
  const auto twice = [](const string& name) {
    auto fields = request_fields();
    for (auto at = fields.begin(); at != fields.end(); ++at)
      if (at->first == name) {
        fields.insert(at, *at);
        break;
      }
    return head(1, fields);
  };
  const auto section = [](const string& text) { return frame(kHeaders, kEndHeaders | kEndStream, 1, text); };
  const auto authority = [](const string& value) {
    return head(1, {{":method", "GET"}, {":scheme", "https"}, {":authority", value}, {":path", "/"}});
  };
  return {
      // 8.2.1: field names and values
      {"upper case in a name", with({{"X-a", "1"}}), stream, kProtocol},
      {"space in a name", with({{"x a", "1"}}), stream, kProtocol},
      {"colon in a name", with({{"x:a", "1"}}), stream, kProtocol},
      {"empty name", with({{"", "1"}}), stream, kProtocol},
      {"tab in a name", with({{"x\ta", "1"}}), stream, kProtocol},
      {"NUL in a name", with({{string("x\0a", 3), "1"}}), stream, kProtocol},
      {"DEL in a name", with({{"x\x7f", "1"}}), stream, kProtocol},
      {"a colon for a name", with({{":", "1"}}), stream, kProtocol},
      {"control in a name", with({{"x\x01", "1"}}), stream, kProtocol},
      {"CR LF in a name", with({{"x\r\ny", "1"}}), stream, kProtocol},
      {"8-bit in a name", with({{"x\xff", "1"}}), stream, kProtocol},
      {"CR in a value", with({{"x", "a\rb"}}), stream, kProtocol},
      {"LF in a value", with({{"x", "a\nb: c"}}), stream, kProtocol},
      {"NUL in a value", with({{"x", string("a\0b", 3)}}), stream, kProtocol},
      {"CR LF and a request in a value", with({{"x", "a\r\n\r\nGET /b HTTP/1.1\r\nhost: b"}}), stream,
       kProtocol},
      {"CR LF at a value's end", with({{"x", "a\r\n"}}), stream, kProtocol},
      {"space before a value", with({{"x", " a"}}), stream, kProtocol},
      {"tab after a value", with({{"x", "a\t"}}), stream, kProtocol},
      // 8.2.2: connection-specific fields
      {"connection", with({{"connection", "close"}}), stream, kProtocol},
      {"proxy-connection", with({{"proxy-connection", "close"}}), stream, kProtocol},
      {"keep-alive", with({{"keep-alive", "1"}}), stream, kProtocol},
      {"upgrade", with({{"upgrade", "h2c"}}), stream, kProtocol},
      {"http2-settings by connection", with({{"connection", "http2-settings"}, {"http2-settings", "AA"}}),
       stream, kProtocol},
      {"te with more than trailers", with({{"te", "trailers, gzip"}}), stream, kProtocol},
      {"transfer-encoding", with({{"transfer-encoding", "chunked"}}), stream, kProtocol},
      {"te other than trailers", with({{"te", "gzip"}}), stream, kProtocol},
      // 8.3: pseudo-header fields
      {"no :method", head(1, without(":method")), stream, kProtocol},
      {"no :scheme", head(1, without(":scheme")), stream, kProtocol},
      {"no :path", head(1, without(":path")), stream, kProtocol},
      {"no authority", head(1, without(":authority")), stream, kProtocol},
      {":path twice", with({{":path", "/b"}}), stream, kProtocol},
      {":method twice", twice(":method"), stream, kProtocol},
      {":scheme twice", twice(":scheme"), stream, kProtocol},
      {":authority twice", twice(":authority"), stream, kProtocol},
      {"upper case in a pseudo name", head(1, {{":Method", "GET"}, {":scheme", "https"}, {":path", "/"}}),
       stream, kProtocol},
      {"* of a method other than OPTIONS", as("GET", "*"), stream, kProtocol},
      {"fragment in :path", as("GET", "/a#b"), stream, kProtocol},
      {"tab in :path", as("GET", "/a\tb"), stream, kProtocol},
      {"NUL in :path", as("GET", string("/a\0b", 4)), stream, kProtocol},
      {"LF in :scheme",
       head(1, {{":method", "GET"}, {":scheme", "https\n"}, {":authority", "o.test"}, {":path", "/"}}),
       stream, kProtocol},
      {"NUL in authority", authority(string("o.test\0x", 8)), stream, kProtocol},
      {"two authorities", authority("o.test, p.test"), stream, kProtocol},
      // 8.5: CONNECT
      {"CONNECT with a path", as("CONNECT", "/"), stream, kProtocol},
      {"CONNECT without authority", head(1, {{":method", "CONNECT"}}), stream, kProtocol},
      {"pseudo after a field", with({{"a", "b"}, {":path", "/"}}), stream, kProtocol},
      {"unknown pseudo", head(1, {{":foo", "1"}, {":method", "GET"}, {":scheme", "https"}, {":path", "/"}}),
       stream, kProtocol},
      {"a response's pseudo",
       head(1, {{":status", "200"}, {":method", "GET"}, {":scheme", "https"}, {":path", "/"}}), stream,
       kProtocol},
      {"empty :path", as("GET", ""), stream, kProtocol},
      {"relative :path", as("GET", "a"), stream, kProtocol},
      {"absolute :path", as("GET", "https://o.test/"), stream, kProtocol},
      {"space in :path", as("GET", "/ HTTP/1.1"), stream, kProtocol},
      {"CR LF in :path", as("GET", "/\r\nx: y"), stream, kProtocol},
      {"space in :method", as("GET /", "/"), stream, kProtocol},
      {"CR LF in :method", as("GET\r\n", "/"), stream, kProtocol},
      {"empty :method", as("", "/"), stream, kProtocol},
      {"another scheme",
       head(1, {{":method", "GET"}, {":scheme", "file"}, {":authority", "o.test"}, {":path", "http://a/"}}),
       stream, kProtocol},
      {"userinfo", authority("user@o.test"), stream, kProtocol},
      {"path in authority", authority("o.test/x"), stream, kProtocol},
      {"space in authority", authority("o.test x"), stream, kProtocol},
      {"CR LF in authority", authority("o.test\r\nx: y"), stream, kProtocol},
      {"empty authority", authority(""), stream, kProtocol},
      {"host differs", with({{"host", "other.test"}}), stream, kProtocol},
      {"host twice", with({{"host", "o.test"}, {"host", "o.test"}}), stream, kProtocol},
      {":protocol that nobody offered",
       head(1, {{":method", "CONNECT"},
                {":protocol", "websocket"},
                {":scheme", "https"},
                {":authority", "o.test"},
                {":path", "/"}}),
       stream, kProtocol},
      // 8.1.1: content-length
      {"content-length and no content", with({{"content-length", "1"}}), stream, kProtocol},
      {"content-length twice", with({{"content-length", "0"}, {"content-length", "0"}}), stream, kProtocol},
      {"bad content-length", with({{"content-length", "-1"}}), stream, kProtocol},
      {"list in content-length", with({{"content-length", "0, 0"}}), stream, kProtocol},
      {"content-length that differs", with({{"content-length", "1"}, {"content-length", "2"}}), stream,
       kProtocol},
      {"content-length too large", with({{"content-length", "18446744073709551616"}}), stream, kProtocol},
      {"hexadecimal content-length", with({{"content-length", "0x0"}}), stream, kProtocol},
      {"empty content-length", with({{"content-length", ""}}), stream, kProtocol},
      {"plus in content-length", with({{"content-length", "+0"}}), stream, kProtocol},
      // 5.1, 5.1.1: streams
      {"even stream", head(2, request_fields()), connection, kProtocol},
      {"HEADERS on stream 0", head(0, request_fields()), connection, kProtocol},
      {"DATA on stream 0", data(0, "x"), connection, kProtocol},
      {"DATA on an idle stream", data(1, "x"), connection, kProtocol},
      {"RST_STREAM on an idle stream", frame(kRst, 0, 1, number(8, 4)), connection, kProtocol},
      {"WINDOW_UPDATE on an idle stream", frame(kWindow, 0, 1, number(8, 4)), connection, kProtocol},
      {"CONTINUATION on stream 0", frame(kContinuation, kEndHeaders, 0, ""), connection, kProtocol},
      {"CONTINUATION on an idle stream", frame(kContinuation, kEndHeaders, 1, block(request_fields())),
       connection, kProtocol},
      // 4.2, 6: frames
      {"frame too large", frame(kHeaders, kEndHeaders, 1, string(16'385, 'x')), connection, kSize},
      {"SETTINGS too large", frame(kSettings, 0, 0, string(16'386, '\0')), connection, kSize},
      {"unknown frame too large", frame(0xbe, 0, 1, string(16'385, 'x')), connection, kSize},
      {"PRIORITY on stream 0", frame(kPriority, 0, 0, string(5, '\0')), connection, kProtocol},
      {"HEADERS too short for their priority", frame(kHeaders, kEndHeaders | kEndStream | 0x20, 1, "xxx"),
       connection, kSize},
      {"HEADERS too short for their padding", frame(kHeaders, kEndHeaders | kEndStream | kPadded, 1, ""),
       connection, 0},
      {"RST_STREAM on stream 0", frame(kRst, 0, 0, number(8, 4)), connection, kProtocol},
      {"RST_STREAM's size", frame(kRst, 0, 1, "xxx"), connection, kSize},
      {"SETTINGS on a stream", frame(kSettings, 0, 1), connection, kProtocol},
      {"SETTINGS' size", frame(kSettings, 0, 0, "xxx"), connection, kSize},
      {"SETTINGS' ACK with settings", frame(kSettings, kAck, 0, setting(4, 1)), connection, kSize},
      {"ENABLE_PUSH 2", frame(kSettings, 0, 0, setting(2, 2)), connection, kProtocol},
      {"INITIAL_WINDOW_SIZE too large", frame(kSettings, 0, 0, setting(4, 0x80000000u)), connection, kFlow},
      {"MAX_FRAME_SIZE too small", frame(kSettings, 0, 0, setting(5, 16'383)), connection, kProtocol},
      {"MAX_FRAME_SIZE too large", frame(kSettings, 0, 0, setting(5, 16'777'216)), connection, kProtocol},
      {"ENABLE_CONNECT_PROTOCOL 2", frame(kSettings, 0, 0, setting(8, 2)), connection, kProtocol},
      {"NO_RFC7540_PRIORITIES 2", frame(kSettings, 0, 0, setting(9, 2)), connection, kProtocol},
      {"PING too large", frame(kPing, 0, 0, string(9, 'x')), connection, kSize},
      {"PING on a stream", frame(kPing, 0, 1, string(8, 'x')), connection, kProtocol},
      {"PING's size", frame(kPing, 0, 0, "x"), connection, kSize},
      {"GOAWAY on a stream", frame(kGoaway, 0, 1, string(8, '\0')), connection, kProtocol},
      {"GOAWAY's size", frame(kGoaway, 0, 0, "xxx"), connection, kSize},
      {"WINDOW_UPDATE of nothing", frame(kWindow, 0, 0, number(0, 4)), connection, kProtocol},
      {"WINDOW_UPDATE's size", frame(kWindow, 0, 0, "xxx"), connection, kSize},
      {"window overflow", frame(kWindow, 0, 0, number(0x7fffffff, 4)), connection, kFlow},
      {"PUSH_PROMISE of a client", frame(kPush, kEndHeaders, 1, number(2, 4) + block(request_fields())),
       connection, kProtocol},
      {"padding longer than its frame",
       frame(kHeaders, kEndHeaders | kPadded, 1, "\xff" + block(request_fields())), connection, kProtocol},
      // 4.3, 6.10: header sections
      {"HPACK index 0", frame(kHeaders, kEndHeaders | kEndStream, 1, "\x80"), connection, kCompression},
      {"HPACK index of nothing", frame(kHeaders, kEndHeaders | kEndStream, 1, "\xff\x7f"), connection,
       kCompression},
      {"HPACK: a table too large", section("\x3f\xe1\xff\x03" + block(request_fields())), connection,
       kCompression},
      {"HPACK: a table's size in the middle", section(block(request_fields()) + "\x20"), connection,
       kCompression},
      {"HPACK: an endless number", section("\xff" + string(12, '\xff')), connection, kCompression},
      {"HPACK: a text longer than its block",
       section(string("\0\x7f\x05"
                      "abc",
                      6)),
       connection, kCompression},
      {"HPACK: Huffman's end of text",
       section(string("\0\x84\xff\xff\xff\xff\x01"
                      "a",
                      8)),
       connection, kCompression},
      {"HPACK: Huffman's padding of zeros",
       section(string("\0\x81\x18\x01"
                      "a",
                      5)),
       connection, kCompression},
      {"an unknown frame in a header section",
       frame(kHeaders, kEndStream, 1, block(request_fields())) + frame(0xbe, 0, 1, ""), connection,
       kProtocol},
      {"DATA in a header section", frame(kHeaders, kEndStream, 1, block(request_fields())) + data(1, "x"),
       connection, kProtocol},
      {"HEADERS of another stream in a header section",
       frame(kHeaders, kEndStream, 1, block(request_fields())) + head(3, request_fields()), connection,
       kProtocol},
      {"another frame in a header section",
       frame(kHeaders, kEndStream, 1, block(request_fields())) + frame(kPing, 0, 0, string(8, 'x')),
       connection, kProtocol},
      {"CONTINUATION of another stream",
       frame(kHeaders, kEndStream, 1, block(request_fields())) + frame(kContinuation, kEndHeaders, 3, ""),
       connection, kProtocol},
  };
}

TEST(H2, MisdeedsEndTheStreamOrTheConnectionAndReachNobody) {
  constexpr std::uint32_t kProtocol = 1;
  for (const auto& misdeed : misdeeds()) {
    SCOPED_TRACE(misdeed.what);
    Bridge bridge;
    TranslatingBridge to_http1;
    bridge.client(misdeed.bytes);
    to_http1.client(misdeed.bytes);
    EXPECT_EQ(bridge.requests(), 0u);
    EXPECT_TRUE(to_http1.legs.empty());
    EXPECT_EQ(bridge.judge.asked, 0);
    const bool by_stream = misdeed.end == Misdeed::End::stream;
    const auto ends = bridge.to_client.of_type(by_stream ? kRst : kGoaway);
    EXPECT_EQ(bridge.to_client.of_type(by_stream ? kGoaway : kRst).size(), 0u);
    if (ends.size() != 1) {
      ADD_FAILURE() << ends.size() << " ends";
      continue;
    }
    EXPECT_TRUE(misdeed.code == 0 || ends[0].code() == misdeed.code) << ends[0].code();
    const bool malformed = by_stream && misdeed.code == kProtocol;
    EXPECT_EQ(bridge.judge.malformed_streams.size(), malformed ? 1u : 0u);
    if (!by_stream) {
      EXPECT_TRUE(bridge.front.finished());
      continue;
    }
    bridge.client(head(101, request_fields()));
    EXPECT_EQ(bridge.requests(), 1u) << "the connection should live";
  }
}

// Of requests that were passed on before they turned out malformed, the upstream's stream ends, too.
TEST(H2, MisdeedsInTheMiddleResetTheUpstreamsStream) {
  const string post = head(1, request_fields({{"content-length", "4"}}, "POST"), false);
  const std::vector<std::pair<const char*, string>> cases = {
      {"more content than said", data(1, "12345", false)},
      {"less content than said", data(1, "123")},
      {"trailers without an end", data(1, "1234", false) + head(1, {{"x", "y"}}, false)},
      {"pseudo in trailers", data(1, "1234", false) + head(1, {{":path", "/"}})},
      {"connection field in trailers", data(1, "1234", false) + head(1, {{"transfer-encoding", "chunked"}})},
      {"LF in trailers", data(1, "1234", false) + head(1, {{"x", "a\nb"}})},
      {"window overflow", frame(kWindow, 0, 1, number(0x7fffffff, 4))},
  };
  for (const auto& [what, text] : cases) {
    SCOPED_TRACE(what);
    Bridge bridge;
    bridge.client(post);
    ASSERT_EQ(bridge.requests(), 1u);
    bridge.client(text);
    ASSERT_EQ(bridge.to_client.of_type(kRst).size(), 1u);
    ASSERT_EQ(bridge.to_upstream.of_type(kRst).size(), 1u);
    for (const auto& one : bridge.to_upstream.of(1)) EXPECT_FALSE(one.ends() && one.type != kRst);
    EXPECT_LE(bridge.to_upstream.content(1).size(), 4u);
    EXPECT_TRUE(bridge.front.idle());
  }
}

// As errors of the stream or, as every such may be taken, of the connection (RFC 9113, 5.4.2).
TEST(H2, FramesThatDoNotFitTheStreamAreErrors) {
  for (const auto& more : {data(1, "x"), head(1, {{"a", "b"}}), frame(kWindow, 0, 1, number(0, 4))}) {
    Bridge bridge;
    bridge.client(head(1, request_fields()) + more);
    const auto reset = bridge.to_client.of_type(kRst).size() + bridge.to_client.of_type(kGoaway).size();
    EXPECT_EQ(reset, 1u);
    EXPECT_EQ(bridge.to_upstream.content(1), "");
  }
}

// What comes after a request that is well-formed, on a stream that is open, half-closed or closed. As errors
// of the stream, or of the connection.
TEST(H2, MisdeedsAfterARequestPassNothingOn) {
  constexpr std::uint32_t kProtocol = 1, kFlow = 3, kClosed = 5, kSize = 6;
  struct Case {
    const char* what;
    string bytes;
    std::vector<std::uint32_t> codes;  // none: it may be ignored (5.1, closed)
    bool ended = false;                // the request
    bool answered = false;
  };
  const string rst = frame(kRst, 0, 1, number(8, 4));
  const std::vector<Case> cases = {
      {"padding longer than DATA",
       frame(kData, kPadded, 1,
             "\x05"
             "ab"),
       {kProtocol}},
      {"DATA without its padding's length", frame(kData, kPadded, 1, ""), {kSize, kProtocol}},
      {"DATA too large", frame(kData, 0, 1, string(16'385, 'x')), {kSize}},
      {"CONTINUATION of no section", frame(kContinuation, kEndHeaders, 1, ""), {kProtocol}},
      {"PRIORITY's size", frame(kPriority, 0, 1, "xxx"), {kSize}},
      {"RST_STREAM's size", frame(kRst, 0, 1, "xxx"), {kSize}},
      {"WINDOW_UPDATE's size", frame(kWindow, 0, 1, "xxx"), {kSize}},
      {"PUSH_PROMISE", frame(kPush, kEndHeaders, 1, number(2, 4) + block(request_fields())), {kProtocol}},
      {"windows too large by SETTINGS",
       frame(kWindow, 0, 1, number(0x7fff0000 - 65'535, 4)) + frame(kSettings, 0, 0, setting(4, 200'000)),
       {kFlow}},
      {"DATA after the end", data(1, "more"), {kClosed, kProtocol}, true},
      {"trailers after the end", head(1, {{"x", "y"}}), {kClosed, kProtocol}, true},
      {"DATA after a reset", rst + data(1, "more"), {}, true},
      {"HEADERS after a reset", rst + head(1, request_fields()), {}, true},
      {"DATA after all", data(1, "more"), {}, true, true},
      {"HEADERS after all", head(1, request_fields()), {}, true, true},
      {"CONTINUATION after all", frame(kContinuation, kEndHeaders, 1, ""), {kClosed, kProtocol}, true, true},
  };
  for (const auto& [what, text, codes, ended, answered] : cases) {
    SCOPED_TRACE(what);
    Bridge bridge;
    bridge.client(head(1, request_fields({}, "POST"), ended));
    ASSERT_EQ(bridge.requests(), 1u);
    if (answered) bridge.upstream(head(1, {{":status", "204"}}));
    bridge.client(text);
    EXPECT_EQ(bridge.requests(), 1u);
    EXPECT_EQ(bridge.to_upstream.content(1), "");
    auto ends = bridge.to_client.of_type(kGoaway);
    for (const auto& one : bridge.to_client.of_type(kRst)) ends.push_back(one);
    std::erase_if(ends,
                  [&](const Frame& one) { return std::ranges::find(codes, one.code()) == codes.end(); });
    EXPECT_TRUE(codes.empty() || !ends.empty());
  }
}

TEST(H2, MoreThanTheWindowsTakeIsAnError) {
  H2Limits limits;
  limits.stream_window = 70'000;
  Bridge bridge(limits);
  bridge.client(head(1, request_fields({}, "POST"), false));
  for (int i = 0; i < 10; ++i) bridge.client(data(1, string(16'000, 'x'), false));  // upstream gave 65,535
  const auto ends = bridge.to_client.of_type(kRst).size() + bridge.to_client.of_type(kGoaway).size();
  EXPECT_EQ(ends, 1u);
  EXPECT_LE(bridge.to_upstream.content(1).size(), 65'535u);
}

TEST(H2, AStreamBelowTheLastEndsTheConnection) {
  Bridge bridge;
  bridge.client(head(5, request_fields()));
  bridge.client(head(3, request_fields()));
  EXPECT_EQ(bridge.requests(), 1u);
  ASSERT_EQ(bridge.to_client.of_type(kGoaway).size(), 1u);
  EXPECT_EQ(bridge.to_client.of_type(kGoaway)[0].code(), 1u);
}

TEST(H2, MoreStreamsThanAllowedAreRefused) {
  H2Limits limits;
  limits.streams = 2;
  Bridge bridge(limits);
  bridge.client(frame(kSettings, kAck, 0));
  for (const std::uint32_t stream : {1, 3, 5}) bridge.client(head(stream, request_fields()));
  EXPECT_EQ(bridge.requests(), 2u);
  EXPECT_EQ(bridge.to_client.of_type(kRst).size() + bridge.to_client.of_type(kGoaway).size(), 1u);
}

// RFC 9113, 4.1, 5.1, 5.5, 6.5.2, 6.8: what must not disturb.
TEST(H2, WhatIsToBeIgnoredIs) {
  const std::vector<std::pair<const char*, string>> cases = {
      {"an unknown frame", frame(0xbe, 0xff, 0, "anything")},
      {"an unknown frame on a stream", frame(0xbe, 0, 1, "anything")},
      {"unknown flags", frame(kPing, 0xfe, 0, string(8, 'x'))},
      {"an unknown setting", frame(kSettings, 0, 0, setting(0xbeef, 7))},
      {"PRIORITY of an idle stream", frame(kPriority, 0, 3, number(0, 4) + "x")},
      {"an acknowledgement of a PING that nobody sent", frame(kPing, kAck, 0, string(8, 'x'))},
      {"GOAWAY", frame(kGoaway, 0, 0, number(0, 4) + number(0xbeef, 4) + "why")},
  };
  for (const auto& [what, text] : cases) {
    SCOPED_TRACE(what);
    Bridge bridge;
    bridge.client(text + head(1, request_fields()));
    EXPECT_EQ(bridge.requests(), 1u);
    EXPECT_TRUE(bridge.to_client.of_type(kRst).empty());
    bridge.upstream(head(1, {{":status", "204"}}));
    EXPECT_EQ(bridge.to_client.of(1).size(), 1u);
  }
  Bridge bridge;  // the reserved bit of a stream's number
  bridge.client(frame(kHeaders, kEndHeaders | kEndStream, 0x80000001u, block(request_fields())));
  EXPECT_EQ(bridge.requests(), 1u);
}

// A request over HTTP/2 is no longer for an origin of HTTP/1 than it says.
TEST(H2, ContentOtherThanItsLengthIsNotPassedOnToHttp1) {
  const string request = "GET /smuggled HTTP/1.1\r\nhost: o.test\r\n\r\n";
  for (const auto& text :
       {data(1, "1234" + request), data(1, "1234", false) + data(1, request), data(1, "12")}) {
    TranslatingBridge bridge;
    bridge.client(head(1, request_fields({{"content-length", "4"}}, "POST"), false) + text);
    ASSERT_LE(bridge.legs.size(), 1u);
    if (bridge.legs.empty()) continue;
    EXPECT_EQ(bridge.legs[0].sent.find("smuggled"), string::npos) << bridge.legs[0].sent;
    EXPECT_FALSE(bridge.legs[0].leg->usable())
        << "what comes next would be taken for content, or the reverse";
    EXPECT_EQ(bridge.to_client.of_type(kRst).size() + bridge.to_client.of_type(kGoaway).size(), 1u);
  }
}

TEST(H2, BadBeginnings) {
  for (const auto& text : {string("GET / HTTP/1.1\r\n\r\n"), kPreface + head(1, request_fields()),
                           kPreface + frame(kPing, 0, 0, string(8, 'x')),
                           string("PRI * HTTP/2.0\r\n\r\nSM\r\n\rX") + frame(kSettings, 0, 0),
                           kPreface + frame(kSettings, kAck, 0)}) {
    Judge judge;
    H2Back back({}, "up");
    H2Front front({}, {}, judge, back);
    front.open(100, false);
    front.receive(bytes(text), {});
    std::vector<std::byte> out;
    front.produce(out, 1 << 16);
    FrameLog log;
    log.feed(out);
    EXPECT_EQ(log.of_type(kGoaway).size(), 1u);
    EXPECT_EQ(judge.asked, 0);
  }
}

}  // namespace
}  // namespace weir::proxy::test
