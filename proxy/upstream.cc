// Resolving, connecting and verifying an upstream. Addresses are tried in the resolver's order, one at a
// time; a certificate that doesn't verify ends it, and no setting changes that.
#include "proxy/upstream.h"

#include <algorithm>
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <cerrno>
#include <cstring>
#include <utility>

#include "proxy/destination.h"

namespace weir::proxy {
namespace {

UpstreamFailure describe_connect_failure(const Destination& destination, Io status, int error) {
  const std::string where = destination.name + " port " + std::to_string(destination.port);
  const auto failure = [&where](const char* type, const std::string& why) {
    return UpstreamFailure{type, "can't connect to upstream " + where + ": " + why + " (" + type + ")"};
  };
  if (status == Io::timed_out || error == ETIMEDOUT) return failure("connect_timeout", "timed out");
  if (error == ECONNREFUSED) return failure("connect_refused", "connection refused");
  return failure("connect_unreachable", std::strerror(error));
}

// Loopback by definition, whatever the host's files or name servers say (RFC 6761, section 6.3).
bool is_localhost(std::string_view name) {
  return name == "localhost" || name.ends_with(".localhost");
}

// A lookup can't be called off, so it owns what it needs and may end after nobody waits for it any more.
struct Lookup {
  Lookup(asio::io_context& context, std::chrono::milliseconds patience)
      : resolver(context), done(context, patience) {}
  tcp::resolver resolver;
  asio::steady_timer done;
  boost::system::error_code error = asio::error::timed_out;
  tcp::resolver::results_type results;
};

}  // namespace

Task<std::optional<UpstreamFailure>> Upstream::resolve(Destination destination) {
  stream_.reset();
  addresses_.clear();
  destination_ = std::move(destination);
  if (const auto literal = parse_ip_address(destination_.name);
      literal.family != IpAddress::Family::unknown) {
    addresses_.push_back({literal, destination_.port});
    co_return std::nullopt;
  }
  if (is_localhost(destination_.name)) {
    for (const char* loopback : {"127.0.0.1", "::1"})
      addresses_.push_back({parse_ip_address(loopback), destination_.port});
    co_return std::nullopt;
  }
  const auto lookup = std::make_shared<Lookup>(shard_.context, shard_.shared.config.limits.connect_timeout);
  lookup->resolver.async_resolve(destination_.name, std::to_string(destination_.port),
                                 tcp::resolver::numeric_service,
                                 [lookup](const boost::system::error_code& failure, auto results) {
                                   lookup->error = failure;
                                   lookup->results = std::move(results);
                                   lookup->done.cancel();
                                 });
  co_await lookup->done.async_wait(asio::as_tuple(asio::use_awaitable));
  const auto error = lookup->error;
  for (const auto& result : lookup->results) addresses_.push_back(to_endpoint(result.endpoint()));
  if (!error && !addresses_.empty()) co_return std::nullopt;
  UpstreamFailure failure{"dns",
                          "can't resolve upstream " + destination_.name + ": " + error.message() + " (dns)"};
  co_return failure;
}

Task<std::optional<UpstreamFailure>> Upstream::connect() {
  Io status = Io::failed;
  int error = EHOSTUNREACH;
  for (const Endpoint& address : addresses_) {
    stream_ = std::make_unique<Stream>(tcp::socket(shard_.context));
    stream_->set_deadline(shard_.shared.config.limits.connect_timeout);
    status = co_await stream_->connect(address);
    if (status == Io::ok) co_return std::nullopt;
    error = stream_->last_errno();
  }
  stream_.reset();
  co_return describe_connect_failure(destination_, status, error);
}

Task<std::optional<UpstreamFailure>> Upstream::start_tls(std::string name) {
  stream_->set_deadline(shard_.shared.config.limits.handshake_timeout);
  Ssl ssl = make_upstream_ssl(shard_.shared.upstream_context.get(), name);
  if (!ssl) {
    UpstreamFailure failure{"tls_handshake",
                            "no certificate can be for upstream " + name + " (tls_handshake)"};
    co_return failure;
  }
  const Io status = co_await stream_->handshake(std::move(ssl), false);
  if (status == Io::ok) co_return std::nullopt;
  const std::string error = status == Io::timed_out ? "timed out" : stream_->tls_error();
  co_return describe_handshake_failure(stream_->ssl(), name, error);
}

bool Upstream::is_refused() const {
  return std::any_of(addresses_.begin(), addresses_.end(), [this](const Endpoint& address) {
    return reaches_any(address, shard_.shared.config.refused_destinations);
  });
}

void Upstream::tick(Stream::Clock::time_point now) {
  if (stream_) stream_->check_deadline(now);
}

void Upstream::expire() {
  if (stream_) stream_->expire();
}

DecisionMade Upstream::describe(Decision decision) const {
  DecisionMade made;
  made.decision = decision;
  made.server_name = destination_.name;
  made.server_port = destination_.port;
  if (stream_) {
    made.upstream_peer = stream_->peer();
    made.upstream_local = stream_->local();
  }
  return made;
}

}  // namespace weir::proxy
