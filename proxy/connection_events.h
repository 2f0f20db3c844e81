// What one client connection tells the engine: the events of proxy/ in their order, with contiguous offsets
// for each direction. Belongs to one connection on one thread; it never keeps bytes.
#pragma once

#include <array>
#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "attribution/events.h"
#include "attribution/policy.h"

namespace weir::proxy {

class ConnectionEvents {
 public:
  ConnectionEvents(EventPublisher& publisher, Client client) : publisher_(publisher), client_(client) {}

  void opened(const Tuple& tuple);
  void decided(DecisionMade decision);  // time and cookie are filled in here
  void handshake(Handshake handshake);  // 〃, and the tap
  void bytes(Direction direction, std::span<const std::byte> data);
  void bytes(Direction direction, std::vector<std::byte>&& data);
  void response_broke_off() { response_broken_off_ = true; }  // before ended()
  void ended();  // both directions; only of a connection whose content was ours

  const Client& client() const { return client_; }

 private:
  EventPublisher& publisher_;
  Client client_;
  std::array<std::uint64_t, 2> offsets_{};  // by Direction
  bool has_content_ = false;
  bool response_broken_off_ = false;
};

}  // namespace weir::proxy
