// One client connection from accept to its end. Read serve() in connection.cc for the whole way.
#pragma once

#include "proxy/shard.h"
#include "proxy/upstream.h"

namespace weir::proxy {

// A listener, as its connections need to know it: it lives as long as they do.
struct Entrance {
  tcp::acceptor acceptor;
  std::shared_ptr<ClientResolver> resolver;
  bool redirected = false;    // clients that the kernel side sent here, and no others
  SocketMaker make_socket{};  // proxy.h, RedirectListener; empty: our own network namespace
};

// `from` is what accept() returned. Ends when the connection has; it throws nothing.
Task<void> serve(Shard& shard, std::shared_ptr<const Entrance> entrance, Socket socket, Endpoint from);

}  // namespace weir::proxy
