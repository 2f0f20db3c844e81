#include "exact_peers.h"

#include <cstring>

namespace weir::proxy::test {
namespace {

using std::string;

string lower(string text) {
  for (char& c : text)
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c + 32);
  return text;
}

string value_of(const Pairs& fields, const string& name) {
  for (const auto& [key, value] : fields)
    if (lower(key) == name) return value;
  return "";
}

string lines_of(const Pairs& fields) {
  string text;
  for (const auto& [name, value] : fields) text += name + ": " + value + "\r\n";
  return text + "\r\n";
}

string in_chunks(Dice& dice, const string& content) {
  string text;
  for (std::size_t at = 0; at < content.size();) {
    const auto size = dice.chance(4) ? dice.piece(content.size() - at) : content.size() - at;
    char length[20];
    std::snprintf(length, sizeof length, dice.chance(2) ? "%zx\r\n" : "%04zX\r\n", size);
    text += length;
    text.append(content, at, size);
    text += "\r\n";
    at += size;
  }
  return text + "0\r\n";
}

bool hear_fields(Wire& wire, Pairs& fields) {
  for (;;) {
    const string line = wire.read_until("\r\n");
    if (line == "\r\n") return true;
    const auto colon = line.find(": ");
    if (!line.ends_with("\r\n") || colon == string::npos) return false;
    fields.emplace_back(line.substr(0, colon), line.substr(colon + 2, line.size() - colon - 4));
  }
}

bool hear_chunks(Wire& wire, string& content) {
  for (;;) {
    const string line = wire.read_until("\r\n");
    std::size_t size = 0;
    if (std::sscanf(line.c_str(), "%zx\r\n", &size) != 1) return false;
    if (size == 0) return true;
    const string chunk = wire.read_exactly(size + 2);
    if (!chunk.ends_with("\r\n") || chunk.size() != size + 2) return false;
    content.append(chunk, 0, size);
  }
}

bool hear_start(Wire& wire, bool is_request, Spoken& message) {
  const string line = wire.read_until("\r\n");
  const auto last = line.rfind(" HTTP/1.1\r\n");
  if (is_request) {
    if (last != string::npos) message.start = line.substr(0, last);
    return last != string::npos;
  }
  if (!line.starts_with("HTTP/1.1 ") || line.size() < 15) return false;
  message.start = line.substr(9, 3);
  message.reason = line.substr(13, line.size() - 15);
  return true;
}

}  // namespace

void speak_text(Wire& wire, Dice& dice, const Spoken& message, bool is_request) {
  string text = is_request ? message.start + " HTTP/1.1\r\n"
                           : "HTTP/1.1 " + message.start + " " + message.reason + "\r\n";
  text += lines_of(message.fields);
  const bool chunked = !value_of(message.fields, "transfer-encoding").empty();
  if (chunked) text += in_chunks(dice, message.content) + lines_of(message.trailers);
  if (!chunked) text += message.content;
  for (std::size_t at = 0; at < text.size();) {
    const auto size =
        dice.chance(8) ? dice.piece(text.size() - at) : std::min<std::size_t>(text.size() - at, 1 << 20);
    wire.write(text.substr(at, size));
    at += size;
  }
  wire.sent.clear();
}

std::optional<Spoken> hear_text(Wire& wire, bool is_request, bool has_content) {
  Spoken message;
  wire.received.clear();
  if (!hear_start(wire, is_request, message) || !hear_fields(wire, message.fields)) return std::nullopt;
  const string length = value_of(message.fields, "content-length");
  const bool chunked = !value_of(message.fields, "transfer-encoding").empty();
  message.empty = !has_content || (length.empty() && !chunked);
  if (message.empty) return message;
  if (chunked) {
    const bool whole = hear_chunks(wire, message.content) && hear_fields(wire, message.trailers);
    return whole ? std::optional(message) : std::nullopt;
  }
  message.content = wire.read_exactly(std::stoul(length));
  wire.received.clear();
  return message;
}

namespace {

std::vector<nghttp2_nv> to_nv(const Pairs& fields) {
  std::vector<nghttp2_nv> all;
  const auto bytes = [](const string& text) {
    return reinterpret_cast<std::uint8_t*>(const_cast<char*>(text.data()));
  };
  for (const auto& [name, value] : fields)
    all.push_back({bytes(name), bytes(value), name.size(), value.size(), NGHTTP2_NV_FLAG_NONE});
  return all;
}

// The pseudo-header fields of what is to be sent.
Pairs head_of(const Spoken& message, bool is_request) {
  Pairs all = {{":status", message.start}};
  const auto space = message.start.find(' ');
  if (is_request)
    all = {{":method", message.start.substr(0, space)},
           {":scheme", "https"},
           {":authority", "origin.test"},
           {":path", message.start.substr(space + 1)}};
  all.insert(all.end(), message.fields.begin(), message.fields.end());
  return all;
}

}  // namespace

struct FrameCallbacks {
  static FramePeer& self(void* user) { return *static_cast<FramePeer*>(user); }

  static int begin_headers(nghttp2_session*, const nghttp2_frame* frame, void* user) {
    auto& stream = self(user).stream(frame->hd.stream_id);
    stream.in_trailers = stream.head_came;
    stream.head_came = true;
    return 0;
  }
  static int header(nghttp2_session*, const nghttp2_frame* frame, const std::uint8_t* name,
                    std::size_t name_size, const std::uint8_t* value, std::size_t value_size, std::uint8_t,
                    void* user) {
    auto& stream = self(user).stream(frame->hd.stream_id);
    const string key(reinterpret_cast<const char*>(name), name_size);
    const string text(reinterpret_cast<const char*>(value), value_size);
    if (key == ":method") stream.in.start = text + stream.in.start;
    if (key == ":path") stream.in.start += " " + text;
    if (key == ":status") stream.in.start = text;
    if (key[0] == ':') return 0;
    (stream.in_trailers ? stream.in.trailers : stream.in.fields).emplace_back(key, text);
    return 0;
  }
  static int content(nghttp2_session*, std::uint8_t, std::int32_t id, const std::uint8_t* data,
                     std::size_t size, void* user) {
    self(user).stream(id).in.content.append(reinterpret_cast<const char*>(data), size);
    return 0;
  }
  static int received(nghttp2_session*, const nghttp2_frame* frame, void* user) {
    if ((frame->hd.flags & NGHTTP2_FLAG_END_STREAM) == 0) return 0;
    if (frame->hd.type != NGHTTP2_HEADERS && frame->hd.type != NGHTTP2_DATA) return 0;
    auto& peer = self(user);
    auto& stream = peer.stream(frame->hd.stream_id);
    stream.complete = true;
    stream.in.empty = frame->hd.type == NGHTTP2_HEADERS && !stream.in_trailers;
    if (!peer.answer_) return 0;
    stream.out = peer.answer_(stream.in);
    peer.begin(stream);
    return 0;
  }
  static int closed(nghttp2_session*, std::int32_t id, std::uint32_t, void* user) {
    auto& peer = self(user);
    auto& stream = peer.stream(id);
    if (stream.asked != nullptr && stream.complete) stream.asked->answer = std::move(stream.in);
    std::erase_if(peer.streams_, [id](const auto& one) { return one.id == id; });
    return 0;
  }
  static ssize_t read(nghttp2_session* session, std::int32_t id, std::uint8_t* to, std::size_t most,
                      std::uint32_t* flags, nghttp2_data_source*, void* user) {
    auto& peer = self(user);
    auto& stream = peer.stream(id);
    const std::size_t left = stream.out->content.size() - stream.sent;
    const auto size = std::min(peer.dice_.chance(4) ? peer.dice_.piece(left) : left, most);
    std::memcpy(to, stream.out->content.data() + stream.sent, size);
    stream.sent += size;
    const bool last = size == left && (size == 0 || peer.dice_.chance(2));
    if (!last) return static_cast<ssize_t>(size);
    *flags |= NGHTTP2_DATA_FLAG_EOF;
    if (stream.out->trailers.empty()) return static_cast<ssize_t>(size);
    *flags |= NGHTTP2_DATA_FLAG_NO_END_STREAM;
    const auto trailers = to_nv(stream.out->trailers);
    nghttp2_submit_trailer(session, id, trailers.data(), trailers.size());
    return static_cast<ssize_t>(size);
  }
  static ssize_t pad(nghttp2_session*, const nghttp2_frame* frame, std::size_t most, void* user) {
    const auto size = frame->hd.length;
    return static_cast<ssize_t>(self(user).dice_.chance(8) ? std::min(most, size + 7) : size);
  }
};

FramePeer::FramePeer(Wire& wire, Dice& dice, Answer answer)
    : wire_(wire), dice_(dice), answer_(std::move(answer)) {
  nghttp2_session_callbacks* all = nullptr;
  nghttp2_session_callbacks_new(&all);
  nghttp2_session_callbacks_set_on_begin_headers_callback(all, FrameCallbacks::begin_headers);
  nghttp2_session_callbacks_set_on_header_callback(all, FrameCallbacks::header);
  nghttp2_session_callbacks_set_on_data_chunk_recv_callback(all, FrameCallbacks::content);
  nghttp2_session_callbacks_set_on_frame_recv_callback(all, FrameCallbacks::received);
  nghttp2_session_callbacks_set_on_stream_close_callback(all, FrameCallbacks::closed);
  nghttp2_session_callbacks_set_select_padding_callback(all, FrameCallbacks::pad);
  answer_ ? nghttp2_session_server_new(&session_, all, this)
          : nghttp2_session_client_new(&session_, all, this);
  nghttp2_session_callbacks_del(all);
  const std::uint32_t windows[] = {16'384, 65'535, 1 << 20};
  const nghttp2_settings_entry window{NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, windows[dice.below(3)]};
  nghttp2_submit_settings(session_, NGHTTP2_FLAG_NONE, &window, 1);
}

FramePeer::~FramePeer() {
  nghttp2_session_del(session_);
}

FramePeer::Stream& FramePeer::stream(std::int32_t id) {
  for (auto& one : streams_)
    if (one.id == id) return one;
  Stream& made = streams_.emplace_back();
  made.id = id;
  return made;
}

void FramePeer::begin(Stream& stream) {
  const auto head = head_of(*stream.out, false);
  const auto nv = to_nv(head);
  nghttp2_data_provider source{{}, FrameCallbacks::read};
  nghttp2_submit_response(session_, stream.id, nv.data(), nv.size(), stream.out->empty ? nullptr : &source);
}

bool FramePeer::ask(std::vector<Asked>& all) {
  for (auto& one : all) {
    const auto head = head_of(*one.request, true);
    const auto nv = to_nv(head);
    nghttp2_data_provider source{{}, FrameCallbacks::read};
    const auto id = nghttp2_submit_request(session_, nullptr, nv.data(), nv.size(),
                                           one.request->empty ? nullptr : &source, nullptr);
    Stream& made = stream(id);
    made.out = one.request;
    made.asked = &one;
  }
  return move([this] { return streams_.empty(); }) &&
         std::ranges::all_of(all, [](const Asked& one) { return one.answer.has_value(); });
}

void FramePeer::serve() {
  move([] { return false; });
}

bool FramePeer::move(const std::function<bool()>& done) {
  for (;;) {
    string out;
    const std::uint8_t* data = nullptr;
    for (ssize_t size = 0; out.size() < 1 << 16 && (size = nghttp2_session_mem_send(session_, &data)) > 0;)
      out.append(reinterpret_cast<const char*>(data), static_cast<std::size_t>(size));
    wire_.write(out);
    wire_.sent.clear();
    if (done()) return true;
    // There may be more to send than was sent at once; the peer's windows come in between.
    if (out.size() >= 1 << 16 && SSL_has_pending(wire_.ssl()) == 0) continue;
    const string got = wire_.read_some();
    wire_.received.clear();
    if (got.empty()) return false;
    if (nghttp2_session_mem_recv(session_, reinterpret_cast<const std::uint8_t*>(got.data()), got.size()) < 0)
      return false;
  }
}

}  // namespace weir::proxy::test
