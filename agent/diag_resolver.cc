// sock_diag and /proc as the fallback of resolve(). Must never guess: a socket whose process can't be seen is
// an error.
#include "agent/diag_resolver.h"

#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <map>
#include <mutex>

#include "agent/client_facts.h"
#include "agent/descriptor.h"
#include "agent/process_info.h"

namespace weir::agent {
namespace {

struct FoundSocket {
  SocketCookie cookie;
  std::uint32_t inode = 0;
};

std::expected<FoundSocket, std::string> find_socket(const Tuple& tuple) {
  const Descriptor netlink(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG));
  if (!netlink) return std::unexpected(std::string("sock_diag: ") + std::strerror(errno));
  struct {
    nlmsghdr header;
    inet_diag_req_v2 request;
  } message{};
  const bool v4 = tuple.local.address.family == IpAddress::Family::v4;
  message.header.nlmsg_len = sizeof message;
  message.header.nlmsg_type = SOCK_DIAG_BY_FAMILY;
  message.header.nlmsg_flags = NLM_F_REQUEST;
  message.request.sdiag_family = v4 ? AF_INET : AF_INET6;
  message.request.sdiag_protocol = IPPROTO_TCP;
  message.request.idiag_states = ~0u;
  message.request.id.idiag_sport = htons(tuple.local.port);
  message.request.id.idiag_dport = htons(tuple.peer.port);
  std::memcpy(message.request.id.idiag_src, tuple.local.address.bytes.data(), v4 ? 4 : 16);
  std::memcpy(message.request.id.idiag_dst, tuple.peer.address.bytes.data(), v4 ? 4 : 16);
  message.request.id.idiag_cookie[0] = INET_DIAG_NOCOOKIE;
  message.request.id.idiag_cookie[1] = INET_DIAG_NOCOOKIE;
  if (::send(netlink.get(), &message, sizeof message, 0) < 0) {
    return std::unexpected(std::string("sock_diag: ") + std::strerror(errno));
  }
  alignas(nlmsghdr) std::array<char, 4096> answer{};
  const ssize_t size = ::recv(netlink.get(), answer.data(), answer.size(), 0);
  const auto* header = reinterpret_cast<const nlmsghdr*>(answer.data());
  if (size < static_cast<ssize_t>(NLMSG_LENGTH(sizeof(inet_diag_msg))) ||
      header->nlmsg_type != SOCK_DIAG_BY_FAMILY) {
    return std::unexpected("no socket " + tuple.local.to_string());
  }
  const auto* found = reinterpret_cast<const inet_diag_msg*>(NLMSG_DATA(header));
  const std::uint64_t cookie =
      (static_cast<std::uint64_t>(found->id.idiag_cookie[1]) << 32) | found->id.idiag_cookie[0];
  return FoundSocket{{cookie}, found->idiag_inode};
}

class DiagResolver : public ClientResolver {
 public:
  DiagResolver(EventPublisher& publisher, FindOwner find_owner, ContainerTable& containers)
      : publisher_(publisher), find_owner_(std::move(find_owner)), containers_(containers) {}

  std::expected<Client, std::string> resolve(const Tuple& client_view) override {
    auto found = find_socket(client_view);
    if (!found) return std::unexpected(found.error());
    std::unique_lock lock(mutex_);
    const auto owner = find_owner_(found->inode);
    lock.unlock();
    if (!owner) return std::unexpected("no process to be seen holds socket " + client_view.local.to_string());
    auto process = read_process(owner->pid);
    if (!process) return std::unexpected("process " + std::to_string(owner->pid) + " is gone");
    process->executable_path = owner->executable;
    containers_.name(*process);
    Client client{found->cookie, process->process, 0};
    client.uid = process->uid;
    client.facts = facts_of(*process, process->uid);
    lock.lock();
    publisher_.publish(std::move(*process));
    return client;
  }

 private:
  EventPublisher& publisher_;
  FindOwner find_owner_;
  ContainerTable& containers_;
  std::mutex mutex_;
};

}  // namespace

std::unique_ptr<ClientResolver> make_diag_resolver(EventPublisher& publisher, FindOwner find_owner,
                                                   ContainerTable& containers) {
  return std::make_unique<DiagResolver>(publisher, std::move(find_owner), containers);
}

}  // namespace weir::agent
