// One end of the socket pair between broker and worker: whole messages with descriptors, nothing about their
// meaning. Received descriptors are close-on-exec.
#pragma once

#include <cstddef>
#include <cstdint>
#include <expected>
#include <mutex>
#include <span>
#include <vector>

#include "agent/descriptor.h"
#include "agent/error.h"
#include "agent/protocol.h"

namespace weir::agent {

inline constexpr std::size_t max_descriptors = 16;

struct Packet {
  std::size_t size = 0;  // 0: the other end is gone
  std::vector<Descriptor> descriptors;
};

std::expected<void, Error> send_packet(int socket, std::span<const std::byte> message,
                                       std::span<const int> descriptors, int flags = 0);
// Waits for one packet. A packet longer than `buffer`, or with more than max_descriptors, is an error.
std::expected<Packet, Error> receive_packet(int socket, std::span<std::byte> buffer);

// The worker's end: a request, and the reply to it. Thread-safe; one request is under way at a time.
class BrokerClient {
 public:
  explicit BrokerClient(Descriptor socket) : socket_(std::move(socket)) {}

  struct Answer {
    Reply reply;
    std::vector<Descriptor> descriptors;
  };
  // The error is the channel's own (the broker is gone); what the broker refuses is in the reply's status.
  std::expected<Answer, Error> call(Request request);
  // Sends without waiting for a reply.
  std::expected<void, Error> tell(Request request);
  int socket() const { return socket_.get(); }

 private:
  Descriptor socket_;
  std::mutex mutex_;
  std::uint64_t next_id_ = 1;
};

}  // namespace weir::agent
