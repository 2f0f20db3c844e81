// See api_session.h. Whoever can reach the TCP port may be a web page's script or a name that was rebound to
// loopback: nothing is answered before Host and token are right.
#include "agent/api_session.h"

#include <openssl/crypto.h>

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/ip/address.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/core/basic_stream.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http.hpp>
#include <chrono>

#include "agent/record_query.h"

namespace weir::agent {
namespace {

namespace net = boost::asio;
namespace beast = boost::beast;
namespace http = beast::http;

using Stream = beast::basic_stream<net::generic::stream_protocol>;
using Request = http::request<http::empty_body>;
using std::chrono::minutes;
using std::chrono::seconds;

constexpr auto kUse = net::as_tuple(net::use_awaitable);
constexpr std::size_t kHeaderBytes = 8 * 1024;
constexpr std::size_t kQueryWriteBytes = 256 * 1024;
constexpr auto kRequestTime = seconds(10);
// `weir ls | less` may stand for a while; but an unfinished query keeps the store's log from being reused.
constexpr auto kQueryWriteTime = minutes(10);

constexpr const char* kText = "text/plain; charset=utf-8";
constexpr const char* kJson = "application/json";
constexpr const char* kJsonLines = "application/jsonl";

struct Refusal {
  http::status status;
  std::string text;
};

template <typename Body>
void set_headers(http::response<Body>& response, const char* type) {
  response.keep_alive(false);
  response.set(http::field::content_type, type);
  response.set(http::field::cache_control, "no-store");
  response.set("X-Content-Type-Options", "nosniff");
  if (response.result() == http::status::unauthorized) response.set(http::field::www_authenticate, "Bearer");
  if (response.result() == http::status::method_not_allowed) response.set(http::field::allow, "GET");
}

net::awaitable<void> answer(Stream& stream, http::status status, const char* type, std::string body) {
  if (!body.ends_with('\n')) body += '\n';
  http::response<http::string_body> response(status, 11, std::move(body));
  set_headers(response, type);
  response.prepare_payload();
  stream.expires_after(kRequestTime);
  co_await http::async_write(stream, response, kUse);
}

net::awaitable<bool> begin_lines(Stream& stream) {
  http::response<http::empty_body> response(http::status::ok, 11);
  set_headers(response, kJsonLines);
  response.chunked(true);
  http::response_serializer<http::empty_body> serializer(response);
  stream.expires_after(kRequestTime);
  const auto [error, size] = co_await http::async_write_header(stream, serializer, kUse);
  co_return !error;
}

net::awaitable<bool> write_lines(Stream& stream, const std::string& lines) {
  const auto [error, size] = co_await net::async_write(stream, http::make_chunk(net::buffer(lines)), kUse);
  co_return !error;
}

net::awaitable<void> end_lines(Stream& stream) {
  co_await net::async_write(stream, http::make_chunk_last(), kUse);
}

// A rebound name is a name: only literal addresses and localhost can't be one.
bool is_local_host(std::string_view host) {
  if (host.starts_with('[')) {
    const auto end = host.find(']');
    host = end == std::string_view::npos ? "" : host.substr(1, end - 1);
  } else {
    host = host.substr(0, host.find(':'));
  }
  if (beast::iequals(host, "localhost")) return true;
  boost::system::error_code error;
  net::ip::make_address(std::string(host), error);
  return !error;
}

bool is_token(std::string_view authorization, const std::string& token) {
  constexpr std::string_view kScheme = "Bearer ";
  if (token.empty() || !beast::iequals(authorization.substr(0, kScheme.size()), kScheme)) return false;
  const auto given = authorization.substr(kScheme.size());
  return given.size() == token.size() && CRYPTO_memcmp(given.data(), token.data(), token.size()) == 0;
}

std::optional<Refusal> refuse(const Request& request, const std::string& token, bool trusted) {
  if (request.version() != 11) return Refusal{http::status::http_version_not_supported, "this is HTTP/1.1"};
  if (request.count(http::field::host) != 1)
    return Refusal{http::status::bad_request, "one Host header is needed"};
  if (!trusted && !is_local_host(request[http::field::host])) {
    return Refusal{http::status::forbidden, "the Host header must be an address or localhost"};
  }
  if (!trusted && !is_token(request[http::field::authorization], token)) {
    return Refusal{http::status::unauthorized, "the token in the state directory's api.token is needed"};
  }
  if (request.method() != http::verb::get)
    return Refusal{http::status::method_not_allowed, "only GET is served"};
  return std::nullopt;
}

net::awaitable<void> serve_status(Stream& stream, ApiService& service, sinks::StoreQuery) {
  return answer(stream, http::status::ok, kJson, service.backend.status_json());
}

net::awaitable<void> serve_coverage(Stream& stream, ApiService& service, sinks::StoreQuery) {
  return answer(stream, http::status::ok, kJsonLines, service.backend.coverage_json());
}

// Runs a piece of work on the pool; the coroutine goes on where it was.
template <typename Work>
net::awaitable<void> run_on(net::thread_pool& pool, Work work) {
  auto task = [&work]() -> net::awaitable<void> {
    work();
    co_return;
  };
  co_await net::co_spawn(pool, task, net::use_awaitable);
}

// The next lines, "" at the end.
std::expected<std::string, sinks::Error> read_lines(sinks::StoreCursor& cursor) {
  std::string lines;
  while (lines.size() < kQueryWriteBytes) {
    const auto line = cursor.next();
    if (!line) return std::unexpected(line.error());
    if (!*line) break;
    lines.append(**line) += '\n';
  }
  return lines;
}

net::awaitable<void> serve_records(Stream& stream, ApiService& service, sinks::StoreQuery query) {
  std::optional<sinks::StoreCursor> cursor;
  std::expected<std::string, sinks::Error> lines;
  co_await run_on(service.queries, [&] {
    auto opened = sinks::StoreCursor::open(service.backend.database, query);
    if (opened) cursor = std::move(*opened);
    lines = cursor ? read_lines(*cursor) : std::unexpected(opened.error());
  });
  if (!lines)
    co_return co_await answer(stream, http::status::service_unavailable, kText, to_string(lines.error()));
  if (!co_await begin_lines(stream)) co_return;
  while (lines && !lines->empty()) {
    stream.expires_after(kQueryWriteTime);
    if (!co_await write_lines(stream, *lines)) co_return;
    co_await run_on(service.queries, [&] { lines = read_lines(*cursor); });
  }
  // Without its last chunk the answer is visibly not whole.
  if (lines) co_await end_lines(stream);
}

net::awaitable<void> serve_tail(Stream& stream, ApiService& service, sinks::StoreQuery query) {
  const auto tail = std::make_shared<Tail>(service.tails, std::move(query));
  if (!co_await begin_lines(stream)) co_return;
  stream.expires_never();
  // A client has nothing more to say: if something can be read, it is the end.
  stream.socket().async_wait(net::socket_base::wait_read,
                             [weak = std::weak_ptr(tail)](boost::system::error_code) {
                               if (const auto waiting = weak.lock()) waiting->close();
                             });
  for (std::string lines = "\n"; !lines.empty(); lines = co_await tail->next()) {
    if (!co_await write_lines(stream, lines)) co_return;
  }
  co_await end_lines(stream);
}

struct Route {
  std::string_view path;
  net::awaitable<void> (*serve)(Stream&, ApiService&, sinks::StoreQuery);
};
constexpr Route kRoutes[] = {
    {"/v1/status", serve_status},
    {"/v1/coverage", serve_coverage},
    {"/v1/records", serve_records},
    {"/v1/tail", serve_tail},
};

net::awaitable<void> route(Stream& stream, ApiService& service, std::string_view text) {
  const auto target = parse_target(text);
  if (!target) return answer(stream, http::status::bad_request, kText, target.error());
  for (const auto& candidate : kRoutes) {
    if (candidate.path == target->path) return candidate.serve(stream, service, target->query);
  }
  return answer(stream, http::status::not_found, kText, "no such path");
}

}  // namespace

net::awaitable<void> serve_api_client(net::generic::stream_protocol::socket socket, ApiService& service,
                                      bool trusted) {
  Stream stream(std::move(socket));
  beast::flat_buffer buffer;
  http::request_parser<http::empty_body> parser;
  parser.header_limit(kHeaderBytes);
  parser.body_limit(std::uint64_t{0});
  stream.expires_after(kRequestTime);
  const auto [error, size] = co_await http::async_read(stream, buffer, parser, kUse);
  const bool went_away = error == http::error::end_of_stream || error == http::error::partial_message;
  const bool is_http_error = error.category() == http::make_error_code(http::error::bad_method).category();
  if (went_away || (error && !is_http_error)) co_return;
  if (error) {
    co_return co_await answer(stream, http::status::bad_request, kText, "bad request: " + error.message());
  }
  const auto refusal = refuse(parser.get(), service.config.token, trusted);
  if (refusal) co_return co_await answer(stream, refusal->status, kText, refusal->text);
  co_await route(stream, service, parser.get().target());
}

}  // namespace weir::agent
