// The proxy's threads and its listener. The first thread accepts and hands connections out in turn, so that
// load is even; from then on a connection never changes its thread. One tick a thread looks after all
// deadlines.
#include "proxy/proxy.h"

#include <signal.h>
#include <unistd.h>

#include <algorithm>
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
#include <list>
#include <mutex>
#include <thread>
#include <utility>

#include "attribution/idle_hook.h"
#include "proxy/connection.h"
#include "proxy/shard.h"

namespace weir::proxy {
namespace {

constexpr std::chrono::milliseconds kTick{100};
constexpr unsigned kTicksPerMemoryLook = 10;  // at memory
constexpr int kBacklog = 4096;

using EntrancePtr = std::shared_ptr<const Entrance>;

class ProxyImpl final : public Proxy {
 public:
  ProxyImpl(Config config, ClientResolver& resolver, PolicyDecider& decider)
      : shared_{std::move(config), resolver, decider, nullptr, nullptr, {}} {}
  ~ProxyImpl() override { stop(std::chrono::milliseconds(0)); }

  std::expected<void, Error> open(ca::LeafSigner& signer,
                                  const std::function<EventPublisher&()>& make_publisher);
  Endpoint address() const override { return address_; }
  void add_redirect_listener(RedirectListener listener) override;
  void start() override;
  void stop(std::chrono::milliseconds grace) override;
  Counters counters() const override;
  std::vector<Rejections::Passed> passed_through() const override {
    return shared_.rejections.passed(Rejections::Clock::now());
  }
  void forget_leaves() override {
    shared_.leaves->forget();
    shared_.rejections.forget();
  }

 private:
  Task<void> accept(std::shared_ptr<Entrance> entrance);
  Task<void> tick(Shard& shard);
  void look_at_memory();
  bool is_full() const;
  Shard* with_longest_idle() const;
  void hand_out(EntrancePtr entrance, tcp::socket socket, const Endpoint& from);
  void replace(Shard& shard, EntrancePtr entrance, Socket socket, const Endpoint& from);
  void begin(Shard& shard, EntrancePtr entrance, Socket socket, const Endpoint& from);
  void on_every_shard(const std::function<void(Shard&)>& action);
  void connection_ended();

  Shared shared_;
  Endpoint address_;
  std::vector<std::unique_ptr<Shard>> shards_;
  std::list<std::shared_ptr<Entrance>> entrances_;  // the first shard's
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

// Unlike send(), splice() has no flag that keeps the signal from being raised.
void block_broken_pipe() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGPIPE);
  ::pthread_sigmask(SIG_BLOCK, &signals, nullptr);
}

std::expected<void, Error> ProxyImpl::open(ca::LeafSigner& signer,
                                           const std::function<EventPublisher&()>& make_publisher) {
  auto& config = shared_.config;
  auto leaves = LeafCache::create(signer, config.limits.leaf_cache);
  if (!leaves) return std::unexpected(leaves.error());
  shared_.leaves = std::move(*leaves);
  auto upstream = make_upstream_context(config.upstream_ca);
  if (!upstream) return std::unexpected(upstream.error());
  shared_.upstream_context = std::move(*upstream);
  UpstreamSessions::enable(shared_.upstream_context.get());
  auto identities = ClientIdentities::read(config.client_certificates);
  if (!identities) return std::unexpected(identities.error());
  shared_.client_identities = std::move(*identities);
  config.client_certificates.clear();

  const unsigned threads =
      config.threads != 0 ? config.threads : std::max(1u, std::thread::hardware_concurrency());
  for (unsigned i = 0; i < threads; ++i)
    shards_.push_back(std::make_unique<Shard>(shared_, make_publisher()));

  boost::system::error_code error;
  const auto endpoint = to_asio(config.listen);
  // Whose resolver it is, it lives longer.
  const std::shared_ptr<ClientResolver> resolver(std::shared_ptr<void>(), &shared_.resolver);
  entrances_.push_back(
      std::make_shared<Entrance>(Entrance{tcp::acceptor(shards_.front()->context), resolver}));
  tcp::acceptor& acceptor = entrances_.back()->acceptor;
  acceptor.open(endpoint.protocol(), error);
  if (!error) acceptor.set_option(tcp::acceptor::reuse_address(true), error);
  if (!error) acceptor.bind(endpoint, error);
  if (!error) acceptor.listen(kBacklog, error);
  if (error) {
    return std::unexpected(
        Error{"proxy can't listen on " + config.listen.to_string() + ": " + error.message(),
              "choose another address with --proxy-listen, or port 0"});
  }
  address_ = to_endpoint(acceptor.local_endpoint());
  config.refused_destinations.push_back(address_);
  return {};
}

void ProxyImpl::add_redirect_listener(RedirectListener listener) {
  sockaddr_storage own{};
  socklen_t length = sizeof own;
  ::getsockname(listener.descriptor, reinterpret_cast<sockaddr*>(&own), &length);
  const auto protocol = own.ss_family == AF_INET ? tcp::v4() : tcp::v6();
  asio::post(shards_.front()->context, [this, protocol, listener = std::move(listener)]() mutable {
    auto entrance = std::make_shared<Entrance>(
        Entrance{tcp::acceptor(shards_.front()->context, protocol, listener.descriptor),
                 std::move(listener.resolver), true, std::move(listener.make_socket)});
    entrances_.push_back(entrance);
    asio::co_spawn(shards_.front()->context, accept(std::move(entrance)), rethrow);
  });
}

void ProxyImpl::start() {
  // Connections that are redirected from now on wait in the listeners' queues.
  if (shared_.config.heartbeat) shared_.config.heartbeat();
  asio::co_spawn(shards_.front()->context, accept(entrances_.front()), rethrow);
  for (auto& shard : shards_) {
    work_.push_back(asio::make_work_guard(shard->context));
    asio::co_spawn(shard->context, tick(*shard), rethrow);
    asio::co_spawn(shard->context, shard->poller.run(), rethrow);
    threads_.emplace_back([&context = shard->context] {
      block_broken_pipe();
      context.run();
    });
  }
}

Task<void> ProxyImpl::accept(std::shared_ptr<Entrance> entrance) {
  asio::steady_timer pause(shards_.front()->context);
  for (;;) {
    tcp::endpoint from;
    auto [error, socket] =
        co_await entrance->acceptor.async_accept(from, asio::as_tuple(asio::use_awaitable));
    if (!entrance->acceptor.is_open()) co_return;
    if (!error) {
      hand_out(entrance, std::move(socket), to_endpoint(from));
      continue;
    }
    if (error == asio::error::invalid_argument) {  // it was shut down
      boost::system::error_code ignored;
      entrance->acceptor.close(ignored);
      entrances_.remove(entrance);
      co_return;
    }
    // Out of descriptors: accepting again at once would spin.
    pause.expires_after(kTick);
    co_await pause.async_wait(asio::as_tuple(asio::use_awaitable));
  }
}

bool ProxyImpl::is_full() const {
  return shared_.counters.active.load() >= shared_.config.limits.connections || shared_.over_memory.load();
}

// Null when no connection is idle.
Shard* ProxyImpl::with_longest_idle() const {
  const auto oldest = [](const std::unique_ptr<Shard>& shard) { return shard->idle.oldest(); };
  const auto& found = *std::ranges::min_element(shards_, {}, oldest);
  return oldest(found) == IdleQueue::Clock::time_point::max() ? nullptr : found.get();
}

void ProxyImpl::hand_out(EntrancePtr entrance, tcp::socket socket, const Endpoint& from) {
  auto& counters = shared_.counters;
  const bool full = is_full();
  Shard* const shard = full ? with_longest_idle() : shards_[next_shard_++ % shards_.size()].get();
  if (shard == nullptr) return count(counters.over_limit_closed);
  if (!full) count(counters.active);
  // A socket belongs to one context; its descriptor moves to that of its new thread.
  boost::system::error_code error;
  Socket released(socket.release(error));
  asio::post(shard->context, [this, shard, full, entrance = std::move(entrance), moved = std::move(released),
                              from]() mutable {
    if (full) return replace(*shard, std::move(entrance), std::move(moved), from);
    begin(*shard, std::move(entrance), std::move(moved), from);
  });
}

// The one that ends and the new one are counted both, until the former's coroutine has ended: at once.
void ProxyImpl::replace(Shard& shard, EntrancePtr entrance, Socket socket, const Endpoint& from) {
  auto& counters = shared_.counters;
  if (!shard.idle.shed_oldest()) return count(counters.over_limit_closed);
  count(counters.idle_shed);
  count(counters.active);
  begin(shard, std::move(entrance), std::move(socket), from);
}

void ProxyImpl::begin(Shard& shard, EntrancePtr entrance, Socket socket, const Endpoint& from) {
  count(shared_.counters.accepted);
  asio::co_spawn(shard.context, serve(shard, std::move(entrance), std::move(socket), from),
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
  unsigned ticks = 0;
  IdleHook idle(shared_.config.when_idle);
  for (;;) {
    timer.expires_after(kTick);
    co_await timer.async_wait(asio::as_tuple(asio::use_awaitable));
    if (&shard == shards_.front().get() && shared_.config.heartbeat) shared_.config.heartbeat();
    if (&shard == shards_.front().get() && ++ticks % kTicksPerMemoryLook == 0) look_at_memory();
    const auto now = Stream::Clock::now();
    for (Supervised* connection : shard.connections) connection->tick(now);
    idle.turn(!shard.connections.empty(), now);
    // One at a time: what is freed shows only after a while.
    if (shared_.over_memory && shard.idle.shed_oldest()) count(shared_.counters.idle_shed);
  }
}

void ProxyImpl::look_at_memory() {
  const auto& in_use = shared_.config.memory_in_use;
  if (in_use) shared_.over_memory = in_use() > shared_.config.limits.memory;
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
    for (const auto& entrance : entrances_) entrance->acceptor.close(ignored);
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
  shared_.names.stop();
}

Counters ProxyImpl::counters() const {
  const auto& c = shared_.counters;
  return {c.accepted,
          c.active,
          c.unresolved_refused,
          c.over_limit_closed,
          c.idle_shed,
          c.redirected,
          c.bumped,
          c.tunnelled,
          c.passed_through,
          c.upstream_failed,
          c.client_rejected_certificate,
          c.requests,
          c.malformed_requests,
          shared_.leaves->leaves_signed(),
          c.floods_ended,
          c.slow_bodies_ended};
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
