// One client connection from accept to its end. Read serve() in connection.cc for the whole way.
#pragma once

#include "proxy/shard.h"

namespace weir::proxy {

// `from` is what accept() returned. Ends when the connection has; it throws nothing.
Task<void> serve(Shard& shard, tcp::socket socket, Endpoint from);

}  // namespace weir::proxy
