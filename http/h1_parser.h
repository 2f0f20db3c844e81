// The one strict HTTP/1 parser: llhttp behind rules of our own. The proxy decides and forwards by it, and
// both taps' bytes are recorded by it, so what was judged, what was sent on and what was written down are the
// same.
//
// Sans-IO: bytes in, calls to a handler out. One parser is one direction of one connection. Refused, each
// with an Error (RFC 9112): bare CR, bare LF where a CRLF belongs, obs-fold, a header section that doesn't
// end in CRLF CRLF, Content-Length with Transfer-Encoding, differing or malformed Content-Lengths, a
// Transfer-Encoding other than a final "chunked", whitespace before a header's colon, missing or repeated
// Host (1.1 requests), bad chunk sizes, control characters in names, values or targets, heads over the
// limits. After an error the parser takes no more bytes until reset().
#pragma once

#include <cstddef>
#include <cstdint>
#include <expected>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "http/message.h"

namespace weir::http {

struct ParseError {
  enum class Kind : std::uint8_t { malformed, too_large, unsupported };
  Kind kind = Kind::malformed;
  std::string what;    // a short phrase: "obs-fold in header section"
  std::size_t at = 0;  // the bytes of that feed() that were taken before the refused one
};

struct H1Limits {
  std::size_t start_line = std::size_t{16} * 1024;
  std::size_t head = std::size_t{64} * 1024;  // start line and header section
  std::size_t fields = 256;
  std::size_t chunk_extensions = std::size_t{4} * 1024;
  std::size_t trailers = std::size_t{16} * 1024;
};

// Of responses: as much as curl takes, and more than nginx and Node do by default.
inline constexpr H1Limits kResponseLimits{.head = std::size_t{256} * 1024, .fields = 1024};

// After a head: go on into the body, or stop feeding there (feed() returns how many bytes it took; call it
// again with the rest, even when none is left, to go on).
enum class Next : std::uint8_t { proceed, pause };

class H1Handler {
 public:
  virtual ~H1Handler() = default;
  // A request parser calls the first, a response parser the second. 1xx responses come here too (but 101,
  // each followed by on_message_complete).
  virtual Next on_request_head(RequestHead head, BodyFraming framing);
  virtual Next on_response_head(ResponseHead head, BodyFraming framing);
  // Content, chunk framing removed. Valid during the call only.
  virtual void on_body(std::span<const std::byte> data) = 0;
  virtual void on_trailers(Fields trailers) = 0;
  virtual void on_message_complete() = 0;
};

class H1Parser {
 public:
  enum class Kind : std::uint8_t { request, response };

  explicit H1Parser(Kind kind, H1Limits limits = {});
  ~H1Parser();
  H1Parser(H1Parser&&) noexcept;
  H1Parser& operator=(H1Parser&&) noexcept;

  // A response parser must know the request's method before the response's head arrives, for HEAD and CONNECT
  // have no content whatever the header says. One call for each expected response, in order; a response that
  // nobody expects is an error, and so is a 101 unless `may_upgrade`.
  void expect_response_to(std::string_view method, bool may_upgrade = true);

  // Takes bytes up to the end of the input, a pause, an error, or an upgrade (see upgraded()). Returns how
  // many bytes it took.
  std::expected<std::size_t, ParseError> feed(std::span<const std::byte> data, H1Handler& handler);

  // Makes feed() return after each message, for a caller who must look up before the next one begins.
  void stop_between_messages(bool stop);

  // The peer closed: completes a body that runs until close; an error when in the middle of a message.
  std::expected<void, ParseError> finish(H1Handler& handler);

  // Tells the parser that `length` bytes of the input are missing. True when they lie wholly inside content
  // of known length, or in a body that runs until close; they are then skipped (on_body is not called for
  // them). False when framing is lost: only reset() helps.
  bool skip(std::uint64_t length, H1Handler& handler);

  // After an error in a head: its start line and the fields before the error; none if the start line wasn't
  // read. For telling what was refused: nothing may be decided by it, nor sent on.
  std::optional<RequestHead> take_refused_request();
  std::optional<ResponseHead> take_refused_response();

  // After a CONNECT request was answered 2xx, or a 101: what follows is another protocol's.
  bool upgraded() const;
  // Between messages, nothing of the next seen.
  bool idle() const;
  // The bytes, framing included, that the current or last message's body took on the wire so far.
  std::uint64_t body_wire_bytes() const;

  void reset();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// Serialised heads, ready to be sent: start line, fields, empty line.
std::string serialize(const RequestHead& head);
std::string serialize(const ResponseHead& head);

}  // namespace weir::http
