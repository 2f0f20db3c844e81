// Takes one direction's messages from the strict parser and writes them out again as they are to be sent on:
// heads serialised, bodies in the framing they came in. What was parsed is what is forwarded.
#pragma once

#include <cstddef>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include "http/h1_parser.h"

namespace weir::proxy {

class RequestSink : public http::H1Handler {
 public:
  http::Next on_request_head(http::RequestHead head, http::BodyFraming framing) override;
  void on_body(std::span<const std::byte> data) override;
  void on_trailers(http::Fields trailers) override;
  void on_message_complete() override;

  // A head that came and was not taken yet. The next one of a pipeline may come with the end of a body.
  bool has_head() const { return head_.has_value(); }
  const http::RequestHead& peek_head() const { return *head_; }
  http::RequestHead take_head();
  void append(std::string_view text);
  bool complete() const { return complete_; }
  bool has_body() const { return framing_.framing != http::Framing::none; }
  std::vector<std::byte> take_output() { return std::exchange(output_, {}); }

 protected:
  void begin(http::BodyFraming framing);

 private:
  std::optional<http::RequestHead> head_;
  http::BodyFraming head_framing_;  // of head_
  http::BodyFraming framing_;       // of the message under way
  http::Fields trailers_;
  std::vector<std::byte> output_;
  bool complete_ = true;
};

class ResponseSink : public RequestSink {
 public:
  http::Next on_response_head(http::ResponseHead head, http::BodyFraming framing) override;
  void on_message_complete() override;

  void expect_next();  // forgets the last response
  bool answered() const { return answered_; }  // anything of a response came, a 1xx included
  bool has_final_head() const { return final_; }
  bool finished() const { return final_ && complete(); }
  bool upgraded() const { return upgraded_; }
  bool keep_alive() const { return keep_alive_; }

 private:
  bool answered_ = false;
  bool final_ = false;
  bool upgraded_ = false;
  bool keep_alive_ = false;
};

}  // namespace weir::proxy
