// The proxy's threads and its listener. The first thread accepts and hands connections out in turn, so that
// load is even; from then on a connection never changes its thread. One tick a thread looks after all
// deadlines.
#include "proxy/proxy.h"

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <cerrno>
#include <condition_variable>
#include <cstring>
#include <exception>
#include <mutex>
#include <thread>
#include <utility>

#include "proxy/connection.h"
#include "proxy/shard.h"

namespace weir::proxy {
namespace {

constexpr std::chrono::milliseconds kTick{100};
constexpr int kBacklog = 4096;

class ProxyImpl final : public Proxy {
 public:
  ProxyImpl(Config config, ClientResolver& resolver, PolicyDecider& decider)
      : shared_{std::move(config), resolver, decider, nullptr, nullptr, {}} {}
  ~ProxyImpl() override { stop(std::chrono::milliseconds(0)); }

  std::expected<void, Error> open(ca::LeafSigner& signer,
                                  const std::function<EventPublisher&()>& make_publisher);
  Endpoint address() const override { return address_; }
  void start() override;
  void stop(std::chrono::milliseconds grace) override;
  Counters counters() const override;

 private:
  Task<void> accept();
  Task<void> tick(Shard& shard);
  void hand_out(tcp::socket socket, const Endpoint& from);
  void begin(Shard& shard, tcp::socket socket, const Endpoint& from);
  void on_every_shard(const std::function<void(Shard&)>& action);
  void connection_ended();

  Shared shared_;
  Endpoint address_;
  std::vector<std::unique_ptr<Shard>> shards_;
  std::optional<tcp::acceptor> acceptor_;
  std::vector<asio::executor_work_guard<asio::io_context::executor_type>> work_;
  std::vector<std::thread> threads_;
  std::size_t next_shard_ = 0;
  bool stopped_ = false;

  std::mutex mutex_;
  std::condition_variable all_ended_;
};

// Anything thrown here is a bug or a lack of memory: it ends the process, and is never swallowed.
void rethrow(const std::exception_ptr& exception) {
  if (exception) std::rethrow_exception(exception);
}

std::expected<void, Error> ProxyImpl::open(ca::LeafSigner& signer,
                                           const std::function<EventPublisher&()>& make_publisher) {
  auto& config = shared_.config;
  auto leaves = LeafCache::create(signer, config.ca_certificate_pem, config.limits.leaf_cache);
  if (!leaves) return std::unexpected(leaves.error());
  shared_.leaves = std::move(*leaves);
  auto upstream = make_upstream_context(config.upstream_ca);
  if (!upstream) return std::unexpected(upstream.error());
  shared_.upstream_context = std::move(*upstream);

  const unsigned threads =
      config.threads != 0 ? config.threads : std::max(1u, std::thread::hardware_concurrency());
  for (unsigned i = 0; i < threads; ++i)
    shards_.push_back(std::make_unique<Shard>(shared_, make_publisher()));

  boost::system::error_code error;
  const auto endpoint = to_asio(config.listen);
  acceptor_.emplace(shards_.front()->context);
  acceptor_->open(endpoint.protocol(), error);
  if (!error) acceptor_->set_option(tcp::acceptor::reuse_address(true), error);
  if (!error) acceptor_->bind(endpoint, error);
  if (!error) acceptor_->listen(kBacklog, error);
  if (error) {
    return std::unexpected(
        Error{"proxy can't listen on " + config.listen.to_string() + ": " + error.message(),
              "choose another address with --proxy-listen, or port 0"});
  }
  address_ = to_endpoint(acceptor_->local_endpoint());
  config.refused_destinations.push_back(address_);
  return {};
}

void ProxyImpl::start() {
  asio::co_spawn(shards_.front()->context, accept(), rethrow);
  for (auto& shard : shards_) {
    work_.push_back(asio::make_work_guard(shard->context));
    asio::co_spawn(shard->context, tick(*shard), rethrow);
    threads_.emplace_back([&context = shard->context] { context.run(); });
  }
}

Task<void> ProxyImpl::accept() {
  asio::steady_timer pause(shards_.front()->context);
  for (;;) {
    tcp::endpoint from;
    auto [error, socket] = co_await acceptor_->async_accept(from, asio::as_tuple(asio::use_awaitable));
    if (!acceptor_->is_open()) co_return;
    if (!error) {
      hand_out(std::move(socket), to_endpoint(from));
      continue;
    }
    // Out of descriptors: accepting again at once would spin.
    pause.expires_after(kTick);
    co_await pause.async_wait(asio::as_tuple(asio::use_awaitable));
  }
}

void ProxyImpl::hand_out(tcp::socket socket, const Endpoint& from) {
  auto& counters = shared_.counters;
  if (counters.active.load() >= shared_.config.limits.connections) {
    count(counters.over_limit_closed);
    return;
  }
  count(counters.accepted);
  count(counters.active);
  Shard& shard = *shards_[next_shard_++ % shards_.size()];
  // A socket belongs to one context; its descriptor moves to that of its new thread.
  boost::system::error_code error;
  const auto protocol = acceptor_->local_endpoint(error).protocol();
  const int descriptor = socket.release(error);
  asio::post(shard.context, [this, &shard, protocol, descriptor, from] {
    begin(shard, tcp::socket(shard.context, protocol, descriptor), from);
  });
}

void ProxyImpl::begin(Shard& shard, tcp::socket socket, const Endpoint& from) {
  asio::co_spawn(shard.context, serve(shard, std::move(socket), from),
                 [this](const std::exception_ptr& exception) {
                   rethrow(exception);
                   connection_ended();
                 });
}

void ProxyImpl::connection_ended() {
  if (shared_.counters.active.fetch_sub(1) != 1) return;
  const std::lock_guard lock(mutex_);
  all_ended_.notify_all();
}

Task<void> ProxyImpl::tick(Shard& shard) {
  asio::steady_timer timer(shard.context);
  for (;;) {
    timer.expires_after(kTick);
    co_await timer.async_wait(asio::as_tuple(asio::use_awaitable));
    const auto now = Stream::Clock::now();
    for (Supervised* connection : shard.connections) connection->tick(now);
  }
}

void ProxyImpl::on_every_shard(const std::function<void(Shard&)>& action) {
  for (auto& shard : shards_) {
    asio::post(shard->context, [action, &shard = *shard] { action(shard); });
  }
}

void ProxyImpl::stop(std::chrono::milliseconds grace) {
  if (std::exchange(stopped_, true) || threads_.empty()) return;
  const auto ended = [this] { return shared_.counters.active.load() == 0; };
  asio::post(shards_.front()->context, [this] {
    boost::system::error_code ignored;
    acceptor_->close(ignored);
  });
  on_every_shard([](Shard& shard) {
    shard.stopping = true;
    for (Supervised* connection : shard.connections) connection->end_if_idle();
  });
  {
    std::unique_lock lock(mutex_);
    all_ended_.wait_for(lock, grace, ended);
  }
  on_every_shard([](Shard& shard) {
    for (Supervised* connection : shard.connections) connection->end_now();
  });
  {
    // A look-up of a name can't be interrupted; its connection ends with its context.
    std::unique_lock lock(mutex_);
    all_ended_.wait_for(lock, std::chrono::seconds(1), ended);
  }
  for (auto& shard : shards_) shard->context.stop();
  for (auto& thread : threads_) thread.join();
}

Counters ProxyImpl::counters() const {
  const auto& c = shared_.counters;
  return {c.accepted,
          c.active,
          c.unresolved_refused,
          c.over_limit_closed,
          c.bumped,
          c.tunnelled,
          c.upstream_failed,
          c.client_rejected_certificate,
          c.requests,
          c.malformed_requests,
          shared_.leaves->leaves_signed()};
}

}  // namespace

std::expected<std::unique_ptr<Proxy>, Error> Proxy::create(Config config, ca::LeafSigner& signer,
                                                           ClientResolver& resolver, PolicyDecider& decider,
                                                           std::function<EventPublisher&()> make_publisher) {
  auto proxy = std::make_unique<ProxyImpl>(std::move(config), resolver, decider);
  if (auto opened = proxy->open(signer, make_publisher); !opened) return std::unexpected(opened.error());
  return proxy;
}

}  // namespace weir::proxy
