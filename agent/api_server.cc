// See api.h. The listeners, the one thread, and the order of the end; what a request gets is
// api_session.cc's.
#include <arpa/inet.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/local/stream_protocol.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>
#include <csignal>
#include <thread>

#include "agent/api.h"
#include "agent/api_session.h"
#include "agent/memory.h"
#include "attribution/idle_hook.h"

namespace weir::agent {
namespace {

namespace net = boost::asio;
using boost::system::error_code;
using Protocol = net::generic::stream_protocol;
using Acceptor = net::basic_socket_acceptor<Protocol, net::io_context::executor_type>;

constexpr auto kEndTime = std::chrono::seconds(1);
constexpr std::string_view kBusy =
    "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 21\r\nConnection: close\r\n\r\n"
    "too many connections\n";

struct Listener {
  Acceptor acceptor;
  bool trusted;
  std::size_t clients = 0;
};

class Server : public ApiServer {
 public:
  Server(ApiConfig config, ApiBackend backend)
      : config_(std::move(config)), backend_(std::move(backend)), tails_(io_, config_.tail_queue) {}
  ~Server() override { stop(); }
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  std::optional<ApiError> listen_unix();
  std::optional<ApiError> listen_tcp();

  std::optional<Endpoint> address() const override { return address_; }
  void publish(RecordPtr record) override { tails_.publish(std::move(record)); }
  void start() override;
  void stop() override;

 private:
  error_code listen(Listener& listener, const Protocol::endpoint& endpoint);
  net::awaitable<void> accept_clients(Listener& listener);
  void admit(Listener& listener, Protocol::socket socket);
  void run();

  const ApiConfig config_;
  const ApiBackend backend_;
  std::optional<Endpoint> address_;
  bool stopping_ = false;  // the API's thread alone
  net::io_context io_{1};
  Tails tails_;
  net::thread_pool queries_{1};
  ApiService service_{config_, backend_, tails_, queries_};
  Listener unix_{Acceptor(io_), true};
  Listener tcp_{Acceptor(io_), false};
  std::thread thread_;
};

error_code Server::listen(Listener& listener, const Protocol::endpoint& endpoint) {
  error_code error;
  listener.acceptor.open(endpoint.protocol(), error);
  if (!error) listener.acceptor.set_option(net::socket_base::reuse_address(true), error);
  if (!error) listener.acceptor.bind(endpoint, error);
  // Until listen() nobody can connect, so the socket is never open to others.
  if (!error && listener.trusted && ::chmod(config_.unix_socket.c_str(), 0600) != 0) {
    error.assign(errno, boost::system::system_category());
  }
  if (!error) listener.acceptor.listen(net::socket_base::max_listen_connections, error);
  return error;
}

std::optional<ApiError> Server::listen_unix() {
  const std::string path = config_.unix_socket.string();
  constexpr std::size_t kLongest = sizeof(sockaddr_un::sun_path) - 1;
  if (path.size() > kLongest) {
    return ApiError{path + ": a unix socket's path has at most " + std::to_string(kLongest) + " bytes",
                    "choose a shorter --state-dir"};
  }
  struct stat status{};
  if (::lstat(path.c_str(), &status) == 0 && !S_ISSOCK(status.st_mode)) {
    return ApiError{path + ": not a socket, though weir's belongs there", "move it away"};
  }
  ::unlink(path.c_str());
  const auto error = listen(unix_, net::local::stream_protocol::endpoint(path));
  if (error) return ApiError{path + ": " + error.message(), "let weir's user write to the state directory"};
  return std::nullopt;
}

std::optional<ApiError> Server::listen_tcp() {
  const std::string name = config_.tcp->to_string();
  if (config_.token.empty()) return ApiError{"the API on " + name + " has no token", "give it one"};
  error_code error;
  const auto address = net::ip::make_address(config_.tcp->address.to_string(), error);
  if (!error) error = listen(tcp_, net::ip::tcp::endpoint(address, config_.tcp->port));
  if (error)
    return ApiError{"API on " + name + ": " + error.message(), "choose another --api-listen (port 0: any)"};
  // The port stands at the same place for both families.
  const auto bound = tcp_.acceptor.local_endpoint();
  address_ =
      Endpoint{config_.tcp->address, ntohs(reinterpret_cast<const sockaddr_in*>(bound.data())->sin_port)};
  return std::nullopt;
}

void Server::start() {
  for (auto* listener : {&unix_, &tcp_}) {
    if (listener->acceptor.is_open()) net::co_spawn(io_, accept_clients(*listener), net::detached);
  }
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  thread_ = std::thread([this] { run(); });
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

void Server::run() {
  IdleHook idle(return_thread_memory);
  while (!stopping_) {
    const bool worked = io_.run_one_for(IdleHook::kAfter) != 0;
    idle.turn(worked);
  }
  io_.run_for(kEndTime);
}

net::awaitable<void> Server::accept_clients(Listener& listener) {
  while (listener.acceptor.is_open()) {
    auto [error, socket] = co_await listener.acceptor.async_accept(net::as_tuple(net::use_awaitable));
    if (!error) {
      admit(listener, Protocol::socket(std::move(socket)));
    } else if (error != net::error::operation_aborted) {
      // Out of descriptors, most likely: trying again at once would spin.
      net::steady_timer pause(io_, std::chrono::milliseconds(100));
      co_await pause.async_wait(net::as_tuple(net::use_awaitable));
    }
  }
}

void Server::admit(Listener& listener, Protocol::socket socket) {
  if (listener.clients >= config_.connections) {
    error_code ignored;
    socket.non_blocking(true, ignored);
    socket.write_some(net::buffer(kBusy), ignored);
    return;
  }
  ++listener.clients;
  net::co_spawn(io_, serve_api_client(std::move(socket), service_, listener.trusted),
                [&listener](const std::exception_ptr& failure) {
                  --listener.clients;
                  if (failure) std::rethrow_exception(failure);
                });
}

void Server::stop() {
  if (!thread_.joinable()) return;
  net::post(io_, [this] {
    error_code ignored;
    for (auto* listener : {&unix_, &tcp_}) listener->acceptor.close(ignored);
    tails_.end();
    stopping_ = true;
  });
  thread_.join();
  queries_.join();
  ::unlink(config_.unix_socket.c_str());
}

}  // namespace

std::expected<std::unique_ptr<ApiServer>, ApiError> ApiServer::create(ApiConfig config, ApiBackend backend) {
  const bool wants_tcp = config.tcp.has_value();
  auto server = std::make_unique<Server>(std::move(config), std::move(backend));
  if (auto error = server->listen_unix()) return std::unexpected(*error);
  if (auto error = wants_tcp ? server->listen_tcp() : std::nullopt) return std::unexpected(*error);
  return server;
}

}  // namespace weir::agent
