// The listeners, the socket for those who ask, and the broker's heartbeat.
#include "agent/redirector.h"

#include <fcntl.h>
#include <linux/nsfs.h>
#include <netinet/in.h>
#include <sched.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <iterator>

#include "agent/log.h"

namespace weir::agent {
namespace {

constexpr const char* kSocketName = "agent.redirect";
constexpr int kBacklog = 4096;
constexpr int kAskersAtOnce = 16;
constexpr std::chrono::milliseconds kBeat{250};
constexpr std::chrono::milliseconds kPatience{10'000};
constexpr std::chrono::seconds kDropInterval{5};
constexpr std::size_t kMostNamespaces = 128;  // the kernel's table has room for 256
constexpr std::size_t kMostOfUser = 32;       // of them: anybody can make namespaces
constexpr int kPeerPidfd = 77;                // SO_PEERPIDFD, since Linux 6.5
constexpr int kNetnsCookie = 71;              // SO_NETNS_COOKIE

Error errno_error(const std::string& what, const std::string& remedy = "") {
  return {what + ": " + std::strerror(errno), remedy};
}

// Through the directory's descriptor: no path is too long for a socket's address then.
sockaddr_un address_in(const Descriptor& directory) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::snprintf(address.sun_path, sizeof address.sun_path, "/proc/self/fd/%d/%s", directory.get(),
                kSocketName);
  return address;
}

std::expected<Descriptor, Error> open_socket(const Descriptor& directory) {
  ::unlinkat(directory.get(), kSocketName, 0);
  Descriptor socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  const sockaddr_un address = address_in(directory);
  const mode_t before = ::umask(0);  // everybody may ask
  const bool bound =
      socket && ::bind(socket.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0;
  ::umask(before);
  if (!bound || ::listen(socket.get(), 64) != 0)
    return std::unexpected(errno_error(kSocketName, "check the state directory's owner and mode"));
  return socket;
}

Descriptor listen_on_loopback(int family) {
  Descriptor socket(::socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!socket) return {};
  sockaddr_storage storage{};
  socklen_t size = sizeof(sockaddr_in);
  if (family == AF_INET) {
    auto& address = reinterpret_cast<sockaddr_in&>(storage);
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  } else {
    auto& address = reinterpret_cast<sockaddr_in6&>(storage);
    address.sin6_family = AF_INET6;
    address.sin6_addr = in6addr_loopback;
    size = sizeof address;
  }
  if (::bind(socket.get(), reinterpret_cast<sockaddr*>(&storage), size) != 0 ||
      ::listen(socket.get(), kBacklog) != 0)
    return {};
  return socket;
}

std::uint64_t netns_cookie_of(const Descriptor& socket) {
  std::uint64_t cookie = 0;
  socklen_t size = sizeof cookie;
  ::getsockopt(socket.get(), SOL_SOCKET, kNetnsCookie, &cookie, &size);
  return cookie;
}

std::uint16_t port_of(const Descriptor& socket, int family) {
  sockaddr_storage storage{};
  socklen_t size = sizeof storage;
  if (::getsockname(socket.get(), reinterpret_cast<sockaddr*>(&storage), &size) != 0 ||
      storage.ss_family != family)
    return 0;
  return ntohs(reinterpret_cast<const sockaddr_in&>(storage).sin_port);  // at the same place for IPv6
}

bool is_same_file(const Descriptor& one, const Descriptor& other) {
  struct stat a{};
  struct stat b{};
  return ::fstat(one.get(), &a) == 0 && ::fstat(other.get(), &b) == 0 && a.st_dev == b.st_dev &&
         a.st_ino == b.st_ino;
}

// Who made the user namespace that it belongs to; root where the kernel doesn't say.
uid_t owner_of(const Descriptor& network_namespace) {
  const Descriptor user_namespace(::ioctl(network_namespace.get(), NS_GET_USERNS));
  uid_t owner = 0;
  return user_namespace && ::ioctl(user_namespace.get(), NS_GET_OWNER_UID, &owner) == 0 ? owner : 0;
}

// This thread must not stay in another's network namespace.
bool inside(const Descriptor& network_namespace, const Descriptor& own, const std::function<void()>& act) {
  if (::setns(network_namespace.get(), CLONE_NEWNET) != 0) return false;
  act();
  const int error = errno;
  if (::setns(own.get(), CLONE_NEWNET) != 0) std::abort();
  errno = error;
  return true;
}

bool has_ended(const Descriptor& pidfd) {
  pollfd wait{pidfd.get(), POLLIN, 0};
  return ::poll(&wait, 1, 0) != 0;
}

// A process that is held by a descriptor, so that its pid stays its own. Where the kernel doesn't give the
// very process that connected, it must at least be of the same user.
Descriptor pidfd_of(const Descriptor& connection, const ucred& peer) {
  int pidfd = -1;
  socklen_t size = sizeof pidfd;
  if (::getsockopt(connection.get(), SOL_SOCKET, kPeerPidfd, &pidfd, &size) == 0) {
    Descriptor held(pidfd);
    ::fcntl(pidfd, F_SETFD, FD_CLOEXEC);
    return held;
  }
  Descriptor held(static_cast<int>(::syscall(SYS_pidfd_open, peer.pid, 0)));
  struct stat status{};
  const std::string directory = "/proc/" + std::to_string(peer.pid);
  if (!held || ::stat(directory.c_str(), &status) != 0 || status.st_uid != peer.uid) return {};
  return held;
}

}  // namespace

std::expected<Redirector, Error> Redirector::open(const Descriptor& state_directory, Setting setting) {
  Redirector made;
  made.setting_ = std::move(setting);
  made.wanted_ = made.setting_.wanted;
  if (made.setting_.kernel != nullptr) made.redirection_ = made.setting_.kernel->redirection();
  auto socket = open_socket(state_directory);
  if (!socket) return std::unexpected(socket.error());
  made.socket_ = std::move(*socket);
  if (made.redirection_ == nullptr) return made;
  made.event_ = Descriptor(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  Descriptor own(::open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC));
  if (!made.event_ || !own) return std::unexpected(errno_error("cannot redirect"));
  if (auto added = made.add_namespace(std::move(own)); !added) return std::unexpected(added.error());
  return made;
}

// Who asks before the worker is ready waits.
std::vector<pollfd> Redirector::waits() const {
  if (!socket_ || (redirection_ != nullptr && !ready_)) return {};
  std::vector<pollfd> waits{{socket_.get(), POLLIN, 0}};
  if (redirection_ != nullptr) waits.push_back({redirection_->unserved_descriptor(), POLLIN, 0});
  return waits;
}

int Redirector::time_to_beat() const {
  return active() ? static_cast<int>(kBeat.count()) : -1;
}

void Redirector::beat() {
  if (!active()) return;
  redirection_->beat();
  const auto now = std::chrono::steady_clock::now();
  if (namespaces_.size() == 1 || now < next_drop_) return;
  next_drop_ = now + kDropInterval;
  drop_empty_namespaces();
}

void Redirector::handle(std::span<const pollfd> waits) {
  for (const pollfd& wait : waits) {
    if ((wait.revents & POLLIN) == 0) continue;
    if (wait.fd == socket_.get())
      answer_askers();
    else
      for (const std::uint32_t process : redirection_->take_unserved()) (void)serve_namespace_of(process);
  }
}

void Redirector::answer_askers() {
  for (int asker = 0; asker < kAskersAtOnce; ++asker) {
    const Descriptor connection(::accept4(socket_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!connection) return;
    const std::string answer = mark(connection) + "\n";
    (void)::send(connection.get(), answer.data(), answer.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
  }
}

std::string Redirector::mark(const Descriptor& connection) {
  if (redirection_ == nullptr) return setting_.why_not;
  ucred peer{};
  socklen_t size = sizeof peer;
  if (::getsockopt(connection.get(), SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0 || peer.pid <= 0)
    return "the kernel doesn't say who asks";
  const Descriptor pidfd = pidfd_of(connection, peer);
  if (!pidfd || has_ended(pidfd)) return "who asked has ended";
  wanted_ = true;
  redirection_->beat();
  const auto pid = static_cast<std::uint32_t>(peer.pid);
  if (auto served = serve_namespace_of(pid); !served) return served.error().what;
  if (auto marked = redirection_->mark(pid); !marked) return marked.error().what;
  // Its number may have become another's meanwhile.
  if (has_ended(pidfd)) redirection_->unmark(pid);
  return "";
}

std::optional<Redirector::Listener> Redirector::next_listener() {
  std::uint64_t events = 0;
  (void)::read(event_.get(), &events, sizeof events);
  for (Namespace& one : namespaces_) {
    if (one.given == one.listeners.size()) continue;
    Descriptor copy(::fcntl(one.listeners[one.given++].get(), F_DUPFD_CLOEXEC, 0));
    return Listener{std::move(copy), one.number, one.cookie};
  }
  return std::nullopt;
}

std::expected<Descriptor, Error> Redirector::upstream_socket(std::uint32_t network_namespace, bool v6) {
  const auto found = std::ranges::find(namespaces_, network_namespace, &Namespace::number);
  if (found == namespaces_.end()) return std::unexpected(Error{"no such network namespace", ""});
  Descriptor socket;
  const bool entered = inside(found->descriptor, namespaces_.front().descriptor, [&] {
    socket = Descriptor(::socket(v6 ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  });
  if (!entered || !socket) return std::unexpected(errno_error("cannot make a socket in a network namespace"));
  // Firewalls may judge by a socket's owner.
  (void)::fchown(socket.get(), setting_.socket_owner, static_cast<gid_t>(-1));
  return socket;
}

void Redirector::worker_ready(const std::vector<Endpoint>& ours) {
  if (redirection_ == nullptr) return;
  our_ports_.clear();
  for (const Endpoint& endpoint : ours) our_ports_.push_back(endpoint.port);
  for (const Namespace& one : namespaces_) {
    if (auto started = start(one); started) continue;
    redirection_ = nullptr;
    setting_.why_not = "the kernel's tables don't take it";
    return;
  }
  ready_ = true;
}

void Redirector::worker_gone() {
  ready_ = false;
  for (Namespace& one : namespaces_) {
    one.given = 0;
    if (redirection_ != nullptr) redirection_->stop(one.cookie);
  }
}

std::expected<void, Error> Redirector::start(const Namespace& one) {
  bpf::RedirectListeners ports;
  for (const Descriptor& listener : one.listeners) {
    if (const auto port = port_of(listener, AF_INET)) ports.v4 = port;
    if (const auto port = port_of(listener, AF_INET6)) ports.v6 = port;
  }
  const std::size_t own = one.number == 0 ? std::min(our_ports_.size(), ports.ours.size()) : 0;
  std::copy_n(our_ports_.begin(), own, ports.ours.begin());
  if (auto started = redirection_->start(one.cookie, ports); !started)
    return std::unexpected(to_error(started.error()));
  return {};
}

std::expected<void, Error> Redirector::serve_namespace_of(std::uint32_t pid) {
  auto served = add_namespace_of(pid);
  // Each process of a namespace that can't be served asks again: the log says it once.
  if (served || std::exchange(last_refusal_, served.error().what) == served.error().what) return served;
  log_warning("not redirected: " + to_string(served.error()));
  return served;
}

std::expected<void, Error> Redirector::add_namespace_of(std::uint32_t pid) {
  const std::string name = "/proc/" + std::to_string(pid) + "/ns/net";
  Descriptor descriptor(::open(name.c_str(), O_RDONLY | O_CLOEXEC));
  if (!descriptor) return std::unexpected(errno_error("a process's network namespace"));
  for (const Namespace& one : namespaces_)
    if (is_same_file(one.descriptor, descriptor)) return {};
  const uid_t owner = owner_of(descriptor);
  const auto owned = static_cast<std::size_t>(std::ranges::count(namespaces_, owner, &Namespace::owner));
  if (namespaces_.size() >= kMostNamespaces || (owner != 0 && owned >= kMostOfUser))
    return std::unexpected(Error{"too many network namespaces have their connections redirected",
                                 "end what runs in namespaces of its own"});
  if (auto added = add_namespace(std::move(descriptor)); !added) return added;
  namespaces_.back().owner = owner;
  const std::uint64_t one = 1;
  (void)::write(event_.get(), &one, sizeof one);
  return {};
}

// Connections wait in the listener until the worker has it.
std::expected<void, Error> Redirector::add_namespace(Descriptor descriptor) {
  Namespace made;
  made.number = next_number_;
  made.descriptor = std::move(descriptor);
  const Descriptor& own = namespaces_.empty() ? made.descriptor : namespaces_.front().descriptor;
  const bool entered = inside(made.descriptor, own, [&] {
    for (const int family : {AF_INET, AF_INET6}) {
      Descriptor listener = listen_on_loopback(family);
      if (!listener) continue;  // no IPv6 there, or no loopback at all
      made.cookie = netns_cookie_of(listener);
      made.listeners.push_back(std::move(listener));
    }
  });
  if (!entered) return std::unexpected(errno_error("cannot enter a network namespace"));
  if (made.listeners.empty()) return std::unexpected(Error{"a network namespace has no loopback", ""});
  if (ready_) {
    if (auto started = start(made); !started) return started;
  }
  namespaces_.push_back(std::move(made));
  ++next_number_;
  return {};
}

void Redirector::drop_empty_namespaces() {
  const auto iterator = setting_.kernel->open_task_iterator();
  const auto used = iterator ? bpf::network_namespaces_of(*iterator) : std::unexpected(iterator.error());
  if (!used) return;
  for (auto one = std::next(namespaces_.begin()); one != namespaces_.end();) {
    if (used->contains(one->cookie)) {
      ++one;
      continue;
    }
    redirection_->stop(one->cookie);
    for (const Descriptor& listener : one->listeners) ::shutdown(listener.get(), SHUT_RDWR);
    one = namespaces_.erase(one);
  }
}

std::expected<void, Error> ask_for_redirection(const StateDir& state) {
  const Descriptor directory(::open(state.path.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  const Descriptor connection(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const sockaddr_un address = address_in(directory);
  const std::string unable = "cannot have connections redirected";
  if (::connect(connection.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    const bool none = errno == ENOENT || errno == ECONNREFUSED;
    return std::unexpected(Error{unable + ": " + (none ? "the agent doesn't redirect" : std::strerror(errno)),
                                 "run the agent as root and without --no-native"});
  }
  ucred peer{};
  socklen_t size = sizeof peer;
  // The worker's user could have put a socket of its own there.
  if (::getsockopt(connection.get(), SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0 || peer.uid != 0)
    return std::unexpected(Error{unable + ": who answers is not root's agent", ""});
  std::string answer;
  while (!answer.ends_with('\n')) {
    pollfd wait{connection.get(), POLLIN, 0};
    std::array<char, 512> part{};
    const bool there = ::poll(&wait, 1, static_cast<int>(kPatience.count())) == 1;
    const ssize_t got = there ? ::recv(connection.get(), part.data(), part.size(), 0) : -1;
    if (got <= 0) return std::unexpected(Error{unable + ": the agent doesn't answer", "see `weir status`"});
    answer.append(part.data(), static_cast<std::size_t>(got));
  }
  answer.pop_back();
  if (answer.empty()) return {};
  return std::unexpected(Error{unable + ": " + answer, ""});
}

}  // namespace weir::agent
