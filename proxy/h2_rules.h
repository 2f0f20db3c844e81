// What a request over HTTP/2 must be like beyond what nghttp2 sees to, and how heads change between HTTP/2
// and HTTP/1 (RFC 9113, sections 8.2 and 8.3). Pure functions over heads.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "http/message.h"
#include "proxy/transit.h"

namespace weir::proxy {

// HTTP/2's clients may split the field Cookie (RFC 9113, 8.2.3): the first piece is it, others are joined to
// it.
bool is_cookie(const http::Field& field);
void join_cookie(http::Fields& fields, const http::Field& crumb);

// Why the request is malformed, in a few words (RFC 9113, 8.1.1 and 8.3.1): "" when it is not.
std::string_view malformation(const HeadBlock& request);

// 0 when there is none: the block is trailers.
int status_of(const HeadBlock& response);

// A well-formed request as an HTTP/1.1 origin is to see it: Host from :authority, one Cookie, and a chunked
// body where there is one of unknown length.
http::RequestHead to_http1_request(const HeadBlock& request, bool ended);
http::Fields to_http1_trailers(const HeadBlock& trailers);
// A request over TLS; nothing when its target is not in origin-form, or its Host is none.
std::optional<HeadBlock> to_http2_request(const http::RequestHead& request);
// What it leaves open is how the content ends.
http::ResponseHead to_http1_response(const HeadBlock& response);
HeadBlock to_http2_response(const http::ResponseHead& response);
HeadBlock to_http2_trailers(const http::Fields& trailers);

}  // namespace weir::proxy
