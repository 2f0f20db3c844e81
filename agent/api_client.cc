// See api.h. Plain blocking reads: a subcommand has nothing else to do while it waits.
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <boost/asio/buffer.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/string_body.hpp>
#include <cerrno>
#include <cstring>

#include "agent/api.h"
#include "agent/descriptor.h"

namespace weir::agent {
namespace {

namespace http = boost::beast::http;
using OnLine = std::function<bool(std::string_view)>;

constexpr int kAnswerTimeMs =
    30'000;  // to the header's end; a feed may then be silent for as long as it likes
constexpr std::size_t kLineBytes = std::size_t{256} << 20;

std::unexpected<ApiClientError> failure(const std::string& what) {
  return std::unexpected(ApiClientError{false, what});
}

std::expected<void, ApiClientError> connect_to(int descriptor, const std::string& path) {
  sockaddr_un address{};
  if (path.size() >= sizeof(address.sun_path)) return failure(path + ": too long for a unix socket's path");
  address.sun_family = AF_UNIX;
  path.copy(address.sun_path, path.size());
  if (::connect(descriptor, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0) return {};
  const bool not_running = errno == ENOENT || errno == ECONNREFUSED;
  const char* remedy = errno == EACCES ? ": only its owner and root may" : "";
  return std::unexpected(ApiClientError{not_running, path + ": " + std::strerror(errno) + remedy});
}

// Gives out the whole lines in `text` and keeps the rest; false: the receiver has enough.
bool give_lines(std::string& text, const OnLine& on_line) {
  std::size_t begin = 0;
  for (auto end = text.find('\n'); end != std::string::npos; end = text.find('\n', begin)) {
    if (!on_line(std::string_view(text).substr(begin, end - begin))) return false;
    begin = end + 1;
  }
  text.erase(0, begin);
  return true;
}

class Answer {
 public:
  explicit Answer(const OnLine& on_line) : on_line_(on_line) { parser_.body_limit(boost::none); }

  // Takes what was received; false: there is nothing more to read.
  std::expected<bool, ApiClientError> take(std::string_view received) {
    unparsed_.append(received);
    boost::system::error_code error;
    std::size_t used = 1;
    while (!error && used > 0 && !parser_.is_done() && !unparsed_.empty()) {
      used = parser_.put(boost::asio::buffer(unparsed_), error);
      unparsed_.erase(0, used);
    }
    if (error && error != http::error::need_more)
      return failure("the agent's answer makes no sense: " + error.message());
    return take_body();
  }

  bool has_header() const { return parser_.is_header_done(); }
  bool enough() const { return enough_; }  // the receiver has said so

  std::expected<void, ApiClientError> end() {
    if (!parser_.is_done()) return failure("the agent's answer broke off");
    const auto status = parser_.get().result_int();
    if (status != 200) return failure("the agent answered " + std::to_string(status) + ": " + text_);
    if (!text_.empty()) on_line_(text_);
    return {};
  }

 private:
  std::expected<bool, ApiClientError> take_body() {
    if (!parser_.is_header_done()) return true;
    text_.append(std::exchange(parser_.get().body(), {}));
    if (text_.size() > kLineBytes) return failure("the agent's answer has a line beyond all measure");
    const bool wanted = parser_.get().result_int() != 200 || give_lines(text_, on_line_);
    if (!wanted) enough_ = true;
    return wanted && !parser_.is_done();
  }

  const OnLine& on_line_;
  http::response_parser<http::string_body> parser_;
  std::string unparsed_;
  std::string text_;
  bool enough_ = false;
};

std::expected<void, ApiClientError> read_answer(int descriptor, Answer& answer) {
  char buffer[64 * 1024];
  for (bool more = true; more;) {
    pollfd ready{descriptor, POLLIN, 0};
    if (::poll(&ready, 1, answer.has_header() ? -1 : kAnswerTimeMs) == 0)
      return failure("the agent doesn't answer");
    const auto size = ::read(descriptor, buffer, sizeof(buffer));
    if (size < 0 && errno == EINTR) continue;
    if (size <= 0) break;
    auto taken = answer.take({buffer, static_cast<std::size_t>(size)});
    if (!taken) return std::unexpected(taken.error());
    more = *taken;
  }
  return answer.enough() ? std::expected<void, ApiClientError>{} : answer.end();
}

}  // namespace

std::expected<void, ApiClientError> api_get(const std::filesystem::path& socket, const std::string& target,
                                            const OnLine& on_line) {
  const Descriptor descriptor(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (descriptor.get() < 0) return failure(std::string("socket: ") + std::strerror(errno));
  if (auto connected = connect_to(descriptor.get(), socket.string()); !connected) return connected;
  const std::string request = "GET " + target + " HTTP/1.1\r\nHost: localhost\r\n\r\n";
  const ssize_t sent = ::send(descriptor.get(), request.data(), request.size(), MSG_NOSIGNAL);
  // An agent that turns us away closes without having read: its answer is there all the same.
  const bool turned_away = sent < 0 && errno == EPIPE;
  if (sent != static_cast<ssize_t>(request.size()) && !turned_away) {
    return failure(socket.string() + ": " + std::strerror(errno));
  }
  Answer answer(on_line);
  return read_answer(descriptor.get(), answer);
}

}  // namespace weir::agent
