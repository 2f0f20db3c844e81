// Live feeds: takes records from whoever makes them and hands each, serialised once, to the readers that want
// it. It never makes a maker wait: what a reader is too slow for is dropped and counted in its feed. Internal
// to the API's server.
#pragma once

#include <atomic>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_set>
#include <vector>

#include "attribution/record.h"
#include "sinks/store_reader.h"

namespace weir::agent {

class Tail;

// All but publish() belongs to the io_context's one thread.
class Tails {
 public:
  Tails(boost::asio::io_context& io, std::size_t queue_records) : io_(io), queue_records_(queue_records) {}

  void publish(RecordPtr record);  // thread-safe
  void end();                      // what was published still goes out, then each tail ends

 private:
  friend class Tail;
  void distribute();

  boost::asio::io_context& io_;
  const std::size_t queue_records_;
  std::unordered_set<Tail*> tails_;
  std::atomic<std::size_t> count_ = 0;
  bool ended_ = false;

  std::mutex mutex_;
  std::vector<RecordPtr> inbox_;
  std::size_t inbox_dropped_ = 0;
};

// One reader's feed; it gets what is published between its making and its end.
class Tail {
 public:
  Tail(Tails& tails, sinks::StoreQuery query);
  ~Tail();
  Tail(const Tail&) = delete;
  Tail& operator=(const Tail&) = delete;

  // The lines since the last call, once there are some; "" at the end.
  boost::asio::awaitable<std::string> next();
  void close();  // its reader went away

 private:
  friend class Tails;
  void push(const std::shared_ptr<const std::string>& line);
  void drop(std::size_t records);
  void wake() { wakeup_.cancel(); }

  Tails& tails_;
  const sinks::StoreQuery query_;
  boost::asio::steady_timer wakeup_;
  std::deque<std::shared_ptr<const std::string>> queue_;
  std::size_t queued_bytes_ = 0;
  std::size_t dropped_ = 0;  // since the last line that was queued
  bool closed_ = false;
};

}  // namespace weir::agent
