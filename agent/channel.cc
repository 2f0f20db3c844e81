// Packets and descriptors over SOCK_SEQPACKET. Must never leave a received descriptor unowned.
#include "agent/channel.h"

#include <sys/socket.h>

#include <cerrno>
#include <cstring>

namespace weir::agent {
namespace {

Error errno_error(const char* doing) {
  return {std::string(doing) + ": " + std::strerror(errno), ""};
}

std::vector<Descriptor> take_descriptors(msghdr& header) {
  std::vector<Descriptor> taken;
  for (cmsghdr* control = CMSG_FIRSTHDR(&header); control != nullptr;
       control = CMSG_NXTHDR(&header, control)) {
    if (control->cmsg_level != SOL_SOCKET || control->cmsg_type != SCM_RIGHTS) continue;
    const std::size_t count = (control->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (std::size_t i = 0; i < count; ++i) {
      int number = -1;
      std::memcpy(&number, CMSG_DATA(control) + i * sizeof(int), sizeof(int));
      taken.emplace_back(number);
    }
  }
  return taken;
}

}  // namespace

std::expected<void, Error> send_packet(int socket, std::span<const std::byte> message,
                                       std::span<const int> descriptors, int flags) {
  iovec part{const_cast<std::byte*>(message.data()), message.size()};
  msghdr header{};
  header.msg_iov = &part;
  header.msg_iovlen = 1;
  alignas(cmsghdr) std::array<char, CMSG_SPACE(max_descriptors * sizeof(int))> control{};
  if (!descriptors.empty()) {
    if (descriptors.size() > max_descriptors) return std::unexpected(Error{"too many descriptors", ""});
    header.msg_control = control.data();
    header.msg_controllen = CMSG_SPACE(descriptors.size_bytes());
    cmsghdr* rights = CMSG_FIRSTHDR(&header);
    rights->cmsg_level = SOL_SOCKET;
    rights->cmsg_type = SCM_RIGHTS;
    rights->cmsg_len = CMSG_LEN(descriptors.size_bytes());
    std::memcpy(CMSG_DATA(rights), descriptors.data(), descriptors.size_bytes());
  }
  while (true) {
    if (::sendmsg(socket, &header, MSG_NOSIGNAL | flags) >= 0) return {};
    if (errno != EINTR) return std::unexpected(errno_error("sending to the other process"));
  }
}

std::expected<Packet, Error> receive_packet(int socket, std::span<std::byte> buffer) {
  iovec part{buffer.data(), buffer.size()};
  alignas(cmsghdr) std::array<char, CMSG_SPACE(max_descriptors * sizeof(int))> control{};
  msghdr header{};
  header.msg_iov = &part;
  header.msg_iovlen = 1;
  header.msg_control = control.data();
  header.msg_controllen = control.size();
  ssize_t size = -1;
  do {
    size = ::recvmsg(socket, &header, MSG_CMSG_CLOEXEC);
  } while (size < 0 && errno == EINTR);
  if (size < 0) {
    // Unread data at the other end's death arrives as a reset: the other end is gone all the same.
    if (errno == ECONNRESET) return Packet{};
    return std::unexpected(errno_error("receiving from the other process"));
  }
  Packet packet{static_cast<std::size_t>(size), take_descriptors(header)};
  if ((header.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) != 0)
    return std::unexpected(Error{"oversized message", ""});
  return packet;
}

std::expected<BrokerClient::Answer, Error> BrokerClient::call(Request request) {
  const std::lock_guard lock(mutex_);
  request.id = next_id_++;
  if (auto sent = send_packet(socket_.get(), std::as_bytes(std::span(&request, 1)), {}); !sent) {
    return std::unexpected(sent.error());
  }
  Answer answer;
  auto packet = receive_packet(socket_.get(), std::as_writable_bytes(std::span(&answer.reply, 1)));
  if (!packet) return std::unexpected(packet.error());
  if (packet->size != sizeof(Reply) || answer.reply.id != request.id) {
    return std::unexpected(Error{"the broker is gone", ""});
  }
  answer.descriptors = std::move(packet->descriptors);
  return answer;
}

std::expected<void, Error> BrokerClient::tell(Request request) {
  const std::lock_guard lock(mutex_);
  return send_packet(socket_.get(), std::as_bytes(std::span(&request, 1)), {});
}

}  // namespace weir::agent
