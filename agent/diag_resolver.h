// resolve() without the native tap: the client's socket from the kernel's sock_diag, its process from /proc.
// Thread-safe; a look-up walks /proc.
#pragma once

#include <functional>
#include <memory>
#include <optional>

#include "agent/container_names.h"
#include "agent/socket_owners.h"
#include "attribution/events.h"
#include "attribution/policy.h"

namespace weir::agent {

using FindOwner = std::function<std::optional<SocketOwner>(std::uint32_t socket_inode)>;

// `publisher` gets a ProcessEvent for each process that is found, as no kernel side tells of it. `find_owner`
// is called under a lock.
std::unique_ptr<ClientResolver> make_diag_resolver(EventPublisher& publisher, FindOwner find_owner,
                                                   ContainerTable& containers);

}  // namespace weir::agent
