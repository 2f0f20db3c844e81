// Bytes both ways between two streams until both have ended: tunnels, and connections after a 101.
#pragma once

#include <functional>
#include <span>

#include "attribution/events.h"
#include "proxy/stream.h"

namespace weir::proxy {

// Called after a piece was passed on; not set for tunnels, whose content is not ours to publish.
using OnRelayed = std::function<void(Direction, std::span<const std::byte>)>;

// An end of one side is passed to the other (half-close); a failure ends both.
Task<void> relay(Stream& client, Stream& upstream, std::chrono::milliseconds idle_timeout,
                 OnRelayed on_relayed);

}  // namespace weir::proxy
