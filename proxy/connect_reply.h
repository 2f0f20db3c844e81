// What a client that asks for a connection is told, in the words of the protocol that it asks in: HTTP's
// CONNECT or SOCKS 5. One connection's; small once the session of the proxy's port is gone with it.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <variant>

#include "proxy/http_session.h"
#include "proxy/socks.h"
#include "proxy/stream.h"

namespace weir::proxy {

class ConnectReply {
 public:
  explicit ConnectReply(std::unique_ptr<HttpSession> session) : asked_(std::move(session)) {}
  explicit ConnectReply(SocksRequest request) : asked_(std::move(request)) {}

  Task<void> refuse(Stream& client, int status, std::string text) {
    if (auto* session = std::get_if<0>(&asked_))
      co_return co_await (*session)->answer_unpublished(status, text);
    const std::string answer = SocksRequest::answer(SocksRequest::Reply::not_allowed);
    co_await client.write(std::as_bytes(std::span(answer)));
  }
  std::string established() const {
    if (by_socks()) return SocksRequest::answer(SocksRequest::Reply::succeeded);
    return "HTTP/1.1 200 Connection established\r\n\r\n";
  }
  // What the client sent without waiting for it.
  std::span<const std::byte> unread() const {
    if (const auto* session = std::get_if<0>(&asked_)) return (*session)->unread();
    return std::get<SocksRequest>(asked_).unread();
  }
  bool by_socks() const { return asked_.index() == 1; }

 private:
  std::variant<std::unique_ptr<HttpSession>, SocksRequest> asked_;
};

}  // namespace weir::proxy
