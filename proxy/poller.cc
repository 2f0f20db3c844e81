#include "proxy/poller.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/epoll.h>
#include <unistd.h>

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/associated_cancellation_slot.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/post.hpp>
#include <cerrno>
#include <system_error>
#include <utility>

namespace weir::proxy {
namespace {

constexpr std::size_t kAtOnce = 256;
constexpr std::uint32_t kReadable = EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR;
constexpr std::uint32_t kWritable = EPOLLOUT | EPOLLHUP | EPOLLERR;

}  // namespace

bool Readiness::ask(int descriptor, Way way) {
  pollfd entry{descriptor, static_cast<short>(way == Way::read ? POLLIN : POLLOUT), 0};
  const bool ready = ::poll(&entry, 1, 0) != 0;
  if (watched()) ready_[index(way)] = ready;
  return ready;
}

Readiness::Waiter* Readiness::free_place(Way way) {
  for (Waiter& waiter : waiters_[index(way)])
    if (!waiter) return &waiter;
  return nullptr;
}

Task<bool> Readiness::wait(int descriptor, Way way) {
  return asio::async_initiate<const asio::use_awaitable_t<>, void(bool)>(
      [this, descriptor, way](auto handler) {
        Waiter* const waiter = free_place(way);
        if (waiter == nullptr || (!watched() && !watch(descriptor))) return resume(std::move(handler), false);
        auto slot = asio::get_associated_cancellation_slot(handler);
        waiter->emplace(std::move(handler));
        if (slot.is_connected())
          slot.assign([this, waiter](asio::cancellation_type) { end_wait(*waiter, false); });
      },
      asio::use_awaitable);
}

// The set tells at once of what is there already.
bool Readiness::watch(int descriptor) {
  epoll_event event{};
  event.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLPRI | EPOLLET;
  event.data.ptr = this;
  if (::epoll_ctl(poller_.epoll_, EPOLL_CTL_ADD, descriptor, &event) != 0) return false;
  descriptor_ = descriptor;
  ready_ = {false, false};
  poller_.watched_.push_back(*this);
  return true;
}

void Readiness::exhausted(Way way) {
  if (watched()) ready_[index(way)] = false;
}

// What has ended stays readable: the end itself was told of, and is still to be read.
void Readiness::read_short() {
  if (!peer_ended_ && !failed_ && !urgent_) exhausted(Way::read);
}

void Readiness::notice(std::uint32_t events) {
  if ((events & EPOLLRDHUP) != 0) peer_ended_ = true;
  if ((events & (EPOLLHUP | EPOLLERR)) != 0) failed_ = true;
  if ((events & EPOLLPRI) != 0) urgent_ = true;
  for (const auto& [way, mask] : {std::pair(Way::read, kReadable), std::pair(Way::write, kWritable)}) {
    if ((events & mask) == 0) continue;
    ready_[index(way)] = true;
    for (Waiter& waiter : waiters_[index(way)]) end_wait(waiter, true);
  }
}

void Readiness::end_wait(Waiter& waiter, bool ready) {
  if (!waiter) return;
  auto handler = std::move(*waiter);
  waiter.reset();
  resume(std::move(handler), ready);
}

// It goes on later: it may end this, or another that was told of something, too. Its slot may hold the one
// that calls this, and nothing of it is used after.
void Readiness::resume(Handler handler, bool ready) {
  if (auto slot = asio::get_associated_cancellation_slot(handler); slot.is_connected()) slot.clear();
  asio::post(poller_.context_,
             [handler = std::move(handler), ready]() mutable { std::move(handler)(ready); });
}

void Readiness::call_off() {
  for (auto& one_way : waiters_)
    for (Waiter& waiter : one_way) end_wait(waiter, false);
}

void Readiness::forget() {
  call_off();
  if (!watched()) return;
  // Closing may not be enough: another process may have the socket, too.
  ::epoll_ctl(poller_.epoll_, EPOLL_CTL_DEL, descriptor_, nullptr);
  poller_.watched_.erase(poller_.watched_.iterator_to(*this));
  ready_ = {true, true};
}

Poller::Poller(asio::io_context& context) : context_(context), epoll_(::epoll_create1(EPOLL_CLOEXEC)) {
  if (epoll_ < 0) throw std::system_error(errno, std::generic_category(), "epoll_create1");
}

Poller::~Poller() {
  ::close(epoll_);
}

Task<void> Poller::run() {
  asio::posix::stream_descriptor set(context_, ::fcntl(epoll_, F_DUPFD_CLOEXEC, 0));
  for (;;) {
    auto [error] = co_await set.async_wait(asio::posix::stream_descriptor::wait_read,
                                           asio::as_tuple(asio::use_awaitable));
    if (error) co_return;
    look();
  }
}

void Poller::look() {
  std::array<epoll_event, kAtOnce> events;
  const int count = ::epoll_wait(epoll_, events.data(), static_cast<int>(events.size()), 0);
  for (int i = 0; i < count; ++i) static_cast<Readiness*>(events[i].data.ptr)->notice(events[i].events);
}

void Poller::abandon() {
  for (Readiness& one : watched_)
    for (auto& one_way : one.waiters_)
      for (auto& waiter : one_way) waiter.reset();
}

}  // namespace weir::proxy
