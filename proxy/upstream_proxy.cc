// CONNECT to an HTTP proxy (RFC 9110, 9.3.6; Basic credentials of RFC 7617), and SOCKS 5 (RFC 1928, with the
// user and password of RFC 1929). Names are sent as names: whoever connects resolves them.
#include "proxy/upstream_proxy.h"

#include <openssl/evp.h>

#include <array>
#include <optional>
#include <utility>

#include "http/h1_parser.h"
#include "proxy/destination.h"

namespace weir::proxy {
namespace {

std::string authority_of(const Destination& destination) {
  const bool v6 = destination.name.find(':') != std::string::npos;
  return (v6 ? "[" + destination.name + "]" : destination.name) + ":" + std::to_string(destination.port);
}

std::string base64(std::string_view text) {
  std::string out(4 * ((text.size() + 2) / 3) + 1, '\0');
  const auto* data = reinterpret_cast<const unsigned char*>(text.data());
  const int size =
      EVP_EncodeBlock(reinterpret_cast<unsigned char*>(out.data()), data, static_cast<int>(text.size()));
  out.resize(static_cast<std::size_t>(size));
  return out;
}

// ---- HTTP

class ConnectHandshake final : public ProxyHandshake, private http::H1Handler {
 public:
  ConnectHandshake(const UpstreamProxy& proxy, const Destination& destination) {
    const std::string authority = authority_of(destination);
    output_ = "CONNECT " + authority + " HTTP/1.1\r\nHost: " + authority + "\r\n";
    if (!proxy.user.empty()) output_ += "Proxy-Authorization: " + credentials_for(proxy) + "\r\n";
    output_ += "\r\n";
    parser_.expect_response_to("CONNECT", false);
  }

  void feed(std::span<const std::byte> data) override {
    const auto taken = parser_.feed(data, *this);
    // What follows a refusal is not looked at.
    if (status_ == 407) return refuse("asks for credentials that it takes (407)");
    if (status_ >= 300) return refuse("answered " + std::to_string(status_));
    if (!taken) return refuse("sent a malformed answer: " + taken.error().what);
    if (status_ == 0) return;
    if (!parser_.upgraded()) return refuse("answered " + std::to_string(status_));
    unread_.assign(data.begin() + static_cast<std::ptrdiff_t>(*taken), data.end());
    state_ = State::connected;
  }

 private:
  http::Next on_response_head(http::ResponseHead head, http::BodyFraming) override {
    if (head.status >= 200) status_ = head.status;
    return http::Next::proceed;
  }
  void on_body(std::span<const std::byte>) override {}
  void on_trailers(http::Fields) override {}
  void on_message_complete() override {}

  http::H1Parser parser_{http::H1Parser::Kind::response};
  std::uint16_t status_ = 0;
};

// ---- SOCKS 5

constexpr char kVersion = 5;
constexpr char kNoCredentials = 0;
constexpr char kUserAndPassword = 2;
constexpr std::array kReplies = {"",
                                 "failed",
                                 "does not allow it",
                                 "says: network unreachable",
                                 "says: host unreachable",
                                 "says: connection refused",
                                 "says: TTL expired",
                                 "can't do CONNECT",
                                 "does not know the kind of address"};

std::string counted(std::string_view text) {
  return static_cast<char>(text.size()) + std::string(text);
}

std::string socks_request(const Destination& destination) {
  std::string request = {kVersion, 1, 0};  // CONNECT
  const IpAddress literal = parse_ip_address(destination.name);
  const auto* bytes = reinterpret_cast<const char*>(literal.bytes.data());
  switch (literal.family) {
    case IpAddress::Family::v4:
      request += '\x01' + std::string(bytes, 4);
      break;
    case IpAddress::Family::v6:
      request += '\x04' + std::string(bytes, 16);
      break;
    case IpAddress::Family::unknown:
      request += '\x03' + counted(destination.name);
  }
  request += static_cast<char>(destination.port >> 8);
  request += static_cast<char>(destination.port & 0xff);
  return request;
}

class SocksHandshake final : public ProxyHandshake {
 public:
  SocksHandshake(const UpstreamProxy& proxy, const Destination& destination)
      : credentials_(proxy.user.empty() ? "" : '\x01' + counted(proxy.user) + counted(proxy.password)),
        request_(socks_request(destination)) {
    output_ = std::string{kVersion};
    output_ += counted(credentials_.empty() ? std::string{kNoCredentials}
                                            : std::string{kNoCredentials, kUserAndPassword});
    if (destination.name.size() > 255) refuse("can't be asked for a name of more than 255 bytes");
  }

  void feed(std::span<const std::byte> data) override {
    unread_.insert(unread_.end(), data.begin(), data.end());
    while (state_ == State::unfinished && take_answer()) {
    }
  }

 private:
  enum class Step : std::uint8_t { method, credentials, reply };

  int at(std::size_t index) const { return std::to_integer<int>(unread_[index]); }
  void take(std::size_t count) {
    unread_.erase(unread_.begin(), unread_.begin() + static_cast<std::ptrdiff_t>(count));
  }

  // True when one was complete.
  bool take_answer() {
    if (step_ == Step::reply) return take_reply();
    if (unread_.size() < 2) return false;
    const int answer = at(1);
    if (at(0) != (step_ == Step::method ? kVersion : 1)) return refuse("does not speak SOCKS 5"), true;
    take(2);
    if (step_ == Step::credentials) {
      if (answer != 0) return refuse("does not take the credentials"), true;
    } else if (answer == kUserAndPassword && !credentials_.empty()) {
      output_ += std::exchange(credentials_, {});
      step_ = Step::credentials;
      return true;
    } else if (answer != kNoCredentials) {
      return refuse("asks for credentials that it takes"), true;
    }
    output_ += request_;
    step_ = Step::reply;
    return true;
  }

  bool take_reply() {
    if (unread_.size() < 5) return false;
    if (at(0) != kVersion) return refuse("does not speak SOCKS 5"), true;
    const auto code = static_cast<std::size_t>(at(1));
    if (code != 0)
      return refuse(code < kReplies.size() ? kReplies.at(code) : "failed: " + std::to_string(code)), true;
    const int kind = at(3);
    const std::size_t address = kind == 1 ? 4 : kind == 4 ? 16 : kind == 3 ? std::size_t{1} + at(4) : 0;
    if (address == 0) return refuse("sent a malformed answer"), true;
    const std::size_t size = 4 + address + 2;
    if (unread_.size() < size) return false;
    take(size);
    state_ = State::connected;
    return true;
  }

  std::string credentials_;
  std::string request_;
  Step step_ = Step::method;
};

// ---- the configuration's URL

std::optional<std::string> percent_decoded(std::string_view text) {
  const auto digit = [](char c) -> int {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
  };
  std::string out;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '%') {
      out += text[i];
      continue;
    }
    if (i + 2 >= text.size() || digit(text[i + 1]) < 0 || digit(text[i + 2]) < 0) return std::nullopt;
    out += static_cast<char>(digit(text[i + 1]) * 16 + digit(text[i + 2]));
    i += 2;
  }
  return out;
}

}  // namespace

std::expected<UpstreamProxy, std::string> parse_upstream_proxy(std::string_view url) {
  struct Scheme {
    std::string_view prefix;
    UpstreamProxy::Kind kind;
    std::uint16_t port;
  };
  constexpr std::array schemes = {Scheme{"http://", UpstreamProxy::Kind::http, 80},
                                  Scheme{"socks5://", UpstreamProxy::Kind::socks5, 1080}};
  for (const Scheme& scheme : schemes) {
    if (!url.starts_with(scheme.prefix)) continue;
    std::string_view rest = url.substr(scheme.prefix.size());
    if (rest.ends_with('/')) rest.remove_suffix(1);
    UpstreamProxy proxy{.kind = scheme.kind, .address = {}, .user = {}, .password = {}};
    if (const auto end = rest.rfind('@'); end != std::string_view::npos) {
      const std::string_view credentials = rest.substr(0, end);
      const auto colon = credentials.find(':');
      const bool has_password = colon != std::string_view::npos;
      const auto user = percent_decoded(credentials.substr(0, colon));
      const auto password = percent_decoded(has_password ? credentials.substr(colon + 1) : "");
      if (!user || !password || user->empty() || user->size() > 255 || password->size() > 255 ||
          user->find(':') != std::string::npos)
        return std::unexpected("user and password have at most 255 bytes each, percent-encoded where needed");
      proxy.user = *user;
      proxy.password = *password;
      rest.remove_prefix(end + 1);
    }
    const auto address = parse_authority(rest, scheme.port);
    if (!address)
      return std::unexpected("expected " + std::string(scheme.prefix) + "[user:password@]host[:port]");
    proxy.address = *address;
    return proxy;
  }
  return std::unexpected("expected http://[user:password@]host[:port] or socks5://...");
}

std::string credentials_for(const UpstreamProxy& proxy) {
  return proxy.user.empty() ? std::string() : "Basic " + base64(proxy.user + ":" + proxy.password);
}

std::unique_ptr<ProxyHandshake> ProxyHandshake::begin(const UpstreamProxy& proxy,
                                                      const Destination& destination) {
  if (proxy.kind == UpstreamProxy::Kind::socks5) return std::make_unique<SocksHandshake>(proxy, destination);
  return std::make_unique<ConnectHandshake>(proxy, destination);
}

}  // namespace weir::proxy
