// resolve() without the native tap: the client's socket from the kernel's sock_diag, its process from /proc.
// Finds the caller's own processes only, which is what a proxy without root serves. Thread-safe; a look-up
// reads /proc.
#pragma once

#include <memory>

#include "attribution/events.h"
#include "attribution/policy.h"

namespace weir::agent {

// `publisher` gets a ProcessEvent for each process that is found, as no kernel side tells of it.
std::unique_ptr<ClientResolver> make_diag_resolver(EventPublisher& publisher);

}  // namespace weir::agent
