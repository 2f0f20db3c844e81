// Leaves signed by the broker: the worker's side of Operation::sign_leaf.
#pragma once

#include "agent/channel.h"
#include "ca/ca.h"

namespace weir::agent {

class BrokerSigner : public ca::LeafSigner {
 public:
  explicit BrokerSigner(BrokerClient& broker) : broker_(broker) {}
  std::expected<std::vector<std::uint8_t>, ca::Error> sign(const ca::LeafRequest& request) override;

 private:
  BrokerClient& broker_;
};

}  // namespace weir::agent
