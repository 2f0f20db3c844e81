// A proxy above this one, which connects to destinations in its place: how the configuration names it, and
// what is said to it before the connection is the destination's. Sans-IO.
#pragma once

#include <cstddef>
#include <cstdint>
#include <expected>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "attribution/policy.h"

namespace weir::proxy {

struct UpstreamProxy {
  enum class Kind : std::uint8_t { http, socks5 };
  Kind kind = Kind::http;
  Destination address;
  std::string user;  // "": without credentials
  std::string password;
};

// "http://[user:password@]host[:port]" or "socks5://..." (ports 80 and 1080 if not said); credentials may be
// percent-encoded. The error never holds the credentials.
std::expected<UpstreamProxy, std::string> parse_upstream_proxy(std::string_view url);

// The value of Proxy-Authorization; "" without credentials.
std::string credentials_for(const UpstreamProxy& proxy);

// One connection's talk: send output(), feed what comes, until the state is another. One thread.
class ProxyHandshake {
 public:
  enum class State : std::uint8_t { unfinished, connected, refused };

  static std::unique_ptr<ProxyHandshake> begin(const UpstreamProxy& proxy, const Destination& destination);
  virtual ~ProxyHandshake() = default;

  // What is to be sent now; "" when an answer is awaited.
  std::string take_output() { return std::exchange(output_, {}); }
  // May not be called once the state is another than `unfinished`.
  virtual void feed(std::span<const std::byte> data) = 0;
  State state() const { return state_; }
  const std::string& why() const { return why_; }  // it is refused: a few words
  // What came after the proxy's last word: the destination's first bytes.
  const std::vector<std::byte>& unread() const { return unread_; }

 protected:
  void refuse(std::string why) {
    state_ = State::refused;
    why_ = std::move(why);
  }

  std::string output_;
  State state_ = State::unfinished;
  std::string why_;
  std::vector<std::byte> unread_;
};

}  // namespace weir::proxy
