// Who uses an agent that was started for a command. Each user holds a shared lock on one file of the state
// directory, inherited by what it runs, so that a killed one lets go of it, too. Whoever gets the lock alone
// ends the agent: its starter, or the agent itself when the starter is gone. An agent that was started to
// stay has no such file.
#pragma once

#include <sys/types.h>

#include <expected>
#include <optional>

#include "agent/descriptor.h"
#include "agent/error.h"
#include "agent/state_dir.h"

namespace weir::agent {

// For users. Empty when the agent was started to stay; nullopt when it is ending. The descriptor is
// close-on-exec: whoever runs a command clears that.
std::optional<Descriptor> take_lease(const StateDir& state);

// For the starter: true when nobody uses the agent any more. Then nobody can begin to, either.
bool claim_agent(const StateDir& state);

// For the agent.
class Leases {
 public:
  // Makes the file, or takes an earlier agent's away when this one is to stay.
  static std::expected<Leases, Error> open(const StateDir& state, bool while_used);

  // True when nobody uses the agent any more and `starter`, who would have ended it, is gone.
  bool ended(pid_t starter) const;

 private:
  Descriptor file_;
};

}  // namespace weir::agent
