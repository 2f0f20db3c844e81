// Clients that don't take our certificates, as those that pin their own: after some rejections in a row a
// program's connections to that name are passed through, for a while. Bounded, the least recently heard of
// goes first. Thread-safe.
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <list>
#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

namespace weir::proxy {

class Rejections {
 public:
  using Clock = std::chrono::system_clock;

  struct Limits {
    std::uint32_t most = 3;  // rejections in a row; 0: never pass through
    std::chrono::seconds passed_for{3600};
    std::size_t entries = 1024;
  };
  // The same path in two containers is two programs. An unknown path is nobody's: it is never passed through.
  struct Who {
    std::string executable_path;
    std::string container_id;
    std::string server_name;
    auto operator<=>(const Who&) const = default;
  };
  struct Passed {
    Who who;
    Clock::time_point until;
  };

  explicit Rejections(Limits limits) : limits_(limits) {}

  void rejected(const Who& who, Clock::time_point now);
  // It spoke: what came before does not count.
  void taken(const Who& who);
  void forget();  // all, as after the CA has changed
  bool empty() const { return empty_.load(std::memory_order_relaxed); }
  // Whether its connections are passed through now, and until when. When that is over it starts afresh.
  std::optional<Clock::time_point> passed_until(const Who& who, Clock::time_point now);
  std::vector<Passed> passed(Clock::time_point now) const;

 private:
  struct Entry {
    Who who;
    std::uint32_t rejections = 0;
    std::optional<Clock::time_point> until{};
  };
  using Entries = std::list<Entry>;

  Entries::iterator find(const Who& who);
  void drop(Entries::iterator entry);

  const Limits limits_;
  std::atomic<bool> empty_{true};
  mutable std::mutex mutex_;
  Entries entries_;  // most recently heard of first
  std::map<Who, Entries::iterator> by_who_;
};

}  // namespace weir::proxy
