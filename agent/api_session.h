// One client's connection to the API: one request, its checks, one answer. Internal to the API's server.
#pragma once

#include <boost/asio/awaitable.hpp>
#include <boost/asio/generic/stream_protocol.hpp>
#include <boost/asio/thread_pool.hpp>

#include "agent/api.h"
#include "agent/api_tails.h"

namespace weir::agent {

// What a session may use; it outlives all sessions.
struct ApiService {
  const ApiConfig& config;
  const ApiBackend& backend;
  Tails& tails;
  boost::asio::thread_pool& queries;  // reading the store must not hold up the live feeds
};

// `trusted`: the unix socket, where the file's mode has already decided.
boost::asio::awaitable<void> serve_api_client(boost::asio::generic::stream_protocol::socket socket,
                                              ApiService& service, bool trusted);

}  // namespace weir::agent
