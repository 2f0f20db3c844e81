#include "proxy/name_resolver.h"

#include <atomic>
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <memory>
#include <utility>

namespace weir::proxy {
namespace {

constexpr std::size_t kThreads = 16;

// May outlive who waits for it.
struct LookUp {
  LookUp(asio::io_context& context, std::chrono::milliseconds patience) : done(context, patience) {}
  asio::steady_timer done;  // of the context's thread, like the addresses
  Addresses addresses{asio::error::timed_out, {}};
  std::atomic<bool> given_up = false;
};

Addresses ask(asio::thread_pool& pool, const std::string& name, std::uint16_t port) {
  Addresses answer;
  tcp::resolver resolver(pool);
  const auto results =
      resolver.resolve(name, std::to_string(port), tcp::resolver::numeric_service, answer.error);
  for (const auto& result : results) answer.found.push_back(to_endpoint(result.endpoint()));
  return answer;
}

}  // namespace

Task<Addresses> NameResolver::look_up(asio::io_context& context, std::string name, std::uint16_t port,
                                      std::chrono::milliseconds patience) {
  const auto look_up = std::make_shared<LookUp>(context, patience);
  auto& threads = pool();
  asio::post(threads, [look_up, &threads, &context, name = std::move(name), port] {
    if (look_up->given_up) return;
    asio::post(context, [look_up, answer = ask(threads, name, port)]() mutable {
      look_up->addresses = std::move(answer);
      look_up->done.cancel();
    });
  });
  co_await look_up->done.async_wait(asio::as_tuple(asio::use_awaitable));
  look_up->given_up = true;
  co_return std::move(look_up->addresses);
}

void NameResolver::stop() {
  const std::lock_guard lock(mutex_);
  if (!pool_) return;
  pool_->stop();
  pool_->join();
  pool_.reset();
}

asio::thread_pool& NameResolver::pool() {
  const std::lock_guard lock(mutex_);
  return pool_ ? *pool_ : pool_.emplace(kThreads);
}

}  // namespace weir::proxy
