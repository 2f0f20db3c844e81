// Where an HTTP/1 message starts: at the first byte of a stream, or somewhere in a stream whose framing is
// lost. Only recognises; what it points at is still for the strict parser to accept or refuse.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "http/h1_parser.h"

namespace weir::http {

enum class Start : std::uint8_t { not_yet, yes, no };

// Whether the stream that begins with `head` begins with a message. `not_yet`: more bytes decide.
Start starts_message(H1Parser::Kind kind, std::string_view head, std::size_t max_line);

// The offset of the first message start in `text` that ends after `from` (what lies before was searched
// already), or npos. Of a text without one, only the last seek_window() bytes are needed for the next search.
std::size_t find_message_start(H1Parser::Kind kind, std::string_view text, std::size_t from);
std::size_t seek_window(H1Parser::Kind kind);

}  // namespace weir::http
