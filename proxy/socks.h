// The server's half of SOCKS 5 (RFC 1928) for clients that ask for a connection in it instead of by CONNECT.
// Sans-IO; one connection's, one thread. No credentials are asked for: clients are found by their socket.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "attribution/policy.h"

namespace weir::proxy {

class SocksRequest {
 public:
  static constexpr std::byte kVersion{5};  // how a client begins that speaks it; HTTP never does

  enum class State : std::uint8_t { unfinished, asked, refused };

  // Takes what has come, from the connection's first byte on. While unfinished, send take_output() and feed
  // more.
  void feed(std::span<const std::byte> data);
  State state() const { return state_; }
  // For the client: an answer to its greeting, or, when it is refused, why in the protocol's terms.
  std::string take_output() { return std::exchange(output_, {}); }
  const std::string& why() const { return why_; }  // it is refused: a few words

  // Once asked: where to; and what the client sent without waiting for the answer.
  const Destination& destination() const { return destination_; }
  const std::vector<std::byte>& unread() const { return input_; }

  // The answer to what was asked. The address that we connected from is not told: it is no business of the
  // client's, and may not exist yet.
  enum class Reply : std::uint8_t { succeeded = 0, failed = 1, not_allowed = 2, host_unreachable = 4 };
  static std::string answer(Reply reply);

 private:
  bool take_greeting();
  bool take_request();
  void refuse(std::string output, std::string why);

  bool greeted_ = false;
  State state_ = State::unfinished;
  std::vector<std::byte> input_;
  std::string output_;
  std::string why_;
  Destination destination_;
};

}  // namespace weir::proxy
