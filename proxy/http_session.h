// HTTP/1.1 on one client connection, in the clear on the proxy's port or inside an opened TLS connection:
// request by request through the strict parser, policy, upstream and back. It forwards nothing that the
// parser refused, and publishes what the client sent and received.
#pragma once

#include <boost/asio/steady_timer.hpp>
#include <boost/container/vector.hpp>
#include <optional>
#include <string>
#include <vector>

#include "http/h1_parser.h"
#include "proxy/body_pace.h"
#include "proxy/connection_events.h"
#include "proxy/message_sink.h"
#include "proxy/own_answer.h"
#include "proxy/policy_gate.h"
#include "proxy/shard.h"
#include "proxy/upstream.h"

namespace weir::proxy {

// The destination of an opened TLS connection, or of one in the clear that was redirected; or why it can't be
// had: then each request is answered 502.
struct TlsDestination {
  Destination destination;
  std::string name;  // what the upstream's certificate is verified for; "": redirected, in the clear
  std::optional<UpstreamFailure> failure;
};

class HttpSession {
 public:
  // Without `tls`, requests are absolute-form, each with a destination of its own. `idle` is told when it is
  // between two.
  HttpSession(Shard& shard, Stream& client, Upstream& upstream, ConnectionEvents& events, IdlePlace& idle,
              std::optional<TlsDestination> tls);

  // Serves requests until the connection is to end. The authority of a CONNECT on the proxy's port is
  // given back instead, its bytes unpublished, what follows it in unread().
  Task<std::optional<std::string>> run();

  std::span<const std::byte> unread() const { return std::span(input_).subspan(begin_, end_ - begin_); }
  bool awaits_response() const { return awaits_response_; }
  // Ends a request whose content comes too slowly; to be called now and then.
  void end_slow_body(Stream::Clock::time_point now);
  bool anything_received() const { return anything_received_; }
  Io last_client_status() const { return client_status_; }

  // Answers a CONNECT with a text of our own and lets the client read it before the connection closes.
  Task<void> answer_unpublished(int status, std::string text);

 private:
  // Its room is not zeroed: it is given back and taken again for each request.
  using IoBuffer = boost::container::vector<std::byte>;

  using Refusal = OwnAnswer;
  enum class Outcome {
    keep,
    close,
    unanswered,  // the upstream ended without a byte of a response
    broken,      // in the middle of a response
    refused,     // refusal_ is the answer
    timed_out,   // the upstream sent nothing in time
    gone,        // the client left, or time is up: nobody to answer
    upgraded,
  };

  Task<bool> read_head();
  Task<bool> serve_request();
  std::optional<Refusal> judge_inside(const http::RequestHead& head);
  Task<std::optional<Refusal>> route_absolute(http::RequestHead& head);
  std::optional<Refusal> ask_policy(Destination destination, const http::RequestHead& head);
  Task<std::optional<Refusal>> connect_upstream(bool may_forward);
  Task<std::optional<Refusal>> reconnect(const http::RequestHead& head);
  Refusal upstream_refusal(const UpstreamFailure& failure);  // closes the upstream, too
  Refusal told_failure(Refusal failure);
  void publish_refused(const std::string& rule);

  Task<Outcome> exchange(const http::RequestHead& head, bool may_repeat);
  Task<Outcome> attempt(std::span<const std::byte> request);
  Task<void> pump_request();
  Task<Outcome> pump_response();
  Task<Outcome> take_response(std::span<const std::byte> data);
  Task<Outcome> end_of_response(Io status);
  Task<Io> deliver();
  Task<Io> give(std::vector<std::byte> bytes);  // and publishes them
  Task<void> answer(const Refusal& refusal);    // as answer_unpublished, and published
  Task<void> conclude(Outcome outcome);
  Task<void> switch_protocols();

  // Feeds the parser what has been read; false when the client's bytes are malformed: refusal_ says how.
  bool feed_request();
  void consume(std::size_t count);
  void rest();
  Task<Io> read_client();
  void publish_head();

  Shard& shard_;
  const Limits& limits_;
  Stream& client_;
  Upstream& upstream_;
  ConnectionEvents& events_;
  IdlePlace& idle_;
  PolicyGate gate_;
  std::optional<TlsDestination> tls_;

  http::H1Parser request_parser_{http::H1Parser::Kind::request};
  http::H1Parser response_parser_{http::H1Parser::Kind::response, http::kResponseLimits};
  RequestSink request_;
  ResponseSink response_;
  std::optional<Refusal> refusal_;

  IoBuffer input_;  // from the client; [begin_, end_) is not parsed yet
  std::size_t begin_ = 0;
  std::size_t end_ = 0;
  std::vector<std::byte> head_bytes_;  // parsed, published once the decision is
  IoBuffer output_;                    // from upstream
  std::size_t output_left_ = 0;        // of output_, after a 101: what follows it
  std::size_t output_end_ = 0;

  asio::steady_timer request_done_;
  std::string method_;
  bool routed_ = false;  // head_bytes_ need no longer be held back
  bool upstream_used_ = false;
  bool client_keeps_alive_ = false;
  bool asks_for_upgrade_ = false;
  // What the upstream has of the request: whether the connection can take another one hangs on it.
  enum class Sending { under_way, done, broken };
  Sending sending_ = Sending::done;
  bool awaits_content_ = false;  // of a request whose length is known
  BodyPace pace_;
  bool awaits_response_ = false;
  bool given_ = false;  // something of an answer
  bool anything_received_ = false;
  Io client_status_ = Io::ok;
};

}  // namespace weir::proxy
