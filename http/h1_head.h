// Start lines, and what a head says about the body that follows it (RFC 9112, sections 3, 4 and 6). Pure
// functions; in doubt about a message's length they refuse it, for a guess here is a smuggled request.
#pragma once

#include <expected>
#include <string_view>

#include "http/h1_parser.h"

namespace weir::http {

// What the answer depends on in the request that it answers.
enum class Answers : std::uint8_t { ordinary, head, connect };
Answers answers_for(std::string_view method);

// `line` is without its CRLF; the heads' fields stay empty.
std::expected<RequestHead, ParseError> parse_request_line(std::string_view line);
std::expected<ResponseHead, ParseError> parse_status_line(std::string_view line);

std::expected<BodyFraming, ParseError> request_framing(const RequestHead& head);
std::expected<BodyFraming, ParseError> response_framing(const ResponseHead& head, Answers answers);
// After this response the connection speaks another protocol.
bool switches_protocol(const ResponseHead& head, Answers answers);

}  // namespace weir::http
