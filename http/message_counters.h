// Count the messages inside of content that goes on: server-sent events, WebSocket messages, gRPC messages.
// Each reads one direction, however it is cut, keeps no content, and stops counting where it is lost.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "http/bytes.h"

namespace weir::http {

// An event is what a blank line ends and has data, as the HTML standard dispatches it (section 9.2.6).
class SseCounter {
 public:
  void feed(Bytes content);
  void lost();
  std::uint64_t events() const { return events_; }

 private:
  void end_line();

  std::array<char, 5> line_{};  // the current one's beginning
  std::size_t line_size_ = 0;
  bool after_cr_ = false;
  bool has_data_ = false;
  std::uint64_t events_ = 0;
};

// RFC 6455, section 5. Control frames are no messages; payload is counted as it is on the wire, maybe
// compressed (RFC 7692).
class WebSocketCounter {
 public:
  // Returns how many bytes it didn't take: those behind a Close frame, or behind what is no frame.
  std::size_t feed(Bytes data);
  void lost(std::uint64_t length);
  std::uint64_t messages() const { return messages_; }
  std::uint64_t bytes() const { return bytes_; }
  bool closed() const { return closed_; }        // a Close frame came
  bool malformed() const { return malformed_; }  // what came was no frame
  bool counts() const { return !malformed_ && !lost_ && !closed_; }

 private:
  void read_header();
  void take_payload(std::uint64_t length);

  std::array<std::byte, 14> header_{};
  std::size_t gathered_ = 0;
  std::size_t wanted_ = 2;  // of the header
  bool in_payload_ = false;
  std::uint64_t left_ = 0;
  bool in_message_ = false;  // fragments of it came, and the last one didn't
  bool closed_ = false;
  bool malformed_ = false;
  bool lost_ = false;
  std::uint64_t messages_ = 0;
  std::uint64_t bytes_ = 0;
};

// gRPC's Length-Prefixed-Message; the frame of trailers that gRPC-Web sends as content is none.
class GrpcCounter {
 public:
  void feed(Bytes content);
  void lost(std::uint64_t length);
  std::uint64_t messages() const { return messages_; }

 private:
  void take_payload(std::uint64_t length);

  std::array<std::byte, 5> prefix_{};
  std::size_t gathered_ = 0;
  std::uint64_t left_ = 0;
  bool lost_ = false;
  std::uint64_t messages_ = 0;
};

}  // namespace weir::http
