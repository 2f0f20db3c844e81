// Takes one direction's messages from the strict parser and writes them out again as they are to be sent on:
// heads serialised, bodies in the framing they came in. What was parsed is what is forwarded.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include "http/h1_parser.h"

namespace weir::proxy {

class MessageSink : public http::H1Handler {
 public:
  void on_body(std::span<const std::byte> data) override;
  void on_trailers(http::Fields trailers) override;
  void on_message_complete() override;

  void append(std::string_view text);
  bool complete() const { return complete_; }
  bool has_body() const { return framing_.framing != http::Framing::none; }
  bool has_known_length() const { return framing_.framing == http::Framing::content_length; }
  std::vector<std::byte> take_output() { return std::exchange(output_, {}); }

 protected:
  void begin(http::BodyFraming framing);

 private:
  http::BodyFraming framing_;
  http::Fields trailers_;
  std::vector<std::byte> output_;
  bool complete_ = true;
};

// Stops the parser at each head, which is the session's to judge and to change before it goes on.
class RequestSink final : public MessageSink {
 public:
  http::Next on_request_head(http::RequestHead head, http::BodyFraming framing) override;

  bool has_head() const { return head_.has_value(); }
  const http::RequestHead& peek_head() const { return *head_; }
  http::RequestHead take_head();

 private:
  std::optional<http::RequestHead> head_;
};

class ResponseSink final : public MessageSink {
 public:
  http::Next on_response_head(http::ResponseHead head, http::BodyFraming framing) override;
  void on_message_complete() override;

  std::uint16_t status() const { return status_; }  // of the final head; 0 before it
  bool answered() const { return answered_; }       // anything of a response came, a 1xx included
  bool finished() const { return status_ != 0 && complete(); }
  bool upgraded() const { return upgraded_; }
  bool keep_alive() const { return keep_alive_; }

 private:
  std::uint16_t status_ = 0;
  bool answered_ = false;
  bool upgraded_ = false;
  bool keep_alive_ = false;
};

}  // namespace weir::proxy
