// nghttp2 behind H2Session. Content is handed to it by reference: it asks for a length, then has the frame's
// header and that many bytes appended to the output, so each byte is copied once on its way out.
#include "proxy/h2_session.h"

#include <algorithm>
#include <array>
#include <utility>

namespace weir::proxy {
namespace {

// A DATA frame and its header fill one TLS record.
constexpr std::size_t kMaxData = 16 * 1024 - 9;
// A block that decodes to more than this many times the limit is an attack, not a large head.
constexpr std::size_t kBombFactor = 16;
constexpr std::uint32_t kDefaultWindow = 65'535;
constexpr std::size_t kUsualFields = 16;
// Of streams that a peer left out; usual ones leave out none.
constexpr std::size_t kMostGaps = 16;

std::span<const std::uint8_t> view(nghttp2_rcbuf* buffer) {
  const auto piece = nghttp2_rcbuf_get_buf(buffer);
  return {piece.base, piece.len};
}

std::string text(std::span<const std::uint8_t> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

std::uint8_t* bytes_of(const std::string& text) {
  return reinterpret_cast<std::uint8_t*>(const_cast<char*>(text.data()));
}

struct OptionsDeleter {
  void operator()(nghttp2_option* option) const { nghttp2_option_del(option); }
};
struct CallbacksDeleter {
  void operator()(nghttp2_session_callbacks* callbacks) const { nghttp2_session_callbacks_del(callbacks); }
};

}  // namespace

struct H2Callbacks {
  static H2Session& self(void* user) { return *static_cast<H2Session*>(user); }

  static int begin_frame(nghttp2_session*, const nghttp2_frame_hd* header, void* user) {
    auto& session = self(user);
    if (header->type == NGHTTP2_HEADERS && session.role_ == H2Session::Role::server)
      session.check_order(header->stream_id);
    return session.count_frame(*header) ? 0 : NGHTTP2_ERR_CALLBACK_FAILURE;
  }

  static int begin_headers(nghttp2_session*, const nghttp2_frame* frame, void* user) {
    self(user).begin_block(frame->hd.stream_id);
    return 0;
  }

  static int header(nghttp2_session*, const nghttp2_frame*, nghttp2_rcbuf* name, nghttp2_rcbuf* value,
                    std::uint8_t flags, void* user) {
    const bool never_indexed = (flags & NGHTTP2_NV_FLAG_NO_INDEX) != 0;
    return self(user).add_field(view(name), view(value), never_indexed) ? 0 : NGHTTP2_ERR_CALLBACK_FAILURE;
  }

  // A malformed field makes the message malformed (RFC 9113, 8.2.1); nghttp2 would leave it out.
  static int invalid_header(nghttp2_session*, const nghttp2_frame*, const std::uint8_t*, std::size_t,
                            const std::uint8_t*, std::size_t, std::uint8_t, void*) {
    return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
  }

  static int frame_received(nghttp2_session*, const nghttp2_frame* frame, void* user) {
    auto& session = self(user);
    const bool ended = (frame->hd.flags & NGHTTP2_FLAG_END_STREAM) != 0;
    switch (frame->hd.type) {
      case NGHTTP2_HEADERS:
        session.in_head_ = false;
        session.handler_.on_block(frame->hd.stream_id, std::exchange(session.block_, {}), ended,
                                  session.block_too_large_);
        break;
      case NGHTTP2_DATA:
        if (ended) session.handler_.on_end(frame->hd.stream_id);
        break;
      case NGHTTP2_SETTINGS:
        if ((frame->hd.flags & NGHTTP2_FLAG_ACK) == 0) session.handler_.on_settings();
        break;
      case NGHTTP2_RST_STREAM:
        session.reset_by_peer_ = frame->hd.stream_id;
        break;
      case NGHTTP2_GOAWAY: {
        const auto& goaway = frame->goaway;
        session.handler_.on_goaway(goaway.error_code, text({goaway.opaque_data, goaway.opaque_data_len}));
        break;
      }
      default:
        break;
    }
    return 0;
  }

  static int content(nghttp2_session*, std::uint8_t, std::int32_t stream, const std::uint8_t* data,
                     std::size_t size, void* user) {
    self(user).handler_.on_content(stream, std::as_bytes(std::span(data, size)));
    return 0;
  }

  static int closed(nghttp2_session*, std::int32_t stream, std::uint32_t code, void* user) {
    self(user).closed(stream, code);
    return 0;
  }

  static int frame_sent(nghttp2_session*, const nghttp2_frame* frame, void* user) {
    auto& session = self(user);
    if (frame->hd.type != NGHTTP2_RST_STREAM) return 0;
    if (session.own_resets_ > 0) {
      --session.own_resets_;
    } else if (!session.spend(H2Session::kReset)) {
      nghttp2_session_terminate_session(session.session_, h2_error::kEnhanceYourCalm);
    }
    return 0;
  }

  // A request that waited for its turn and can't be sent any more has no stream that could be closed.
  static int frame_not_sent(nghttp2_session*, const nghttp2_frame* frame, int, void* user) {
    auto& session = self(user);
    if (frame->hd.type == NGHTTP2_RST_STREAM && session.own_resets_ > 0) --session.own_resets_;
    if (frame->hd.type == NGHTTP2_HEADERS && frame->headers.cat == NGHTTP2_HCAT_REQUEST)
      session.closed(frame->hd.stream_id, h2_error::kRefusedStream);
    return 0;
  }

  static ssize_t read_source(nghttp2_session* session, std::int32_t stream, std::uint8_t*, std::size_t length,
                             std::uint32_t* flags, nghttp2_data_source*, void* user) {
    Content* content = self(user).handler_.outgoing(stream);
    if (content == nullptr) return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
    const std::size_t size = std::min(length, content->size());
    const bool last = content->ended() && size == content->size();
    if (size == 0 && !last) return NGHTTP2_ERR_DEFERRED;
    *flags |= NGHTTP2_DATA_FLAG_NO_COPY;
    if (!last) return static_cast<ssize_t>(size);
    *flags |= NGHTTP2_DATA_FLAG_EOF;
    if (!content->trailers().fields.empty()) {
      *flags |= NGHTTP2_DATA_FLAG_NO_END_STREAM;
      const auto& nv = self(user).to_nv(content->trailers());
      nghttp2_submit_trailer(session, stream, nv.data(), nv.size());
    }
    return static_cast<ssize_t>(size);
  }

  static ssize_t data_length(nghttp2_session*, std::uint8_t, std::int32_t, std::int32_t session_window,
                             std::int32_t stream_window, std::uint32_t max_frame, void*) {
    const auto window = static_cast<std::size_t>(std::max(0, std::min(session_window, stream_window)));
    return static_cast<ssize_t>(std::min({window, std::size_t{max_frame}, kMaxData}));
  }

  static int send_data(nghttp2_session*, nghttp2_frame* frame, const std::uint8_t* header, std::size_t size,
                       nghttp2_data_source*, void* user) {
    auto& session = self(user);
    Content* content = session.handler_.outgoing(frame->hd.stream_id);
    if (content == nullptr) return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
    auto& out = *session.out_;
    const auto head = std::as_bytes(std::span(header, 9));
    const auto data = content->front().first(size);
    out.insert(out.end(), head.begin(), head.end());
    out.insert(out.end(), data.begin(), data.end());
    content->take(size);
    session.handler_.on_sent(frame->hd.stream_id, size);
    return 0;
  }

  static nghttp2_session_callbacks* table() {
    static const std::unique_ptr<nghttp2_session_callbacks, CallbacksDeleter> made = [] {
      nghttp2_session_callbacks* all = nullptr;
      nghttp2_session_callbacks_new(&all);
      nghttp2_session_callbacks_set_on_begin_frame_callback(all, begin_frame);
      nghttp2_session_callbacks_set_on_begin_headers_callback(all, begin_headers);
      nghttp2_session_callbacks_set_on_header_callback2(all, header);
      nghttp2_session_callbacks_set_on_invalid_header_callback(all, invalid_header);
      nghttp2_session_callbacks_set_on_frame_recv_callback(all, frame_received);
      nghttp2_session_callbacks_set_on_data_chunk_recv_callback(all, content);
      nghttp2_session_callbacks_set_on_stream_close_callback(all, closed);
      nghttp2_session_callbacks_set_on_frame_send_callback(all, frame_sent);
      nghttp2_session_callbacks_set_on_frame_not_send_callback(all, frame_not_sent);
      nghttp2_session_callbacks_set_data_source_read_length_callback(all, data_length);
      nghttp2_session_callbacks_set_send_data_callback(all, send_data);
      return std::unique_ptr<nghttp2_session_callbacks, CallbacksDeleter>(all);
    }();
    return made.get();
  }
};

namespace {

nghttp2_data_provider source() {
  nghttp2_data_provider provider{};
  provider.read_callback = H2Callbacks::read_source;
  return provider;
}

}  // namespace

H2Session::H2Session(Role role, const H2Limits& limits, Handler& handler)
    : role_(role),
      limits_(limits),
      head_size_(role == Role::server ? limits.head_size : limits.response_head_size),
      head_fields_(role == Role::server ? limits.head_fields : limits.response_head_fields),
      handler_(handler) {
  nghttp2_option* made = nullptr;
  nghttp2_option_new(&made);
  const std::unique_ptr<nghttp2_option, OptionsDeleter> option(made);
  nghttp2_option_set_no_auto_window_update(made, 1);
  nghttp2_option_set_no_closed_streams(made, 1);
  nghttp2_option_set_max_continuations(made, limits.continuations);
  nghttp2_option_set_max_send_header_block_length(made, std::size_t{2} * limits.response_head_size);
  nghttp2_option_set_max_outbound_ack(made, limits.queued_frames);
  // Ours comes first, and says ENHANCE_YOUR_CALM.
  nghttp2_option_set_stream_reset_rate_limit(made, 2ull * limits.flood_burst, 2ull * limits.flood_rate);
  role == Role::server ? nghttp2_session_server_new2(&session_, H2Callbacks::table(), this, made)
                       : nghttp2_session_client_new2(&session_, H2Callbacks::table(), this, made);
  for (auto& budget : budgets_) budget.left = limits.flood_burst;
}

H2Session::~H2Session() {
  nghttp2_session_del(session_);
}

void H2Session::open(std::uint32_t max_streams, bool connect_protocol) {
  std::vector<nghttp2_settings_entry> settings = {
      {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, limits_.stream_window},
      {NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, head_size_}};
  if (role_ == Role::server) {
    max_streams_ = std::min(max_streams, limits_.streams);
    settings.push_back({NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, max_streams_});
    if (connect_protocol) settings.push_back({NGHTTP2_SETTINGS_ENABLE_CONNECT_PROTOCOL, 1});
  } else {
    settings.push_back({NGHTTP2_SETTINGS_ENABLE_PUSH, 0});
  }
  nghttp2_submit_settings(session_, NGHTTP2_FLAG_NONE, settings.data(), settings.size());
  if (limits_.connection_window > kDefaultWindow) {
    nghttp2_session_set_local_window_size(session_, NGHTTP2_FLAG_NONE, 0,
                                          static_cast<std::int32_t>(limits_.connection_window));
  }
}

void H2Session::limit_streams(std::uint32_t max_streams) {
  const auto limit = std::min(max_streams, limits_.streams);
  if (limit == std::exchange(max_streams_, limit)) return;
  const nghttp2_settings_entry setting{NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, limit};
  nghttp2_submit_settings(session_, NGHTTP2_FLAG_NONE, &setting, 1);
}

bool H2Session::receive(std::span<const std::byte> data, Clock::time_point now) {
  if (failed_) return false;
  now_ = now;
  const auto taken =
      nghttp2_session_mem_recv(session_, reinterpret_cast<const std::uint8_t*>(data.data()), data.size());
  if (taken >= 0) return true;
  failed_ = true;
  std::uint32_t code = h2_error::kInternal;
  if (taken == NGHTTP2_ERR_BAD_CLIENT_MAGIC) code = h2_error::kProtocol;
  if (taken == NGHTTP2_ERR_FLOODED || taken == NGHTTP2_ERR_TOO_MANY_CONTINUATIONS) flooded_ = true;
  if (flooded_) code = h2_error::kEnhanceYourCalm;
  nghttp2_session_terminate_session(session_, code);
  return false;
}

void H2Session::produce(std::vector<std::byte>& out, std::size_t most) {
  out_ = &out;
  while (out.size() < most) {
    const std::uint8_t* data = nullptr;
    const auto size = nghttp2_session_mem_send(session_, &data);
    if (size < 0) failed_ = true;
    if (size <= 0) break;
    const auto bytes = std::as_bytes(std::span(data, static_cast<std::size_t>(size)));
    out.insert(out.end(), bytes.begin(), bytes.end());
  }
  out_ = nullptr;
}

std::int32_t H2Session::request(const HeadBlock& head, bool with_content) {
  const auto& nv = to_nv(head);
  const auto provider = source();
  return nghttp2_submit_request(session_, nullptr, nv.data(), nv.size(), with_content ? &provider : nullptr,
                                nullptr);
}

void H2Session::respond(std::int32_t stream, const HeadBlock& head, bool with_content) {
  const auto& nv = to_nv(head);
  const auto provider = source();
  nghttp2_submit_response(session_, stream, nv.data(), nv.size(), with_content ? &provider : nullptr);
}

void H2Session::interim(std::int32_t stream, const HeadBlock& head) {
  const auto& nv = to_nv(head);
  nghttp2_submit_headers(session_, NGHTTP2_FLAG_NONE, stream, nullptr, nv.data(), nv.size(), nullptr);
}

void H2Session::resume(std::int32_t stream) {
  nghttp2_session_resume_data(session_, stream);
}

void H2Session::reset(std::int32_t stream, std::uint32_t code) {
  if (nghttp2_submit_rst_stream(session_, NGHTTP2_FLAG_NONE, stream, code) == 0) ++own_resets_;
}

void H2Session::consumed(std::int32_t stream, std::size_t size) {
  if (size > 0) nghttp2_session_consume(session_, stream, size);
}

void H2Session::announce_end() {
  nghttp2_submit_shutdown_notice(session_);
}

void H2Session::refuse_streams(std::uint32_t code, std::string_view why) {
  nghttp2_submit_goaway(session_, NGHTTP2_FLAG_NONE, nghttp2_session_get_last_proc_stream_id(session_), code,
                        reinterpret_cast<const std::uint8_t*>(why.data()), why.size());
}

void H2Session::terminate(std::uint32_t code) {
  nghttp2_session_terminate_session(session_, code);
}

bool H2Session::finished() const {
  return (failed_ || nghttp2_session_want_read(session_) == 0) && nghttp2_session_want_write(session_) == 0;
}

bool H2Session::ended_sending(std::int32_t stream) const {
  return nghttp2_session_get_stream_local_close(session_, stream) != 0;
}

bool H2Session::ended_receiving(std::int32_t stream) const {
  return nghttp2_session_get_stream_remote_close(session_, stream) != 0;
}

std::uint32_t H2Session::peer_setting(nghttp2_settings_id id) const {
  return nghttp2_session_get_remote_settings(session_, id);
}

// nghttp2 closes streams above a GOAWAY's last one as refused.
void H2Session::closed(std::int32_t stream, std::uint32_t code) {
  if (block_stream_ == stream) in_head_ = false;
  handler_.on_closed(stream, code, reset_by_peer_ == stream || code == h2_error::kRefusedStream);
}

void H2Session::begin_block(std::int32_t stream) {
  in_head_ = true;
  block_stream_ = stream;
  block_ = {};
  block_.fields.reserve(kUsualFields);
  block_.pseudo.reserve(4);
  block_size_ = block_fields_ = 0;
  block_too_large_ = false;
}

bool H2Session::add_field(std::span<const std::uint8_t> name, std::span<const std::uint8_t> value,
                          bool never_indexed) {
  constexpr std::size_t kOverhead = 32;  // RFC 9113, section 10.5.1
  block_size_ += name.size() + value.size() + kOverhead;
  const bool pseudo = !name.empty() && name[0] == ':';
  if (!pseudo) ++block_fields_;
  if (block_size_ > kBombFactor * head_size_) {
    flooded_ = true;
    return false;
  }
  block_too_large_ = block_too_large_ || block_size_ > head_size_ || block_fields_ > head_fields_;
  if (block_too_large_) return true;
  if (pseudo) {
    block_.pseudo.push_back({text(name), text(value)});
    return true;
  }
  if (never_indexed) block_.never_indexed.push_back(static_cast<std::uint32_t>(block_.fields.size()));
  block_.fields.push_back({text(name), text(value)});
  return true;
}

bool H2Session::spend(Kind kind) {
  Budget& budget = budgets_[kind];
  const std::chrono::duration<double> since = now_ - budget.filled;
  budget.filled = now_;
  budget.left = std::min<double>(limits_.flood_burst, budget.left + since.count() * limits_.flood_rate);
  if (budget.left < 1) {
    flooded_ = true;
    return false;
  }
  budget.left -= 1;
  return true;
}

// RFC 9113, section 5.1.1: streams open in order. nghttp2 ignores one that comes too late, as it can't tell
// it from one that has been closed.
void H2Session::check_order(std::int32_t stream) {
  const auto holds = [stream](const Skipped& gap) { return gap.first <= stream && stream <= gap.last; };
  if (std::ranges::any_of(skipped_, holds)) {
    nghttp2_session_terminate_session(session_, h2_error::kProtocol);
  } else if (stream > last_stream_ && stream % 2 != 0) {
    const std::int32_t next = last_stream_ + 2;
    last_stream_ = stream;
    if (stream > next && skipped_.size() < kMostGaps) skipped_.push_back({next, stream - 2});
  }
}

bool H2Session::count_frame(const nghttp2_frame_hd& header) {
  switch (header.type) {
    case NGHTTP2_DATA:
      return header.length != 0 || (header.flags & NGHTTP2_FLAG_END_STREAM) != 0 || spend(kEmptyData);
    case NGHTTP2_RST_STREAM:
      return spend(kReset);
    case NGHTTP2_PING:
      return spend(kPing);
    case NGHTTP2_SETTINGS:
      return spend(kSettings);
    case NGHTTP2_PRIORITY:
      return spend(kPriority);
    default:
      return true;
  }
}

std::vector<nghttp2_nv>& H2Session::to_nv(const HeadBlock& head) {
  nv_.clear();
  const auto add = [this](const http::Field& field, std::uint8_t flags) {
    nv_.push_back(
        {bytes_of(field.name), bytes_of(field.value), field.name.size(), field.value.size(), flags});
  };
  for (const auto& field : head.pseudo) add(field, NGHTTP2_NV_FLAG_NONE);
  std::size_t next = 0;
  for (std::size_t i = 0; i < head.fields.size(); ++i) {
    const bool never = next < head.never_indexed.size() && head.never_indexed[next] == i;
    if (never) ++next;
    add(head.fields[i], never ? NGHTTP2_NV_FLAG_NO_INDEX : NGHTTP2_NV_FLAG_NONE);
  }
  return nv_;
}

}  // namespace weir::proxy
