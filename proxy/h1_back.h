// The upstream's half of a connection whose upstream speaks HTTP/1.1 while its client speaks HTTP/2. HTTP/1
// has one exchange at a time on a connection, so each transit has a leg of its own: a connection that only
// this client uses, kept for a later transit where both sides allow it. Sans-IO: a leg takes and gives bytes,
// its owner moves them.
#pragma once

#include <functional>
#include <list>
#include <string>

#include "http/h1_parser.h"
#include "proxy/proxy.h"
#include "proxy/transit.h"

namespace weir::proxy {

class H1Back;

class H1Leg final : private http::H1Handler {
 public:
  explicit H1Leg(H1Back& back) : back_(back) { parser_.stop_between_messages(true); }

  // Appends what is to be sent to the upstream.
  void produce(std::vector<std::byte>& out, std::size_t most);
  // False: the connection is of no more use.
  bool receive(std::span<const std::byte> data);
  // The connection is over; `orderly`: by an end that TLS vouches for.
  void ended(bool orderly, const OwnAnswer& answer);
  // True when the exchange is to be tried again on a new connection: the old one, kept from an earlier
  // exchange, ended before anything of an answer, and the request can be repeated (RFC 9110, 9.2.2).
  bool begin_again();

  bool wants_input() const;
  bool idle() const { return transit_ == nullptr && usable_; }
  bool usable() const { return usable_; }

  // Something is to be sent, there is room for input again, or the leg is of no more use: look again.
  std::function<void()> on_change;

 private:
  friend class H1Back;

  void changed() const {
    if (on_change) on_change();
  }
  http::Next on_response_head(http::ResponseHead head, http::BodyFraming framing) override;
  void on_body(std::span<const std::byte> data) override;
  void on_trailers(http::Fields trailers) override;
  void on_message_complete() override;

  void start(Transit& transit, const HeadBlock& head, bool ended);
  void settle();
  void fail(std::uint32_t code, const OwnAnswer& answer);
  void take_content(std::vector<std::byte>& out, std::size_t most);

  H1Back& back_;
  http::H1Parser parser_{http::H1Parser::Kind::response, http::kResponseLimits};
  Transit* transit_ = nullptr;
  std::string head_;  // of the request
  bool head_sent_ = false;
  bool chunked_ = false;
  bool request_over_ = false;
  bool repeatable_ = false;
  bool reused_ = false;
  bool answered_ = false;  // anything of an answer came
  bool final_ = false;     // its final head did
  bool complete_ = false;
  bool keep_alive_ = false;
  bool usable_ = true;
  http::Fields trailers_;
};

class H1Back final : public Back {
 public:
  // `open_leg` is to begin moving the new leg's bytes; it must not do so before it returns. `reusable`: may
  // an idle leg be used again, as far as its connection shows?
  H1Back(const H2Limits& limits, std::string name, std::function<void(H1Leg&)> open_leg,
         std::function<bool(H1Leg&)> reusable)
      : limits_(limits),
        name_(std::move(name)),
        open_leg_(std::move(open_leg)),
        reusable_(std::move(reusable)) {}
  void set_front(Front& front) { front_ = &front; }
  // The leg is not moved any more.
  void remove(H1Leg& leg);

  void start(Transit& transit, HeadBlock head, bool ended) override;
  void request_arrived(Transit& transit) override;
  void response_taken(Transit& transit, std::size_t size) override;
  void cancel(Transit& transit, std::uint32_t code) override;

 private:
  friend class H1Leg;

  H1Leg* leg_of(const Transit& transit);

  const H2Limits limits_;
  const std::string name_;
  std::function<void(H1Leg&)> open_leg_;
  std::function<bool(H1Leg&)> reusable_;
  Front* front_ = nullptr;
  std::list<H1Leg> legs_;
  std::size_t waiting_ = 0;  // bytes of responses that the client has not taken
};

}  // namespace weir::proxy
