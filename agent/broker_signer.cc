#include "agent/broker_signer.h"

#include <cstring>

namespace weir::agent {

std::expected<std::vector<std::uint8_t>, ca::Error> BrokerSigner::sign(const ca::LeafRequest& leaf) {
  Request request;
  request.operation = Operation::sign_leaf;
  request.sign_leaf = {};
  if (leaf.name.size() > request.sign_leaf.name.size()) {
    return std::unexpected(ca::Error{"'" + leaf.name + "' is too long for a name", ""});
  }
  request.sign_leaf.name_length = static_cast<std::uint16_t>(leaf.name.size());
  std::memcpy(request.sign_leaf.name.data(), leaf.name.data(), leaf.name.size());
  request.sign_leaf.public_key = leaf.public_key;
  auto answer = broker_.call(request);
  if (!answer) return std::unexpected(ca::Error{answer.error().what, answer.error().remedy});
  const Reply& reply = answer->reply;
  if (reply.status != Status::ok || reply.data_size > reply.data.size()) {
    return std::unexpected(ca::Error{reply.text.data(), ""});
  }
  return std::vector<std::uint8_t>(reply.data.begin(), reply.data.begin() + reply.data_size);
}

}  // namespace weir::agent
