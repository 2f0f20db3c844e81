// Reading until it is clear what is being said, and no further.
#include "proxy/opening.h"

#include <algorithm>
#include <array>
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/experimental/awaitable_operators.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <optional>
#include <string_view>

#include "attribution/client_hello.h"
#include "attribution/text.h"
#include "http/h2_frames.h"
#include "http/message_start.h"

namespace weir::proxy {
namespace {

constexpr std::size_t kPeekBuffer = 4 * 1024;
constexpr std::size_t kMostRequestLine = 64 * 1024;
// A request's first line comes at once. What looks like the beginning of one and doesn't go on may be all
// that another protocol's client says before its server.
constexpr std::chrono::milliseconds kRequestLineWait{1'000};

enum class Beginning : std::uint8_t { not_yet, request, http2, odd_request, other };

constexpr std::byte kHandshakeRecord{0x16};
constexpr std::string_view kBlank = " \t\r\n";

// Lenient servers take more for a request than the strict parser does: behind empty lines or blanks, with
// tabs for spaces, with lines that end in LF alone (RFC 9112, sections 2.2 and 3), or with a longer first
// line.
Beginning resembles_request(std::string_view text) {
  std::string line(text.substr(std::min(text.find_first_not_of(kBlank), text.size())));
  std::ranges::replace(line, '\t', ' ');
  const auto start = http::starts_message(http::H1Parser::Kind::request, line, text.size() + 1);
  if (start == http::Start::yes) return Beginning::odd_request;
  if (start == http::Start::not_yet)
    return text.size() < kMostRequestLine ? Beginning::not_yet : Beginning::odd_request;
  line.resize(std::min(line.find('\n'), line.size()));
  return to_lower(line).contains(" http/") ? Beginning::odd_request : Beginning::other;
}

// A CONNECT is for another proxy, which speaks to the client from then on.
Beginning beginning_of(std::span<const std::byte> data) {
  const std::string_view text(reinterpret_cast<const char*>(data.data()), data.size());
  if (text.starts_with(http::kH2Preface)) return Beginning::http2;
  if (http::kH2Preface.starts_with(text)) return Beginning::not_yet;
  switch (http::starts_message(http::H1Parser::Kind::request, text, kMostRequestLine)) {
    case http::Start::not_yet:
      return Beginning::not_yet;
    case http::Start::yes:
      return text.starts_with("CONNECT ") ? Beginning::other : Beginning::request;
    case http::Start::no:
      break;
  }
  return resembles_request(text);
}

}  // namespace

Task<void> wait_for_either_side(Stream& client, Stream& upstream, std::chrono::milliseconds idle_timeout) {
  using namespace asio::experimental::awaitable_operators;
  upstream.set_idle_timeout(idle_timeout);
  co_await (client.wait_readable() || upstream.wait_readable());
}

bool speaks_http2_first(Stream& upstream) {
  constexpr std::array<unsigned, 9> kSettingsFrame = {0, 0, 0, 4, 0, 0, 0, 0, 0};  // whatever its length
  std::array<std::byte, kSettingsFrame.size()> first;
  if (upstream.peek_now(first) < first.size()) return false;
  for (const std::size_t at : {0, 3, 4, 5, 6, 7, 8})
    if (std::to_integer<unsigned>(first[at]) != kSettingsFrame[at]) return false;
  return true;
}

// An unfinished request line may as well be another protocol's beginning: its server may speak next.
Task<Opening> peek_opening(Stream& client, Stream* upstream, std::chrono::milliseconds timeout) {
  using namespace asio::experimental::awaitable_operators;
  Opening opening;
  opening.server_spoke = upstream != nullptr && !client.readable_now();
  if (opening.server_spoke) co_return opening;
  client.set_deadline(timeout);
  std::vector<std::byte> seen;
  std::array<std::byte, kPeekBuffer> buffer;
  std::optional<asio::steady_timer> patience;
  for (;;) {
    const ReadResult got = co_await client.read(buffer);
    if (got.status != Io::ok) break;
    seen.insert(seen.end(), buffer.begin(), buffer.begin() + static_cast<std::ptrdiff_t>(got.size));
    const auto hello = parse_client_hello(seen);
    // Also for good, if no more comes.
    const bool odd = hello ? hello->unreadable_name : hello.error() != HelloError::not_tls;
    opening.unreadable = odd ? Unreadable::hello : Unreadable::nothing;
    const bool unfinished = !hello && hello.error() == HelloError::incomplete;
    if (unfinished && seen.front() == kHandshakeRecord) continue;
    opening.is_tls = hello.has_value();
    opening.has_encrypted_hello = hello && hello->has_encrypted;
    if (hello) opening.server_name = hello->server_name;
    if (hello) opening.protocols = hello->protocols;
    if (hello || (odd && !unfinished)) break;
    const Beginning beginning = unfinished ? Beginning::not_yet : beginning_of(seen);
    opening.is_request = beginning == Beginning::request;
    opening.is_http2 = beginning == Beginning::http2;
    if (beginning == Beginning::odd_request) opening.unreadable = Unreadable::request;
    if (beginning != Beginning::not_yet) break;
    if (upstream == nullptr) continue;
    if (!patience) patience.emplace(co_await asio::this_coro::executor, kRequestLineWait);
    co_await (client.wait_readable() || upstream->wait_readable() ||
              patience->async_wait(asio::as_tuple(asio::use_awaitable)));
    if (client.readable_now()) continue;
    if (!upstream->readable_now() && !unfinished) opening.unreadable = Unreadable::request;
    break;
  }
  client.unread(seen);
  // What comes next takes its own time, and has limits of its own.
  client.set_idle_timeout(std::chrono::milliseconds(0));
  co_return opening;
}

}  // namespace weir::proxy
