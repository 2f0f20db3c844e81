// The client's half of a connection whose client speaks HTTP/1.1 while its upstream speaks HTTP/2: one
// request after the other through the strict parser, each a transit. Sans-IO: bytes of the client in, bytes
// for it out.
#pragma once

#include <optional>
#include <string>

#include "http/h1_parser.h"
#include "proxy/proxy.h"
#include "proxy/transit.h"

namespace weir::proxy {

class H1Front final : public ClientSide, private http::H1Handler {
 public:
  H1Front(const H2Limits& limits, const BodyPace::Limits& pace, RequestJudge& judge, Back& back)
      : limits_(limits), pace_(pace), judge_(judge), back_(back) {
    parser_.stop_between_messages(true);
  }
  ~H1Front() override = default;

  void open(std::uint32_t, bool) override {}
  void limit_streams(std::uint32_t) override {}
  bool receive(std::span<const std::byte> data, Clock::time_point now) override;
  void produce(std::vector<std::byte>& out, std::size_t most) override;
  void leave() override;
  std::size_t end_slow_requests(Clock::time_point now) override;
  bool wants_input() const override;
  bool in_head() const override { return !transit_ && !parser_.idle(); }
  bool idle() const override { return !transit_; }
  bool finished() const override { return closing_ && !transit_ && out_.empty(); }
  bool flooded() const override { return false; }
  bool broke_off() const override { return broke_off_; }

  void interim(Transit& transit, const HeadBlock& head) override;
  void response(Transit& transit, const HeadBlock& head, bool ended) override;
  void response_arrived(Transit&) override {}
  void request_taken(Transit&, std::size_t) override {}
  void failed(Transit& transit, std::uint32_t code, const OwnAnswer& answer) override;
  void done(Transit& transit) override { transit.at_back = false; }
  void upstream_leaves(std::uint32_t, std::string_view) override { leave(); }

 private:
  http::Next on_request_head(http::RequestHead head, http::BodyFraming framing) override;
  void on_body(std::span<const std::byte> data) override;
  void on_trailers(http::Fields trailers) override { trailers_ = std::move(trailers); }
  void on_message_complete() override;

  void go_on();
  void begin();
  void answer(const OwnAnswer& answer);
  void give_up();
  void take_content(std::vector<std::byte>& out, std::size_t most);
  void settle();

  const H2Limits limits_;
  const BodyPace::Limits pace_;
  RequestJudge& judge_;
  Back& back_;
  http::H1Parser parser_{http::H1Parser::Kind::request};
  std::vector<std::byte> input_;  // not parsed yet
  std::optional<http::RequestHead> head_;
  bool empty_ = false;  // the request of `head_` has no content
  bool known_length_ = false;
  http::Fields trailers_;
  std::optional<Transit> transit_;
  std::int32_t requests_ = 0;
  std::string out_;  // heads and answers of our own
  bool keeps_alive_ = false;
  bool speaks_1_1_ = false;
  bool chunked_ = false;
  bool over_ = false;     // the response is out
  bool closing_ = false;  // no request follows
  bool broke_off_ = false;
};

}  // namespace weir::proxy
