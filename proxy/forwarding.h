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

// An origin's request, which has a Host, in the form that a proxy is given it in. `credentials`: the value of
// Proxy-Authorization, "" for none.
http::RequestHead to_proxy_request(http::RequestHead head, const std::string& credentials);

// May the client's connection carry another request after this one? `from_proxy_port`: it came as
// absolute-form, where Proxy-Connection counts too.
bool wants_keep_alive(const http::RequestHead& head, bool from_proxy_port);
bool allows_keep_alive(const http::ResponseHead& head, const http::BodyFraming& framing);

// Inside an opened connection: whether the host that an absolute target names is another than Host's. A
// server goes by the target (RFC 9112, section 3.2.2), policy by Host.
bool names_two_hosts(const http::RequestHead& head);

// Takes out the offer to go on in another HTTP, or in TLS, on this connection: nobody would see what is asked
// for then. A server may always leave it at that (RFC 9110, section 7.8).
void drop_http_upgrade(http::RequestHead& head);

// Without this, an upstream that answers 101 is in the wrong (RFC 9110, 7.8).
bool asks_for_upgrade(const http::RequestHead& head);

// RFC 9110, 9.2.2: safe to send again when the connection ended without an answer.
bool is_idempotent(const std::string& method);

// A complete answer of the proxy itself: plain text, one line, the connection closes after it.
std::string own_response(int status, const std::string& text, bool head_only);

}  // namespace weir::proxy
