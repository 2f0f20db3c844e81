#include "proxy/h2_rules.h"

#include <algorithm>
#include <array>
#include <charconv>

#include "proxy/destination.h"

namespace weir::proxy {
namespace {

constexpr std::uint16_t kAnyPort = 443;  // only whether it is an authority matters here

// What is about a connection and not about the message (RFC 9113, 8.2.2).
constexpr std::array<std::string_view, 5> kConnectionFields = {"connection", "keep-alive", "proxy-connection",
                                                               "transfer-encoding", "upgrade"};
// What must not come after the content that it is about (RFC 9110, 6.5.1).
constexpr std::array<std::string_view, 4> kNoTrailers = {"content-length", "host", "te", "trailer"};
// Methods whose content of no bytes is told by its length (RFC 9110, 8.6).
constexpr std::array<std::string_view, 3> kWithContent = {"POST", "PUT", "PATCH"};

bool is_one_of(auto& names, std::string_view name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

std::string lower(std::string_view name) {
  std::string text(name);
  std::transform(text.begin(), text.end(), text.begin(),
                 [](char c) { return c >= 'A' && c <= 'Z' ? c + 32 : c; });
  return text;
}

}  // namespace

bool is_cookie(const http::Field& field) {
  return http::equals_ignoring_case(field.name, "cookie");
}

void join_cookie(http::Fields& fields, const http::Field& crumb) {
  const auto first = std::ranges::find_if(fields, is_cookie);
  if (first == fields.end())
    fields.push_back(crumb);
  else
    first->value += "; " + crumb.value;
}

std::string_view malformation(const HeadBlock& request) {
  const auto authority = request.pseudo_value(":authority");
  const http::Field* host = nullptr;
  for (const auto& field : request.fields) {
    if (field.name != "host") continue;
    if (host != nullptr) return "repeated host";
    host = &field;
  }
  const auto scheme = request.pseudo_value(":scheme");
  if (scheme != "https" && scheme != "http" && request.has_pseudo(":scheme"))
    return "another scheme than http's";
  if (request.pseudo_value(":path").find('#') != std::string_view::npos) return "fragment in :path";
  const bool both = request.has_pseudo(":authority") && host != nullptr;
  if (both && !http::equals_ignoring_case(host->value, authority)) return "host differs from :authority";
  const auto named = host != nullptr ? std::string_view(host->value) : authority;
  if (!parse_authority(named, kAnyPort)) return "bad authority";
  return {};
}

int status_of(const HeadBlock& response) {
  const auto text = response.pseudo_value(":status");
  int status = 0;
  std::from_chars(text.data(), text.data() + text.size(), status);
  return status;
}

http::RequestHead to_http1_request(const HeadBlock& request, bool ended) {
  http::RequestHead head;
  head.method = request.pseudo_value(":method");
  head.target = request.pseudo_value(":path");
  const auto* host = http::find_field(request.fields, "host");
  head.fields.push_back(
      {"host", host != nullptr ? host->value : std::string(request.pseudo_value(":authority"))});
  bool with_length = false;
  for (const auto& field : request.fields) {
    if (field.name == "host") continue;
    with_length = with_length || field.name == "content-length";
    if (is_cookie(field)) {
      join_cookie(head.fields, field);
      continue;
    }
    head.fields.push_back(field);
    if (field.name == "te") head.fields.push_back({"connection", "te"});
  }
  if (!ended && !with_length) head.fields.push_back({"transfer-encoding", "chunked"});
  if (ended && !with_length && is_one_of(kWithContent, head.method))
    head.fields.push_back({"content-length", "0"});
  return head;
}

http::Fields to_http1_trailers(const HeadBlock& trailers) {
  http::Fields kept;
  for (const auto& field : trailers.fields)
    if (!is_one_of(kNoTrailers, field.name)) kept.push_back(field);
  return kept;
}

HeadBlock to_http2_response(const http::ResponseHead& response) {
  HeadBlock block;
  block.pseudo.push_back({":status", std::to_string(response.status)});
  for (const auto& field : response.fields) {
    std::string name = lower(field.name);
    if (is_one_of(kConnectionFields, name) || http::lists_token(response.fields, "Connection", name))
      continue;
    block.fields.push_back({std::move(name), field.value});
  }
  return block;
}

std::optional<HeadBlock> to_http2_request(const http::RequestHead& request) {
  const auto* host = http::find_field(request.fields, "Host");
  const bool whole_server = request.target == "*" && request.method == "OPTIONS";
  if (host == nullptr || (!request.target.starts_with('/') && !whole_server)) return std::nullopt;
  HeadBlock block;
  block.pseudo = {{":method", request.method},
                  {":scheme", "https"},
                  {":authority", host->value},
                  {":path", request.target}};
  for (const auto& field : request.fields) {
    std::string name = lower(field.name);
    const bool of_connection =
        is_one_of(kConnectionFields, name) || http::lists_token(request.fields, "Connection", name);
    const bool trailers = name == "te" && http::lists_token(request.fields, "TE", "trailers");
    if (trailers) block.fields.push_back({name, "trailers"});
    if (of_connection || name == "host" || name == "te") continue;
    block.fields.push_back({std::move(name), field.value});
  }
  if (!malformation(block).empty()) return std::nullopt;
  return block;
}

http::ResponseHead to_http1_response(const HeadBlock& response) {
  http::ResponseHead head;
  head.status = static_cast<std::uint16_t>(status_of(response));
  head.fields = response.fields;
  return head;
}

HeadBlock to_http2_trailers(const http::Fields& trailers) {
  HeadBlock block;
  for (const auto& field : trailers) {
    std::string name = lower(field.name);
    if (is_one_of(kConnectionFields, name) || is_one_of(kNoTrailers, name)) continue;
    block.fields.push_back({std::move(name), field.value});
  }
  return block;
}

}  // namespace weir::proxy
