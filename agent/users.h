// Who uses an agent that was started for a command. Each user keeps a connection to a socket of the broker's
// open; the agent ends with the last of them. The kernel closes what a killed user had open, and the socket
// is for the agent's own user alone, so nobody else can keep the agent. An agent that was started to stay has
// no such socket.
#pragma once

#include <poll.h>

#include <expected>
#include <optional>
#include <vector>

#include "agent/descriptor.h"
#include "agent/error.h"
#include "agent/state_dir.h"

namespace weir::agent {

// A user's side: the agent stays as long as this is open. Close-on-exec.
class Lease {
 public:
  Lease() = default;
  // Of a connection that the agent was started with (Users::open).
  explicit Lease(Descriptor connection) : connection_(std::move(connection)) {}

  // Nothing when the agent is not there, ends, or was started to stay.
  static std::optional<Lease> take(const StateDir& state);

  // Gives it back; true when that ends the agent.
  bool give_back();

 private:
  Descriptor connection_;
};

// The broker's side. Single-threaded; never blocks.
class Users {
 public:
  // `first` is a connected socket that the starter passed on. An earlier agent's socket is taken away.
  static std::expected<Users, Error> open(const StateDir& state, Descriptor first);
  // For an agent that stays: only takes an earlier agent's socket away.
  static std::expected<Users, Error> none(const StateDir& state);

  // What to wait for, to be given to handle() afterwards.
  std::vector<pollfd> waits() const;
  // Lets users in and out. False when the last has left: nobody is let in from then on.
  bool handle(const std::vector<pollfd>& waits);

 private:
  void let_in();
  bool stays(const pollfd& wait);

  Descriptor listener_;
  std::vector<Descriptor> connections_;
};

}  // namespace weir::agent
