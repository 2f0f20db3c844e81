// See api_tails.h.
#include "agent/api_tails.h"

#include <boost/asio/as_tuple.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/use_awaitable.hpp>

namespace weir::agent {
namespace {

namespace net = boost::asio;

constexpr std::size_t kInboxRecords = 65'536;
constexpr std::size_t kTailBytes = std::size_t{64} << 20;
constexpr std::size_t kWriteBytes = 64 * 1024;

std::string dropped_line(std::size_t records) {
  return "{\"weir.tail.dropped\":" + std::to_string(records) + "}\n";
}

}  // namespace

void Tails::publish(RecordPtr record) {
  if (count_ == 0) return;
  const std::lock_guard lock(mutex_);
  if (inbox_.size() >= kInboxRecords) {
    ++inbox_dropped_;
    return;
  }
  inbox_.push_back(std::move(record));
  if (inbox_.size() == 1) net::post(io_, [this] { distribute(); });
}

void Tails::distribute() {
  std::vector<RecordPtr> records;
  std::size_t dropped = 0;
  {
    const std::lock_guard lock(mutex_);
    records.swap(inbox_);
    dropped = std::exchange(inbox_dropped_, 0);
  }
  for (const auto& record : records) {
    std::shared_ptr<const std::string> line;
    for (auto* tail : tails_) {
      if (!tail->query_.matches(*record)) continue;
      if (!line) line = std::make_shared<std::string>(record->json + '\n');
      tail->push(line);
    }
  }
  for (auto* tail : tails_) tail->drop(dropped);
}

void Tails::end() {
  distribute();
  ended_ = true;
  for (auto* tail : tails_) tail->wake();
}

Tail::Tail(Tails& tails, sinks::StoreQuery query)
    : tails_(tails), query_(std::move(query)), wakeup_(tails.io_, net::steady_timer::time_point::max()) {
  tails_.tails_.insert(this);
  ++tails_.count_;
}

Tail::~Tail() {
  tails_.tails_.erase(this);
  --tails_.count_;
}

void Tail::push(const std::shared_ptr<const std::string>& line) {
  if (queue_.size() >= tails_.queue_records_ || queued_bytes_ + line->size() > kTailBytes) return drop(1);
  // The gap is told where it was, not at the end.
  if (dropped_ > 0) queue_.push_back(std::make_shared<std::string>(dropped_line(std::exchange(dropped_, 0))));
  queue_.push_back(line);
  queued_bytes_ += line->size();
  wake();
}

void Tail::drop(std::size_t records) {
  if (records == 0) return;
  dropped_ += records;
  wake();
}

void Tail::close() {
  closed_ = true;
  wake();
}

net::awaitable<std::string> Tail::next() {
  while (queue_.empty() && dropped_ == 0 && !closed_ && !tails_.ended_) {
    co_await wakeup_.async_wait(net::as_tuple(net::use_awaitable));
  }
  std::string lines;
  while (!closed_ && !queue_.empty() && lines.size() < kWriteBytes) {
    lines += *queue_.front();
    queue_.pop_front();
  }
  queued_bytes_ = queue_.empty() ? 0 : queued_bytes_ - std::min(queued_bytes_, lines.size());
  if (!closed_ && queue_.empty() && dropped_ > 0) lines += dropped_line(std::exchange(dropped_, 0));
  co_return lines;
}

}  // namespace weir::agent
