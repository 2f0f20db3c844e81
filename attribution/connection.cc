// The connection table's bookkeeping: recency, ended cookies, deadlines.
#include "attribution/connection.h"

#include <algorithm>

#include "attribution/sparse_table.h"

namespace weir {
namespace {

constexpr std::size_t kEndedRemembered = 65'536;
constexpr std::chrono::seconds kEndedFor{60};

}  // namespace

Connection* ConnectionTable::find(SocketCookie cookie) {
  const auto found = index_.find(cookie);
  if (found == index_.end()) return nullptr;
  connections_.splice(connections_.begin(), connections_, found->second);
  return &*found->second;
}

Connection& ConnectionTable::insert(SocketCookie cookie, Time when) {
  Connection& connection = connections_.emplace_front();
  connection.cookie = cookie;
  connection.first_seen = when;
  index_[cookie] = connections_.begin();
  return connection;
}

void ConnectionTable::erase(SocketCookie cookie) {
  const auto found = index_.find(cookie);
  if (found == index_.end()) return;
  set_deadline(*found->second, std::nullopt);
  connections_.erase(found->second);
  index_.erase(found);
  shrink_if_sparse(index_);
}

void ConnectionTable::end(SocketCookie cookie, Time reopens_after, Time now) {
  erase(cookie);
  if (!ended_.emplace(cookie, reopens_after).second) return;
  ended_order_.emplace_back(now, cookie);
  if (ended_order_.size() > kEndedRemembered) forget_oldest_end();
}

void ConnectionTable::forget_ended(Time now) {
  while (!ended_order_.empty() && ended_order_.front().first + kEndedFor <= now) forget_oldest_end();
}

void ConnectionTable::forget_oldest_end() {
  ended_.erase(ended_order_.front().second);
  ended_order_.pop_front();
  shrink_if_sparse(ended_);
}

// Its place in ended_order_ stays: at worst, its next end is remembered for less long.
void ConnectionTable::reopen(SocketCookie cookie, Time when) {
  const auto found = ended_.find(cookie);
  if (found != ended_.end() && found->second < when) ended_.erase(found);
}

void ConnectionTable::set_deadline(Connection& connection, std::optional<Time> when) {
  if (connection.deadline == when) return;
  if (connection.deadline) {
    const auto [first, last] = deadlines_.equal_range(*connection.deadline);
    deadlines_.erase(
        std::find_if(first, last, [&](const auto& one) { return one.second == connection.cookie; }));
  }
  connection.deadline = when;
  if (when) deadlines_.emplace(*when, connection.cookie);
}

Connection* ConnectionTable::due(Time now) {
  if (deadlines_.empty() || deadlines_.begin()->first > now) return nullptr;
  Connection& connection = *index_.at(deadlines_.begin()->second);
  set_deadline(connection, std::nullopt);
  return &connection;
}

}  // namespace weir
