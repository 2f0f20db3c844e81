// Makes and locks the state directory, and chooses the user that the worker runs as. Broker only.
//
// Under root the directory is root's, sticky, and writable for the worker's group: the worker can make its
// database and socket there, and can neither rename nor replace ca/.
#pragma once

#include <sys/types.h>

#include <expected>
#include <optional>

#include "agent/descriptor.h"
#include "agent/error.h"
#include "agent/state_dir.h"

namespace weir::agent {

struct WorkerUser {
  uid_t uid = 0;
  gid_t gid = 0;
};

// Under root: the user `weir` if there is one, else an id of the range that is kept for dynamic users (and
// that no account has). Without root: the caller.
std::expected<WorkerUser, Error> choose_worker_user();

// The agent that holds the directory's lock; nothing when none does. Also for other commands of the owner's.
std::optional<pid_t> running_broker(const StateDir& state);

struct LockedState {
  Descriptor directory;
  Descriptor lock;  // held as long as it is open
};

// Makes the directory if need be and takes its lock. A second agent on it is refused by name and pid.
std::expected<LockedState, Error> open_state(const StateDir& state, const WorkerUser& worker);

}  // namespace weir::agent
