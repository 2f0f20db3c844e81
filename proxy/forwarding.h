// How heads change on their way through: what a proxy must take out of a request, and when a connection may
// be used again. Everything else is kept byte for byte, so that neither side sees a difference.
#pragma once

#include <string>

#include "http/message.h"
#include "proxy/destination.h"

namespace weir::proxy {

// An absolute-form request as its origin is to see it: origin-form target, Host of the target, no proxy
// fields, nothing that Connection names but keep-alive, close and upgrade (both connections live and end
// together).
http::RequestHead to_origin_request(http::RequestHead head, const AbsoluteTarget& target);

// May the client's connection carry another request after this one? `from_proxy_port`: it came as
// absolute-form, where Proxy-Connection counts too.
bool wants_keep_alive(const http::RequestHead& head, bool from_proxy_port);
bool allows_keep_alive(const http::ResponseHead& head, const http::BodyFraming& framing);

// Without this, an upstream that answers 101 is in the wrong (RFC 9110, 7.8).
bool asks_for_upgrade(const http::RequestHead& head);

// RFC 9110, 9.2.2: safe to send again when the connection ended without an answer.
bool is_idempotent(const std::string& method);

// A complete answer of the proxy itself: plain text, one line, the connection closes after it.
std::string own_response(int status, const std::string& text, bool head_only);

}  // namespace weir::proxy
