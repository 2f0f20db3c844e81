// A client and an origin over sockets and TLS that say exactly what they are told, and tell exactly what they
// got. HTTP/1 by hand, so that nothing of it is read as the proxy reads it; HTTP/2 by nghttp2, which keeps to
// its windows.
#pragma once

#include <functional>
#include <list>

#include "dice.h"
#include "harness.h"

namespace weir::proxy::test {

// One message, whichever protocol it is in.
struct Spoken {
  std::string start;   // "POST /path", "200"
  std::string reason;  // HTTP/1's
  Pairs fields;        // those that frame it, too
  std::string content;
  Pairs trailers;
  bool empty = false;  // there is no content, not even of no bytes
};

// HTTP/1: all of it, in random pieces.
void speak_text(Wire& wire, Dice& dice, const Spoken& message, bool is_request);
// Nothing at the connection's end, or when it is no message. `has_content`: what the field section says
// holds.
std::optional<Spoken> hear_text(Wire& wire, bool is_request, bool has_content = true);

// HTTP/2. As a client: all requests at once, each a stream; false when an answer is missing. As a server:
// until the client leaves.
struct Asked {
  const Spoken* request;
  std::optional<Spoken> answer{};
};
class FramePeer {
 public:
  using Answer = std::function<const Spoken*(const Spoken& request)>;

  FramePeer(Wire& wire, Dice& dice, Answer answer = nullptr);
  ~FramePeer();
  FramePeer(const FramePeer&) = delete;
  FramePeer& operator=(const FramePeer&) = delete;

  bool ask(std::vector<Asked>& all);
  void serve();

 private:
  struct Stream {
    std::int32_t id = 0;
    const Spoken* out = nullptr;
    std::size_t sent = 0;
    Spoken in;
    bool head_came = false;
    bool in_trailers = false;
    bool complete = false;
    Asked* asked = nullptr;
  };
  friend struct FrameCallbacks;

  bool move(const std::function<bool()>& done);
  Stream& stream(std::int32_t id);
  void begin(Stream& stream);

  Wire& wire_;
  Dice& dice_;
  Answer answer_;
  nghttp2_session* session_ = nullptr;
  std::list<Stream> streams_;
};

}  // namespace weir::proxy::test
