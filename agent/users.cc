#include "agent/users.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <filesystem>

namespace weir::agent {
namespace {

constexpr std::size_t most_users = 256;
constexpr std::chrono::milliseconds answer_limit{5'000};

// The words of the conversation, one byte each.
constexpr char admitted = 'a';
constexpr char leaving = 'l';
constexpr char others_stay = 's';
constexpr char was_last = 'e';

std::optional<sockaddr_un> address_of(const StateDir& state) {
  const std::string path = state.users().string();
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path) return std::nullopt;
  std::copy(path.begin(), path.end(), address.sun_path);
  return address;
}

bool say(const Descriptor& connection, char word) {
  return ::send(connection.get(), &word, 1, MSG_NOSIGNAL | MSG_DONTWAIT) == 1;
}

// '\0' when the other side is gone or says nothing in time.
char hear(const Descriptor& connection) {
  pollfd wait{connection.get(), POLLIN, 0};
  char word = '\0';
  if (::poll(&wait, 1, static_cast<int>(answer_limit.count())) != 1) return '\0';
  return ::recv(connection.get(), &word, 1, MSG_DONTWAIT) == 1 ? word : '\0';
}

std::expected<void, Error> take_away(const StateDir& state) {
  std::error_code failed;
  std::filesystem::remove_all(state.users(), failed);  // whatever the worker's user put there
  if (!failed) return {};
  return std::unexpected(Error{state.users().string() + ": " + failed.message(), "remove it"});
}

}  // namespace

std::optional<Lease> Lease::take(const StateDir& state) {
  const auto address = address_of(state);
  Descriptor connection(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!address || !connection) return std::nullopt;
  if (::connect(connection.get(), reinterpret_cast<const sockaddr*>(&*address), sizeof *address) != 0)
    return std::nullopt;
  // The worker's user could have put a socket of its own there.
  ucred peer{};
  socklen_t size = sizeof peer;
  if (::getsockopt(connection.get(), SOL_SOCKET, SO_PEERCRED, &peer, &size) != 0 || peer.uid != ::geteuid())
    return std::nullopt;
  if (hear(connection) != admitted) return std::nullopt;
  return Lease(std::move(connection));
}

bool Lease::give_back() {
  const bool last = connection_ && say(connection_, leaving) && hear(connection_) == was_last;
  connection_.reset();
  return last;
}

std::expected<Users, Error> Users::open(const StateDir& state, Descriptor first) {
  if (auto done = take_away(state); !done) return std::unexpected(done.error());
  const auto address = address_of(state);
  if (!address)
    return std::unexpected(
        Error{state.users().string() + ": the name is too long for a socket", "choose another --state-dir"});
  Users users;
  users.listener_ = Descriptor(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  const mode_t before = ::umask(0177);
  const bool bound =
      users.listener_ &&
      ::bind(users.listener_.get(), reinterpret_cast<const sockaddr*>(&*address), sizeof *address) == 0;
  ::umask(before);
  if (!bound || ::listen(users.listener_.get(), 64) != 0)
    return std::unexpected(Error{state.users().string() + ": " + std::strerror(errno),
                                 "check the state directory's owner and mode"});
  ::fcntl(first.get(), F_SETFD, FD_CLOEXEC);
  users.connections_.push_back(std::move(first));
  return users;
}

std::expected<Users, Error> Users::none(const StateDir& state) {
  if (auto done = take_away(state); !done) return std::unexpected(done.error());
  return Users();
}

std::vector<pollfd> Users::waits() const {
  std::vector<pollfd> waits;
  if (!listener_) return waits;
  waits.push_back({listener_.get(), POLLIN, 0});
  for (const Descriptor& connection : connections_) waits.push_back({connection.get(), POLLIN, 0});
  return waits;
}

bool Users::handle(const std::vector<pollfd>& waits) {
  if (!listener_) return true;
  for (const pollfd& wait : waits) {
    if (wait.revents == 0 || wait.fd == listener_.get() || stays(wait)) continue;
    std::erase_if(connections_, [&](const Descriptor& one) { return one.get() == wait.fd; });
  }
  if (connections_.empty()) {
    // Who waits to be let in sees the end instead.
    listener_.reset();
    return false;
  }
  if (!waits.empty() && waits.front().revents != 0) let_in();
  return true;
}

void Users::let_in() {
  Descriptor connection(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  if (connection && connections_.size() < most_users && say(connection, admitted))
    connections_.push_back(std::move(connection));
}

bool Users::stays(const pollfd& wait) {
  char word = '\0';
  const ssize_t got = ::recv(wait.fd, &word, 1, MSG_DONTWAIT);
  if (got < 0) return errno == EAGAIN || errno == EINTR;
  if (got == 1 && word == leaving) {
    const char answer = connections_.size() == 1 ? was_last : others_stay;
    (void)::send(wait.fd, &answer, 1, MSG_NOSIGNAL | MSG_DONTWAIT);
  }
  return false;
}

}  // namespace weir::agent
