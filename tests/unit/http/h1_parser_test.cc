// The strict parser: what it accepts, what it refuses, and that no cut of the stream changes either.
#include "http/h1_parser.h"

#include <gtest/gtest.h>

#include <vector>

#include "tests/unit/http/splits.h"

namespace weir::http {
namespace {

using test::bytes;

std::string text_of(Framing framing, std::uint64_t length) {
  static constexpr std::array names = {"none", "length", "chunked", "close"};
  return std::string(names.at(static_cast<std::size_t>(framing))) + "=" + std::to_string(length);
}

// Writes down what it is told, body pieces joined: "H:GET / none=0|" "F:Host=a|" "B:abc|" "T:x=y|" "E|".
class Log : public H1Handler {
 public:
  explicit Log(Next next = Next::proceed) : next_(next) {}

  Next on_request_head(RequestHead head, BodyFraming framing) override {
    write("H:" + head.method + " " + head.target + " " + text_of(framing.framing, framing.content_length));
    fields("F:", head.fields);
    return next_;
  }
  Next on_response_head(ResponseHead head, BodyFraming framing) override {
    write("H:" + std::to_string(head.status) + " " + head.reason + " " +
          text_of(framing.framing, framing.content_length));
    fields("F:", head.fields);
    return next_;
  }
  void on_body(std::span<const std::byte> data) override {
    if (!in_body_) text_ += "B:";
    in_body_ = true;
    text_.append(reinterpret_cast<const char*>(data.data()), data.size());
  }
  void on_trailers(Fields trailers) override { fields("T:", trailers); }
  void on_message_complete() override { write("E"); }

  const std::string& text() const { return text_; }

 private:
  void fields(std::string_view mark, const Fields& fields) {
    for (const auto& field : fields) write(std::string(mark) + field.name + "=" + field.value);
  }
  void write(const std::string& entry) {
    text_ += (in_body_ ? "|" : "") + entry + "|";
    in_body_ = false;
  }

  Next next_;
  std::string text_;
  bool in_body_ = false;
};

struct Outcome {
  std::string log;
  std::string error;      // "" when none
  std::size_t taken = 0;  // up to the error, too
};

Outcome run(H1Parser& parser, const test::Pieces& pieces, bool close) {
  Log log;
  Outcome outcome;
  for (const auto piece : pieces) {
    const auto used = parser.feed(bytes(piece), log);
    outcome.taken += used ? *used : used.error().at;
    if (!used) outcome.error = used.error().what;
    if (!used || *used < piece.size()) break;
  }
  if (close && outcome.error.empty()) {
    if (const auto done = parser.finish(log); !done) outcome.error = done.error().what;
  }
  outcome.log = log.text();
  return outcome;
}

// The outcome for the stream in one piece, after checking that every other cut gives the same.
Outcome run_all(H1Parser::Kind kind, std::string_view input,
                std::initializer_list<std::string_view> methods = {}, bool close = true,
                H1Limits limits = {}) {
  std::optional<Outcome> first;
  for (const auto& pieces : test::splits(input)) {
    H1Parser parser(kind, limits);
    for (const auto method : methods) parser.expect_response_to(method);
    const auto outcome = run(parser, pieces, close);
    if (!first) first = outcome;
    EXPECT_EQ(outcome.log, first->log) << "in " << pieces.size() << " pieces";
    EXPECT_EQ(outcome.error, first->error) << "in " << pieces.size() << " pieces";
    EXPECT_EQ(outcome.taken, first->taken) << "in " << pieces.size() << " pieces";
  }
  return *first;
}

Outcome request(std::string_view input, H1Limits limits = {}) {
  return run_all(H1Parser::Kind::request, input, {}, true, limits);
}

Outcome response(std::string_view input, std::initializer_list<std::string_view> methods = {"GET"}) {
  return run_all(H1Parser::Kind::response, input, methods);
}

struct Accepted {
  std::string_view input;
  std::string_view log;
};

TEST(H1Parser, AcceptsRequests) {
  const Accepted cases[] = {
      {"GET / HTTP/1.1\r\nHost: a\r\n\r\n", "H:GET / none=0|F:Host=a|E|"},
      {"GET / HTTP/1.0\r\n\r\n", "H:GET / none=0|E|"},
      {"\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", "H:GET / none=0|F:Host=a|E|"},
      {"GET / HTTP/1.1\r\nHost:\r\n\r\n", "H:GET / none=0|F:Host=|E|"},
      {"GET http://a/b?c HTTP/1.1\r\nhOST: a:80\r\n\r\n", "H:GET http://a/b?c none=0|F:hOST=a:80|E|"},
      {"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", "H:OPTIONS * none=0|F:Host=a|E|"},
      {"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n", "H:CONNECT a:443 none=0|F:Host=a:443|E|"},
      {"FROB-X / HTTP/1.1\r\nHost: a\r\n\r\n", "H:FROB-X / none=0|F:Host=a|E|"},
      {"GET / HTTP/1.1\r\nHost: a\r\nX: \t b \t c\t \r\nx:d\r\nE:\r\n\r\n",
       "H:GET / none=0|F:Host=a|F:X=b \t c|F:x=d|F:E=|E|"},
      {"GET /\xc3\xbc HTTP/1.1\r\nHost: a\r\nX: \xff\r\n\r\n", "H:GET /\xc3\xbc none=0|F:Host=a|F:X=\xff|E|"},
      {"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nab\r\nc",
       "H:POST / length=5|F:Host=a|F:Content-Length=5|B:ab\r\nc|E|"},
      {"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
       "H:POST / length=0|F:Host=a|F:Content-Length=0|E|"},
      {"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n3\r\nabc\r\n00A;x=\"y "
       "z\"\r\n0123456789\r\n0\r\n\r\n",
       "H:POST / chunked=0|F:Host=a|F:Transfer-Encoding=Chunked|B:abc0123456789|E|"},
      {"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nA: b\r\nC:d\r\n\r\n",
       "H:POST / chunked=0|F:Host=a|F:Transfer-Encoding=chunked|T:A=b|T:C=d|E|"},
      {"GET /1 HTTP/1.1\r\nHost: a\r\n\r\nPOST /2 HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx\r\n"
       "GET /3 HTTP/1.1\r\nHost: a\r\n\r\n",
       "H:GET /1 none=0|F:Host=a|E|H:POST /2 length=1|F:Host=a|F:Content-Length=1|B:x|E|"
       "H:GET /3 none=0|F:Host=a|E|"},
  };
  for (const auto& [input, log] : cases) {
    const auto outcome = request(input);
    EXPECT_EQ(outcome.log, log);
    EXPECT_EQ(outcome.error, "") << input;
    EXPECT_EQ(outcome.taken, input.size());
  }
}

struct Refused {
  std::string_view input;
  std::string_view error;  // a part of it
};

TEST(H1Parser, RefusesRequests) {
  const std::string chunked = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
  const std::string get = "GET / HTTP/1.1\r\nHost: a\r\n";
  const std::string post = "POST / HTTP/1.1\r\nHost: a\r\n";
  const std::pair<std::string, std::string_view> cases[] = {
      {"GET / HTTP/1.1\nHost: a\r\n\r\n", "bare LF in start line"},
      {get + "X: b\n\r\n", "bare LF in header section"},
      {get + "\n", "bare LF"},
      {get + "X: b\rY: c\r\n\r\n", "bare CR in header section"},
      {get + "X: b\r\r\n\r\n", "bare CR"},
      {get + "\rX: b\r\n\r\n", "bare CR"},
      {get + "X: b\r\n folded\r\n\r\n", "obs-fold"},
      {get + "\tfolded\r\n\r\n", "obs-fold"},
      {"GET / HTTP/1.1\r\n Host: a\r\n\r\n", "obs-fold"},
      {get + "X : b\r\n\r\n", "not a token"},
      {get + "X\t: b\r\n\r\n", "not a token"},
      {get + "X Y: b\r\n\r\n", "not a token"},
      {get + ": b\r\n\r\n", "not a token"},
      {get + "X\xff: b\r\n\r\n", "not a token"},
      {get + "no colon\r\n\r\n", "without a colon"},
      {get + std::string("X: a\0b\r\n\r\n", 10), "control character"},
      {get + "X: a\x7f\r\n\r\n", "control character"},
      {"GET /\x01 HTTP/1.1\r\nHost: a\r\n\r\n", "control character"},
      {"GET /\t HTTP/1.1\r\nHost: a\r\n\r\n", "request target"},
      {"GET  / HTTP/1.1\r\nHost: a\r\n\r\n", "request target"},
      {"GET / x HTTP/1.1\r\nHost: a\r\n\r\n", "request target"},
      {"GET x HTTP/1.1\r\nHost: a\r\n\r\n", "request target"},
      {"GET /  HTTP/1.1\r\nHost: a\r\n\r\n", "request target"},
      {"GET / HTTP/1.1 \r\nHost: a\r\n\r\n", "not HTTP/1"},
      {" GET / HTTP/1.1\r\nHost: a\r\n\r\n", "not a token"},
      {"G(T / HTTP/1.1\r\nHost: a\r\n\r\n", "not a token"},
      {"GET /\r\n\r\n", "three parts"},
      {"GET / HTTP/1.2\r\nHost: a\r\n\r\n", "not HTTP/1"},
      {"GET / HTTP/1.10\r\nHost: a\r\n\r\n", "not HTTP/1"},
      {"GET / http/1.1\r\nHost: a\r\n\r\n", "not HTTP/1"},
      {"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "not HTTP/1"},
      {"\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", "three parts"},
      {"GET / HTTP/1.1\r\n\r\n", "no Host"},
      {get + "host: a\r\n\r\n", "repeated Host"},
      {"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", "malformed Host"},
      {"GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", "malformed Host"},
      {post + "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", ""},
      {post + "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n", ""},
      {post + "Content-Length: 5\r\nContent-Length: 6\r\n\r\n", ""},
      {post + "Content-Length: 5\r\ncontent-length: 5\r\n\r\n", ""},
      {post + "Content-Length: 5, 5\r\n\r\n", ""},
      {post + "Content-Length: +5\r\n\r\n", ""},
      {post + "Content-Length: -5\r\n\r\n", ""},
      {post + "Content-Length: 0x5\r\n\r\n", ""},
      {post + "Content-Length: 5 5\r\n\r\n", ""},
      {post + "Content-Length:\r\n\r\n", "Content-Length"},
      {post + "Content-Length: 18446744073709551616\r\n\r\n", ""},
      {post + "Transfer-Encoding: chunked, chunked\r\n\r\n", ""},
      {post + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", ""},
      {post + "Transfer-Encoding: chunked, identity\r\n\r\n", ""},
      {post + "Transfer-Encoding: gzip, chunked\r\n\r\n", "other than chunked"},
      {post + "Transfer-Encoding: xchunked\r\n\r\n", "other than chunked"},
      {post + "Transfer-Encoding: \"chunked\"\r\n\r\n", "other than chunked"},
      {post + "Transfer-Encoding: \x0b"
              "chunked\r\n\r\n",
       "control character"},
      {post + "Transfer-Encoding:\r\n\r\n", "other than chunked"},
      {"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", "HTTP/1.0"},
      {chunked + "\r\n", "bad chunk size"},
      {chunked + "g\r\n", "bad chunk size"},
      {chunked + "0x1\r\na\r\n", "bad chunk size"},
      {chunked + "+1\r\na\r\n", "bad chunk size"},
      {chunked + "-1\r\na\r\n", "bad chunk size"},
      {chunked + "1 \r\na\r\n", "bad chunk size"},
      {chunked + " 1\r\na\r\n", "bad chunk size"},
      {chunked + "1 ;x\r\na\r\n", "bad chunk size"},
      {chunked + "10000000000000000\r\n", "bad chunk size"},
      {chunked + "00000000000000001\r\n", "bad chunk size"},
      {chunked + "1\na\r\n", "bare LF in chunk size"},
      {chunked + "1;x\ny\r\na\r\n", "bare LF in chunk size"},
      {chunked + "1;x\ry\r\na\r\n", "bare CR in chunk size"},
      {chunked + "1\r\nab\r\n", "chunk does not end"},
      {chunked + "1\r\na\n", "chunk does not end"},
      {chunked + "1\r\na\rb", "chunk does not end"},
      {chunked + "0\r\nX: b\n\r\n", "bare LF in trailer"},
      {chunked + "0\r\n X: b\r\n\r\n", "obs-fold"},
      {chunked + "0\r\n\n", "bare LF in trailer"},
      {chunked + "0\r\n", "middle of a message"},
      {get, "middle of a message"},
      {post + "Content-Length: 5\r\n\r\nabcd", "middle of a message"},
  };
  for (const auto& [input, error] : cases) {
    const auto outcome = request(input);
    EXPECT_NE(outcome.error, "") << input;
    EXPECT_NE(outcome.error.find(error), std::string::npos) << outcome.error << "\n" << input;
    EXPECT_EQ(outcome.log.find("E|"), std::string::npos) << "a refused message counts as complete\n" << input;
  }
}

TEST(H1Parser, AcceptsResponses) {
  struct Case {
    std::string_view input;
    std::initializer_list<std::string_view> methods;
    std::string_view log;
  };
  const Case cases[] = {
      {"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nab",
       {"GET"},
       "H:200 OK length=2|F:Content-Length=2|B:ab|E|"},
      {"HTTP/1.1 200 \r\nContent-Length: 0\r\n\r\n", {"GET"}, "H:200  length=0|F:Content-Length=0|E|"},
      {"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", {"GET"}, "H:200  length=0|F:Content-Length=0|E|"},
      {"HTTP/1.0 200 OK\r\n\r\nuntil close", {"GET"}, "H:200 OK close=0|B:until close|E|"},
      {"HTTP/1.1 200 OK\r\n\r\n", {"GET"}, "H:200 OK close=0|E|"},
      {"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
       {"HEAD", "GET"},
       "H:200 OK none=0|F:Content-Length=9|E|H:204 No Content none=0|E|"},
      {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
       {"HEAD"},
       "H:200 OK none=0|F:Transfer-Encoding=chunked|E|"},
      {"HTTP/1.1 304 x\r\nContent-Length: 9\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na",
       {"GET", "GET"},
       "H:304 x none=0|F:Content-Length=9|E|H:200 OK length=1|F:Content-Length=1|B:a|E|"},
      {"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 E\r\nLink: a\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: "
       "1\r\n\r\na",
       {"POST"},
       "H:100 Continue none=0|E|H:103 E none=0|F:Link=a|E|H:200 OK length=1|F:Content-Length=1|B:a|E|"},
      {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nT: u\r\n\r\n",
       {"GET"},
       "H:200 OK chunked=0|F:Transfer-Encoding=chunked|B:a|T:T=u|E|"},
      {"HTTP/1.1 407 No\r\nContent-Length: 1\r\n\r\na",
       {"CONNECT"},
       "H:407 No length=1|F:Content-Length=1|B:a|E|"},
  };
  for (const auto& [input, methods, log] : cases) {
    const auto outcome = response(input, methods);
    EXPECT_EQ(outcome.log, log);
    EXPECT_EQ(outcome.error, "") << input;
  }
}

TEST(H1Parser, RefusesResponses) {
  const Refused cases[] = {
      {"HTTP/1.1 200 OK\nContent-Length: 0\r\n\r\n", "bare LF"},
      {"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n", ""},
      {"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", ""},
      {"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n", "other than chunked"},
      {"HTTP/1.1 200 OK\r\nX: a\r\n b\r\n\r\n", "obs-fold"},
      {"HTTP/1.1 20 OK\r\n\r\n", "status code"},
      {"HTTP/1.1 099 OK\r\n\r\n", "status code"},
      {"HTTP/1.1 2000 OK\r\n\r\n", "status code"},
      {"HTTP/1.1\r\n\r\n", "status code"},
      {"HTTP/2 200 OK\r\n\r\n", "not HTTP/1"},
      {"\r\nHTTP/1.1 200 OK\r\n\r\n", "not HTTP/1"},
      {"HTTP/1.1 204 No\r\n\r\nx", "response without a request"},
      {"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab", "middle of a message"},
      {"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n", "middle of a message"},
  };
  for (const auto& [input, error] : cases) {
    const auto outcome = response(input);
    EXPECT_NE(outcome.error, "") << input;
    EXPECT_NE(outcome.error.find(error), std::string::npos) << outcome.error << "\n" << input;
  }
}

TEST(H1Parser, StopsAtAnUpgrade) {
  for (const auto& [method, head] : {std::pair("GET", "HTTP/1.1 101 S\r\nUpgrade: x\r\n\r\n"),
                                     std::pair("CONNECT", "HTTP/1.1 200 C\r\nContent-Length: 9\r\n\r\n")}) {
    const auto input = std::string(head) + "\x16\x03other";
    const auto outcome = run_all(H1Parser::Kind::response, input, {method}, false);
    EXPECT_EQ(outcome.taken, std::string_view(head).size());
    EXPECT_TRUE(outcome.log.ends_with("E|")) << outcome.log;

    H1Parser parser(H1Parser::Kind::response);
    parser.expect_response_to(method);
    Log log;
    ASSERT_TRUE(parser.feed(bytes(input), log));
    EXPECT_TRUE(parser.upgraded());
    EXPECT_EQ(parser.feed(bytes("more"), log), 0U);
    EXPECT_TRUE(parser.finish(log));
  }
}

TEST(H1Parser, RefusesAnUpgradeThatNobodyAskedFor) {
  H1Parser parser(H1Parser::Kind::response);
  parser.expect_response_to("GET", false);
  Log log;
  const auto taken = parser.feed(bytes("HTTP/1.1 101 S\r\nUpgrade: x\r\n\r\n"), log);
  ASSERT_FALSE(taken);
  EXPECT_EQ(taken.error().kind, ParseError::Kind::malformed);
}

TEST(H1Parser, PausesAtTheHead) {
  const std::string_view head = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n";
  H1Parser parser(H1Parser::Kind::request);
  Log log(Next::pause);
  const auto input = std::string(head) + "ab";
  EXPECT_EQ(parser.feed(bytes(input), log), head.size());
  EXPECT_EQ(parser.feed(bytes("ab"), log), 2U);
  EXPECT_TRUE(log.text().ends_with("B:ab|E|")) << log.text();

  const std::string_view bodiless = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
  EXPECT_EQ(parser.feed(bytes(bodiless), log), bodiless.size());
  EXPECT_FALSE(parser.idle());
  EXPECT_EQ(parser.feed({}, log), 0U);
  EXPECT_TRUE(parser.idle());
  EXPECT_TRUE(log.text().ends_with("H:GET / none=0|F:Host=a|E|"));
}

TEST(H1Parser, StopsBetweenMessages) {
  const std::string one = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
  H1Parser parser(H1Parser::Kind::request);
  parser.stop_between_messages(true);
  Log log;
  EXPECT_EQ(parser.feed(bytes(one + one), log), one.size());
  EXPECT_TRUE(parser.idle());
}

TEST(H1Parser, HoldsItsLimits) {
  const H1Limits limits{.start_line = 40, .head = 100, .fields = 3, .chunk_extensions = 10, .trailers = 30};
  const std::string chunked = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
  const std::string line = "GET /" + std::string(24, 'x') + " HTTP/1.1\r\n";
  const std::string fits = line + "Host: a\r\nX: " + std::string(100 - 40 - 9 - 3 - 4, 'y') + "\r\n\r\n";
  ASSERT_EQ(line.size(), 40U);
  ASSERT_EQ(fits.size(), 100U);
  EXPECT_EQ(request(fits, limits).error, "");
  EXPECT_EQ(
      request(chunked + "1;" + std::string(9, 'x') + "\r\na\r\n0\r\nX: " + std::string(23, 'y') + "\r\n\r\n",
              limits)
          .error,
      "");

  const std::pair<std::string, std::string_view> cases[] = {
      {"GET /" + std::string(25, 'x') + " HTTP/1.1\r\n", "start line"},
      {line + "Host: a\r\nX: " + std::string(45, 'y') + "\r\n\r\n", "header section"},
      {"GET / HTTP/1.1\r\nHost: a\r\na:\r\nb:\r\nc:\r\n\r\n", "too many fields"},
      {chunked + "1;" + std::string(40, 'x') + "\r\n", "chunk size line"},
      {chunked + "0\r\nX: " + std::string(40, 'y') + "\r\n\r\n", "trailer section"},
      {chunked + "0\r\na:\r\nb:\r\nc:\r\nd:\r\n\r\n", "too many fields"},
  };
  for (const auto& [input, error] : cases) {
    EXPECT_NE(request(input, limits).error.find(error), std::string::npos) << input;
    H1Parser parser(H1Parser::Kind::request, limits);
    Log log;
    const auto result = parser.feed(bytes(input), log);
    ASSERT_FALSE(result);
    EXPECT_EQ(result.error().kind, ParseError::Kind::too_large) << input;
    EXPECT_FALSE(parser.feed(bytes(line), log)) << "goes on after an error";
    parser.reset();
    EXPECT_TRUE(parser.feed(bytes(line), log));
  }
}

TEST(H1Parser, TellsWhatItReadOfARefusedHead) {
  Log log;
  H1Parser parser(H1Parser::Kind::request);
  EXPECT_TRUE(parser.feed(bytes("GET /1 HTTP/1.1\r\nHost: a\r\n"), log));
  EXPECT_FALSE(parser.take_refused_request()) << "not refused";
  EXPECT_FALSE(parser.feed(bytes("X : b\r\n"), log));
  EXPECT_FALSE(parser.take_refused_response());
  const auto head = parser.take_refused_request();
  ASSERT_TRUE(head);
  EXPECT_EQ(head->target, "/1");
  ASSERT_EQ(head->fields.size(), 1U);
  EXPECT_EQ(head->fields[0].value, "a");
  EXPECT_FALSE(parser.take_refused_request()) << "taken twice";
  parser.reset();
  EXPECT_FALSE(parser.feed(bytes("GET HTTP/1.1\r\n"), log));
  EXPECT_FALSE(parser.take_refused_request()) << "without a start line";
  parser.reset();
  EXPECT_FALSE(
      parser.feed(bytes("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n"), log));
  EXPECT_FALSE(parser.take_refused_request()) << "the head was told";
}

TEST(H1Parser, SkipsInsideContentOnly) {
  H1Parser parser(H1Parser::Kind::request);
  Log log;
  EXPECT_FALSE(parser.skip(1, log));
  ASSERT_TRUE(parser.feed(bytes("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nab"), log));
  EXPECT_TRUE(parser.skip(3, log));
  EXPECT_FALSE(parser.skip(6, log)) << "more than the content's rest";
  EXPECT_TRUE(parser.skip(5, log));
  EXPECT_TRUE(parser.idle());
  EXPECT_EQ(parser.body_wire_bytes(), 10U);
  EXPECT_TRUE(log.text().ends_with("B:ab|E|"));

  ASSERT_TRUE(
      parser.feed(bytes("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n4\r\na"), log));
  EXPECT_FALSE(parser.skip(4, log)) << "the chunk's end is framing";
  EXPECT_TRUE(parser.skip(3, log));
  ASSERT_TRUE(parser.feed(bytes("\r\n0\r\n\r\n"), log));
  EXPECT_TRUE(parser.idle());
  EXPECT_EQ(parser.body_wire_bytes(), 3U + 4 + 2 + 5);

  H1Parser answers(H1Parser::Kind::response);
  answers.expect_response_to("GET");
  ASSERT_TRUE(answers.feed(bytes("HTTP/1.0 200 OK\r\n\r\na"), log));
  EXPECT_TRUE(answers.skip(1000, log));
  EXPECT_TRUE(answers.finish(log));
}

TEST(H1Parser, SerialisesWhatItRead) {
  const RequestHead request_head{"GET", "/a", {1, 1}, {{"Host", "b"}, {"X", ""}, {"x", "y"}}};
  EXPECT_EQ(serialize(request_head), "GET /a HTTP/1.1\r\nHost: b\r\nX: \r\nx: y\r\n\r\n");
  EXPECT_EQ(serialize(ResponseHead{404, "Not Found", {1, 0}, {}}), "HTTP/1.0 404 Not Found\r\n\r\n");
}

TEST(Fields, AreFoundInAnyCase) {
  const Fields fields = {{"Connection", "keep-alive, Upgrade"}, {"connection", "x"}};
  EXPECT_EQ(find_field(fields, "CONNECTION"), &fields[0]);
  EXPECT_EQ(find_field(fields, "Host"), nullptr);
  EXPECT_TRUE(lists_token(fields, "connection", "upgrade"));
  EXPECT_TRUE(lists_token(fields, "connection", "X"));
  EXPECT_FALSE(lists_token(fields, "connection", "alive"));
}

}  // namespace
}  // namespace weir::http
