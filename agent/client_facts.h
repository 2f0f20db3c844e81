// Who a client is, for policy: what the resolver doesn't say is read from /proc, once for each program that a
// process runs.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "agent/container_names.h"
#include "attribution/events.h"
#include "attribution/policy.h"

namespace weir::agent {

// What rules ask for, of what /proc tells of a process.
std::shared_ptr<const ClientFacts> facts_of(const ProcessEvent& process, std::optional<std::uint32_t> uid);

// The executable of that process, which another user's process may not look at; "" when it can't be told.
using FindExecutable = std::function<std::string(std::uint32_t pid)>;

// Answers as `resolver` does, with the client's facts. A client that ended before it could be looked at has
// none. Thread-safe if `resolver`, `find` and `containers` are.
std::unique_ptr<ClientResolver> make_facts_resolver(std::unique_ptr<ClientResolver> resolver,
                                                    FindExecutable find, ContainerTable& containers);

}  // namespace weir::agent
