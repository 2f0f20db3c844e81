// sock_diag and /proc as the fallback of resolve(). Must never guess: a socket whose process can't be seen is
// an error.
#include "agent/diag_resolver.h"

#include <dirent.h>
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <map>
#include <mutex>

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

class Directory {
 public:
  explicit Directory(const std::string& name) : handle_(::opendir(name.c_str())) {}
  ~Directory() {
    if (handle_ != nullptr) ::closedir(handle_);
  }
  Directory(const Directory&) = delete;
  Directory& operator=(const Directory&) = delete;
  const dirent* next() { return handle_ == nullptr ? nullptr : ::readdir(handle_); }

 private:
  DIR* handle_;
};

bool holds_socket(std::uint32_t pid, std::uint32_t inode) {
  const std::string base = "/proc/" + std::to_string(pid) + "/fd/";
  const std::string wanted = "socket:[" + std::to_string(inode) + "]";
  Directory descriptors(base);
  while (const dirent* entry = descriptors.next()) {
    std::array<char, 64> link{};
    const ssize_t size = ::readlink((base + entry->d_name).c_str(), link.data(), link.size());
    if (size > 0 && std::string_view(link.data(), static_cast<std::size_t>(size)) == wanted) return true;
  }
  return false;
}

class DiagResolver : public ClientResolver {
 public:
  explicit DiagResolver(EventPublisher& publisher) : publisher_(publisher) {}

  std::expected<Client, std::string> resolve(const Tuple& client_view) override {
    auto found = find_socket(client_view);
    if (!found) return std::unexpected(found.error());
    const std::lock_guard lock(mutex_);
    const std::uint32_t pid = find_process(found->inode);
    if (pid == 0)
      return std::unexpected("no process of this user holds socket " + client_view.local.to_string());
    auto process = read_process(pid);
    if (!process) return std::unexpected("process " + std::to_string(pid) + " is gone");
    Client client{found->cookie, process->process, 0};
    publisher_.publish(std::move(*process));
    return client;
  }

 private:
  // The process that had the last socket likely has this one too; then the newest, as clients are
  // short-lived.
  std::uint32_t find_process(std::uint32_t inode) {
    if (last_pid_ != 0 && holds_socket(last_pid_, inode)) return last_pid_;
    std::vector<std::uint32_t> pids;
    Directory proc("/proc");
    while (const dirent* entry = proc.next()) {
      const int pid = std::atoi(entry->d_name);
      if (pid > 0 && pid != ::getpid()) pids.push_back(static_cast<std::uint32_t>(pid));
    }
    std::sort(pids.rbegin(), pids.rend());
    for (const std::uint32_t pid : pids) {
      if (holds_socket(pid, inode)) return last_pid_ = pid;
    }
    return 0;
  }

  EventPublisher& publisher_;
  std::mutex mutex_;
  std::uint32_t last_pid_ = 0;
};

}  // namespace

std::unique_ptr<ClientResolver> make_diag_resolver(EventPublisher& publisher) {
  return std::make_unique<DiagResolver>(publisher);
}

}  // namespace weir::agent
