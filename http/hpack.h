// Header blocks: HPACK (RFC 7541) undone by nghttp2, and what HTTP/2 makes of the fields (RFC 9113, section
// 8.3). A decoder follows one direction of a connection, and must be given all of its header blocks in order.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>

#include "http/bytes.h"
#include "http/h1_parser.h"
#include "http/message.h"

struct nghttp2_hd_inflater;

namespace weir::http {

// Pseudo-header fields are "" where there was none; an empty one is malformed anyway.
struct HeaderBlock {
  std::string method;
  std::string scheme;
  std::string authority;
  std::string path;
  std::string protocol;
  std::string status;
  Fields fields;
  std::size_t size = 0;     // names and values, kept or not
  std::size_t unknown = 0;  // fields that refer to what was said before the decoder joined
  bool pseudo = false;      // has any pseudo-header field
  std::string error;        // "": none; the first that was found
  bool too_large = false;   // that is the error
};

// The request's :path (of a CONNECT that isn't extended: its :authority) is the target; :authority becomes
// the first field, "host", if there is none.
RequestHead request_head(HeaderBlock block);
// The status is 0 if unknown.
ResponseHead response_head(HeaderBlock block);
// What is wrong with it, "" if nothing.
std::string request_error(const HeaderBlock& block);
std::string response_error(const HeaderBlock& block);

class HpackDecoder {
 public:
  HpackDecoder();
  ~HpackDecoder();
  HpackDecoder(HpackDecoder&&) noexcept;
  HpackDecoder& operator=(HpackDecoder&&) noexcept;

  // A decoder that missed what came before. Indices count from the newest entry, so what is added from here
  // on resolves exactly; older entries resolve to an unknown field.
  static HpackDecoder joined();

  // Decodes the next part of a block; `last`: the block ends with it. Fields beyond the limits are left out,
  // and the block says so. False: the block can't be decoded, nor any after it.
  bool decode(Bytes fragment, bool last, HeaderBlock& block, const H1Limits& limits);

 private:
  struct Free {
    void operator()(nghttp2_hd_inflater* inflater) const;
  };
  bool start();

  std::unique_ptr<nghttp2_hd_inflater, Free> inflater_;  // made when it is needed
  bool joined_ = false;
};

}  // namespace weir::http
