// Inside of H1ExchangeBuilder: the two streams, the exchanges that are open on them, and the one place that
// decides whose turn it is. Only exchange.cc and pairing.cc include this.
#pragma once

#include <list>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include "http/bytes.h"
#include "http/exchange.h"
#include "http/stream_watch.h"
#include "http/tunnel.h"

namespace weir::http {

// An exchange that isn't given out yet.
struct Open {
  Exchange exchange;
  StreamWatch watch;
  bool request_done = false;
  bool response_begun = false;
  bool response_done = false;
  bool expected = false;     // the response parser knows of it
  bool may_upgrade = false;  // until the response says no
  bool has_content = false;  // the request says so
};

// What happened on a side whose turn hasn't come.
struct Held {
  enum class Kind : std::uint8_t { data, gap, end };
  Kind kind;
  Time when;
  std::string data;
  std::uint64_t gap = 0;
};

enum class Mode : std::uint8_t {
  start,  // at its first byte
  parsing,
  seeking,  // framing is lost
  tunnel,   // upgraded to what somebody else reads
  opaque,   // for good: nothing more to be read here
};

struct Stream {
  H1Parser::Kind kind;
  Mode mode = Mode::start;
  bool paused = false;       // at a head, for the other side's held bytes
  bool busy = false;         // its bytes are being read: what is held comes after them
  bool in_head = false;      // of a message whose head isn't complete
  bool began_known = false;  // the message's first bytes went through `carry`
  H1Parser parser;
  std::string carry;  // the undecided bytes of start and seeking
  // Lists, here and below: an empty deque takes more than half a KiB.
  std::list<Held> held;
  EarlyShare held_cost;
  std::uint64_t unparsed = 0;
  std::uint64_t head_bytes = 0;  // of the incomplete head, so far
  Time began{};                  // the current message

  Stream(H1Parser::Kind k, const H1Limits& limits, EarlyBytes* early_bytes)
      : kind(k), parser(k, limits), held_cost(early_bytes) {
    parser.stop_between_messages(true);
  }

  bool between_messages() const { return mode != Mode::parsing || parser.idle(); }

  void end_head() {
    in_head = false;
    head_bytes = 0;
  }
  // Whatever was kept for later belongs to no exchange.
  void drop_kept() {
    unparsed += carry.size() + head_bytes;
    for (const auto& item : held) unparsed += item.data.size();
    carry.clear();
    held.clear();
    held_cost.clear();
    head_bytes = 0;
  }
  void close() {
    drop_kept();
    mode = Mode::opaque;
  }
};

class Pairing {
 public:
  struct RequestHandler final : H1Handler {
    explicit RequestHandler(Pairing& s) : state(s) {}
    Next on_request_head(RequestHead head, BodyFraming framing) override;
    void on_body(Bytes data) override;
    void on_trailers(Fields trailers) override;
    void on_message_complete() override;
    Pairing& state;
  };
  struct ResponseHandler final : H1Handler {
    explicit ResponseHandler(Pairing& s) : state(s) {}
    Next on_response_head(ResponseHead head, BodyFraming framing) override;
    void on_body(Bytes data) override;
    void on_trailers(Fields trailers) override;
    void on_message_complete() override;
    Pairing& state;
  };

  Pairing(ExchangeLimits l, OnExchange callback)
      : limits(l),
        on_exchange(std::move(callback)),
        request(H1Parser::Kind::request, limits.h1, limits.early_bytes),
        response(H1Parser::Kind::response, limits.h1_response, limits.early_bytes) {}

  Side side_of(const Stream& s) const { return &s == &request ? Side::request : Side::response; }
  Stream& stream(Side side) { return side == Side::request ? request : response; }
  H1Handler& handler(const Stream& s) {
    return &s == &request ? static_cast<H1Handler&>(on_request) : static_cast<H1Handler&>(on_response);
  }

  // The exchange that the next response byte belongs to.
  Open* target() { return open.empty() || open.front().response_done ? nullptr : &open.front(); }
  // The exchange whose message is being read on that side.
  Open* current(const Stream& s);
  bool blocked(const Stream& s);
  bool unwanted(const Stream& s, Time when);

  void feed(Stream& s, Bytes data, Time when);
  void gap(Stream& s, std::uint64_t length, Time when);
  void end(Stream& s, Time when);
  void finish(Time when);

  void hold(Stream& s, Held item);
  void count_held(Stream& s, std::size_t bytes);
  void hold_rest(Stream& s, Bytes rest, Time when);
  void run_held();
  void run_held(Stream& s);
  void run(Stream& s, const Held& item);

  void take(Stream& s, Bytes data, Time when);
  void process(Stream& s, Bytes data, Time when);
  void try_start(Stream& s, Bytes data, Time when);
  void seek(Stream& s, Bytes data, Time when);
  Bytes parse(Stream& s, Bytes data);
  void resync(Stream& s);
  void lose_framing(Stream& s, std::uint64_t length);
  void refused(Stream& s, const ParseError& error);
  void give_up(std::string_view error, std::string_view detail);
  void become_other();
  void doubt_pairing();
  bool enter_tunnel();

  void store(Open& o, Side side, Bytes data) const;
  void mark_gap(Open& o, Side side, std::uint64_t length) const;
  void settle();
  void give_out();

  ExchangeLimits limits;
  OnExchange on_exchange;
  Protocol protocol = Protocol::undecided;
  RequestHandler on_request{*this};
  ResponseHandler on_response{*this};
  Stream request;
  Stream response;
  std::list<Open> open;
  std::unique_ptr<Tunnel> tunnel;
  std::uint64_t next_number = 0;
  bool pipelines = false;       // a request came before the previous one's answer
  bool in_doubt = false;        // messages may be missing between a request and the next response
  std::uint64_t doubt_end = 0;  // the first exchange that began after the loss
  Time now{};
};

}  // namespace weir::http
