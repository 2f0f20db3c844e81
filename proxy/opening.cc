// Reading until it is clear what is being said, and no further.
#include "proxy/opening.h"

#include <array>
#include <boost/asio/experimental/awaitable_operators.hpp>
#include <string_view>

#include "attribution/client_hello.h"
#include "http/message_start.h"

namespace weir::proxy {
namespace {

constexpr std::size_t kPeekBuffer = 4 * 1024;
constexpr std::size_t kMostRequestLine = 64 * 1024;

// A CONNECT is for another proxy, which speaks to the client from then on.
http::Start starts_request(std::span<const std::byte> data) {
  const std::string_view text(reinterpret_cast<const char*>(data.data()), data.size());
  const auto start = http::starts_message(http::H1Parser::Kind::request, text, kMostRequestLine);
  return start == http::Start::yes && text.starts_with("CONNECT ") ? http::Start::no : start;
}

}  // namespace

Task<void> wait_for_either_side(Stream& client, Stream& upstream, std::chrono::milliseconds idle_timeout) {
  using namespace asio::experimental::awaitable_operators;
  upstream.set_idle_timeout(idle_timeout);
  co_await (client.wait_readable() || upstream.wait_readable());
}

// An unfinished request line may as well be another protocol's beginning: its server may speak next.
Task<Opening> peek_opening(Stream& client, Stream* upstream, std::chrono::milliseconds timeout,
                           bool may_be_request) {
  using namespace asio::experimental::awaitable_operators;
  Opening opening;
  opening.server_spoke = upstream != nullptr && !client.readable_now();
  if (opening.server_spoke) co_return opening;
  client.set_deadline(timeout);
  std::vector<std::byte> seen;
  std::array<std::byte, kPeekBuffer> buffer;
  for (;;) {
    const ReadResult got = co_await client.read(buffer);
    if (got.status != Io::ok) break;
    seen.insert(seen.end(), buffer.begin(), buffer.begin() + static_cast<std::ptrdiff_t>(got.size));
    const auto hello = parse_client_hello(seen);
    // Also for good, if no more comes.
    opening.is_unreadable = hello ? hello->unreadable_name : hello.error() != HelloError::not_tls;
    if (!hello && hello.error() == HelloError::incomplete) continue;
    opening.is_tls = hello.has_value();
    opening.has_encrypted_hello = hello && hello->has_encrypted;
    if (hello) opening.server_name = hello->server_name;
    if (hello) opening.protocols = hello->protocols;
    const auto start = hello || !may_be_request ? http::Start::no : starts_request(seen);
    opening.is_request = start == http::Start::yes;
    if (start != http::Start::not_yet) break;
    if (upstream == nullptr) continue;
    co_await (client.wait_readable() || upstream->wait_readable());
    if (!client.readable_now()) break;
  }
  client.unread(seen);
  co_return opening;
}

}  // namespace weir::proxy
