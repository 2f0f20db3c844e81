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

  void opened(const Tuple& tuple);      // as the client sees it
  void decided(DecisionMade decision);  // time and cookie are filled in here
  void policy(PolicyDecided decided);   // 〃, and who
  void handshake(Handshake handshake);  // 〃, and the tap
  void bytes(Direction direction, std::span<const std::byte> data);
  void bytes(Direction direction, std::vector<std::byte>&& data);
  void response_broke_off() { response_broken_off_ = true; }  // before ended()
  void ended();  // of both directions, or of the connection if its content was not ours

  const Client& client() const { return client_; }
  void begins_with(HelloFacts hello) { client_.hello = hello; }

 private:
  EventPublisher& publisher_;
  Client client_;
  std::array<std::uint64_t, 2> offsets_{};  // by Direction
  bool has_content_ = false;
  bool response_broken_off_ = false;
};

}  // namespace weir::proxy
