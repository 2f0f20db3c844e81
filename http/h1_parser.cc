// The parser's course through a message: start line, fields, content, trailers. Content passes by reference
// and is never copied; all else goes through LineReader and FieldSection.
#include "http/h1_parser.h"

#include <algorithm>
#include <charconv>
#include <utility>
#include <vector>

#include "http/h1_head.h"
#include "http/h1_lines.h"

namespace weir::http {
namespace {

// Digits of a chunk's size: as many as 64 bits need.
constexpr std::size_t kChunkDigits = 16;
constexpr std::size_t kLineEnd = 2;

ParseError malformed(std::string what) {
  return {ParseError::Kind::malformed, std::move(what), 0};
}

// RFC 9112, section 7.1. Whitespace after the size is refused: readers differ on it.
std::expected<std::uint64_t, ParseError> parse_chunk_size(std::string_view line) {
  const auto digits = line.substr(0, line.find(';'));
  std::uint64_t size = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), size, 16);
  const bool whole = error == std::errc() && end == digits.data() + digits.size();
  if (!whole || digits.size() > kChunkDigits) return std::unexpected(malformed("bad chunk size"));
  return size;
}

}  // namespace

// Overriders keep the head, so it comes by value. NOLINTBEGIN(performance-unnecessary-value-param)
Next H1Handler::on_request_head(RequestHead, BodyFraming) {
  return Next::proceed;
}
Next H1Handler::on_response_head(ResponseHead, BodyFraming) {
  return Next::proceed;
}
// NOLINTEND(performance-unnecessary-value-param)

struct H1Parser::State {
  enum class Phase : std::uint8_t {
    idle,
    start_line,
    fields,
    length_body,
    until_close,
    chunk_size,
    chunk_data,
    chunk_end,
    trailers,
    complete,  // the handler hasn't been told yet
    upgraded,
    failed,
  };
  struct Step {
    std::size_t used = 0;
    Next next = Next::proceed;
  };
  using Stepped = std::expected<Step, ParseError>;

  State(Kind k, H1Limits l) : kind(k), limits(l) {}

  Stepped step(std::span<const std::byte> data, H1Handler& handler);
  std::expected<std::size_t, ParseError> take_line(std::span<const std::byte> data, std::size_t limit,
                                                   std::string_view what);
  Stepped begin(std::span<const std::byte> data);
  Stepped read_start_line(std::span<const std::byte> data);
  Stepped read_fields(std::span<const std::byte> data, H1Handler& handler);
  Stepped read_content(std::span<const std::byte> data, H1Handler& handler);
  Stepped read_chunk_size(std::span<const std::byte> data);
  Stepped read_chunk_end(std::span<const std::byte> data);
  Stepped read_trailer(std::span<const std::byte> data, H1Handler& handler);

  std::expected<Next, ParseError> finish_head(H1Handler& handler);
  std::expected<Next, ParseError> finish_request_head(H1Handler& handler);
  std::expected<Next, ParseError> finish_response_head(H1Handler& handler);
  void enter_body(BodyFraming framing);
  void consume_content(std::uint64_t length);
  void complete(H1Handler& handler);
  ParseError fail(ParseError e);

  Kind kind;
  H1Limits limits;
  Phase phase = Phase::idle;
  bool stop_between_messages = false;
  struct Expected {
    Answers answers = Answers::ordinary;
    bool may_upgrade = true;
  };
  std::vector<Expected> expected;  // the next first; seldom more than one

  LineReader line;
  FieldSection section;
  std::size_t line_taken = 0;     // by the step under way
  std::size_t section_bytes = 0;  // of the head, or of the trailers
  bool blank_line = false;        // before a request line
  RequestHead request;
  ResponseHead response;
  bool head_refused = false;    // and what was read of it is kept
  bool upgrades = false;        // this response is the connection's last HTTP/1 message
  std::uint64_t remaining = 0;  // content bytes of the body or chunk
  std::uint64_t body_bytes = 0;
  ParseError error;
};

H1Parser::State::Stepped H1Parser::State::step(std::span<const std::byte> data, H1Handler& handler) {
  switch (phase) {
    case Phase::idle:
      return begin(data);
    case Phase::start_line:
      return read_start_line(data);
    case Phase::fields:
      return read_fields(data, handler);
    case Phase::length_body:
    case Phase::until_close:
    case Phase::chunk_data:
      return read_content(data, handler);
    case Phase::chunk_size:
      return read_chunk_size(data);
    case Phase::chunk_end:
      return read_chunk_end(data);
    case Phase::trailers:
      return read_trailer(data, handler);
    case Phase::complete:
    case Phase::upgraded:
    case Phase::failed:
      break;
  }
  return Step{};
}

std::expected<std::size_t, ParseError> H1Parser::State::take_line(std::span<const std::byte> data,
                                                                  std::size_t limit, std::string_view what) {
  auto used = line.feed(data, limit, what);
  line_taken = used ? *used : used.error().at;
  return used;
}

H1Parser::State::Stepped H1Parser::State::begin(std::span<const std::byte>) {
  if (kind == Kind::response && expected.empty())
    return std::unexpected(malformed("response without a request"));
  phase = Phase::start_line;
  body_bytes = 0;
  return Step{};
}

H1Parser::State::Stepped H1Parser::State::read_start_line(std::span<const std::byte> data) {
  const auto used = take_line(data, std::min(limits.start_line, limits.head), "start line");
  if (!used) return std::unexpected(used.error());
  if (!line.complete()) return Step{*used};

  // RFC 9112, section 2.2: one empty line before a request is ignored.
  if (line.line().empty() && kind == Kind::request && !blank_line) {
    blank_line = true;
    line.clear();
    phase = Phase::idle;
    return Step{*used};
  }
  if (kind == Kind::request) {
    auto head = parse_request_line(line.line());
    if (!head) return std::unexpected(head.error());
    request = std::move(*head);
  } else {
    auto head = parse_status_line(line.line());
    if (!head) return std::unexpected(head.error());
    response = std::move(*head);
  }
  section_bytes = line.raw().size();
  line.clear();
  section.begin();
  phase = Phase::fields;
  return Step{*used};
}

// As many lines as there are.
H1Parser::State::Stepped H1Parser::State::read_fields(std::span<const std::byte> data, H1Handler& handler) {
  std::size_t done = 0;
  while (true) {
    const auto used = take_line(data.subspan(done), limits.head - section_bytes, "header section");
    line_taken += done;
    if (!used) return std::unexpected(used.error());
    done += *used;
    if (!line.complete()) return Step{done};

    if (auto refused = section.add(line, limits.fields)) return std::unexpected(*refused);
    section_bytes += line.raw().size();
    const bool last = line.line().empty();
    line.clear();
    if (last) break;
    if (done == data.size()) return Step{done};
  }
  const auto next = finish_head(handler);
  if (!next) return std::unexpected(next.error());
  return Step{done, *next};
}

std::expected<Next, ParseError> H1Parser::State::finish_head(H1Handler& handler) {
  blank_line = false;
  return kind == Kind::request ? finish_request_head(handler) : finish_response_head(handler);
}

std::expected<Next, ParseError> H1Parser::State::finish_request_head(H1Handler& handler) {
  request.fields = section.take();
  const auto framing = request_framing(request);
  if (!framing) return std::unexpected(framing.error());
  enter_body(*framing);
  return handler.on_request_head(std::move(request), *framing);
}

std::expected<Next, ParseError> H1Parser::State::finish_response_head(H1Handler& handler) {
  response.fields = section.take();
  const auto [answers, may_upgrade] = expected.front();
  if (response.status == 101 && !may_upgrade) return std::unexpected(malformed("101 without an upgrade"));
  const auto framing = response_framing(response, answers);
  if (!framing) return std::unexpected(framing.error());
  upgrades = switches_protocol(response, answers);
  if (response.status >= 200 || upgrades) expected.erase(expected.begin());
  enter_body(*framing);
  return handler.on_response_head(std::move(response), *framing);
}

void H1Parser::State::enter_body(BodyFraming framing) {
  remaining = framing.content_length;
  switch (framing.framing) {
    case Framing::none:
      phase = Phase::complete;
      break;
    case Framing::content_length:
      phase = remaining == 0 ? Phase::complete : Phase::length_body;
      break;
    case Framing::chunked:
      phase = Phase::chunk_size;
      break;
    case Framing::until_close:
      phase = Phase::until_close;
      break;
  }
}

H1Parser::State::Stepped H1Parser::State::read_content(std::span<const std::byte> data, H1Handler& handler) {
  const auto length =
      phase == Phase::until_close ? data.size() : std::min<std::uint64_t>(remaining, data.size());
  handler.on_body(data.first(length));
  consume_content(length);
  return Step{length};
}

void H1Parser::State::consume_content(std::uint64_t length) {
  body_bytes += length;
  if (phase == Phase::until_close) return;
  remaining -= length;
  if (remaining > 0) return;
  phase = phase == Phase::length_body ? Phase::complete : Phase::chunk_end;
}

H1Parser::State::Stepped H1Parser::State::read_chunk_size(std::span<const std::byte> data) {
  const auto used = take_line(data, kChunkDigits + limits.chunk_extensions + kLineEnd, "chunk size line");
  if (!used) return std::unexpected(used.error());
  body_bytes += *used;
  if (!line.complete()) return Step{*used};

  const auto size = parse_chunk_size(line.line());
  if (!size) return std::unexpected(size.error());
  line.clear();
  remaining = *size;
  phase = remaining > 0 ? Phase::chunk_data : Phase::trailers;
  section_bytes = 0;
  if (phase == Phase::trailers) section.begin();
  return Step{*used};
}

H1Parser::State::Stepped H1Parser::State::read_chunk_end(std::span<const std::byte> data) {
  const auto used = take_line(data, kLineEnd, "chunk end");
  if (!used || (line.complete() && !line.line().empty())) {
    return std::unexpected(malformed("chunk does not end where its size says"));
  }
  body_bytes += *used;
  if (!line.complete()) return Step{*used};
  line.clear();
  phase = Phase::chunk_size;
  return Step{*used};
}

H1Parser::State::Stepped H1Parser::State::read_trailer(std::span<const std::byte> data, H1Handler& handler) {
  const auto used = take_line(data, limits.trailers - section_bytes, "trailer section");
  if (!used) return std::unexpected(used.error());
  body_bytes += *used;
  if (!line.complete()) return Step{*used};

  if (auto refused = section.add(line, limits.fields)) return std::unexpected(*refused);
  section_bytes += line.raw().size();
  const bool last = line.line().empty();
  line.clear();
  if (!last) return Step{*used};
  phase = Phase::complete;
  if (auto trailers = section.take(); !trailers.empty()) handler.on_trailers(std::move(trailers));
  return Step{*used};
}

void H1Parser::State::complete(H1Handler& handler) {
  phase = upgrades ? Phase::upgraded : Phase::idle;
  handler.on_message_complete();
}

ParseError H1Parser::State::fail(ParseError e) {
  if (phase == Phase::fields) {
    head_refused = true;
    auto& fields = kind == Kind::request ? request.fields : response.fields;
    if (fields.empty()) fields = section.take();
  }
  phase = Phase::failed;
  error = e;
  error.at = 0;  // for whoever feeds on regardless
  return e;
}

H1Parser::H1Parser(Kind kind, H1Limits limits) : state_(std::make_unique<State>(kind, limits)) {}
H1Parser::~H1Parser() = default;
H1Parser::H1Parser(H1Parser&&) noexcept = default;
H1Parser& H1Parser::operator=(H1Parser&&) noexcept = default;

void H1Parser::expect_response_to(std::string_view method, bool may_upgrade) {
  state_->expected.push_back({answers_for(method), may_upgrade});
}

void H1Parser::stop_between_messages(bool stop) {
  state_->stop_between_messages = stop;
}

std::expected<std::size_t, ParseError> H1Parser::feed(std::span<const std::byte> data, H1Handler& handler) {
  using Phase = State::Phase;
  auto& s = *state_;
  if (s.phase == Phase::failed) return std::unexpected(s.error);
  std::size_t used = 0;
  while (true) {
    if (s.phase == Phase::complete) {
      s.complete(handler);
      if (s.stop_between_messages) return used;
    }
    if (used == data.size() || s.phase == Phase::upgraded) return used;
    s.line_taken = 0;
    auto step = s.step(data.subspan(used), handler);
    if (!step) {
      step.error().at = used + s.line_taken;
      return std::unexpected(s.fail(std::move(step.error())));
    }
    used += step->used;
    const bool between = s.phase == Phase::idle && s.stop_between_messages;  // after an empty line
    if (step->next == Next::pause || between) return used;
  }
}

std::expected<void, ParseError> H1Parser::finish(H1Handler& handler) {
  using Phase = State::Phase;
  auto& s = *state_;
  if (s.phase == Phase::failed) return std::unexpected(s.error);
  if (s.phase == Phase::until_close) s.phase = Phase::complete;
  if (s.phase == Phase::complete) s.complete(handler);
  if (s.phase == Phase::upgraded || idle()) return {};
  return std::unexpected(s.fail(malformed("connection closed in the middle of a message")));
}

bool H1Parser::skip(std::uint64_t length, H1Handler& handler) {
  using Phase = State::Phase;
  auto& s = *state_;
  if (s.phase == Phase::failed) return false;
  if (length == 0) return true;
  const bool counted = s.phase == Phase::length_body || s.phase == Phase::chunk_data;
  if (s.phase != Phase::until_close && !(counted && length <= s.remaining)) return false;
  s.consume_content(length);
  if (s.phase == Phase::complete) s.complete(handler);
  return true;
}

std::optional<RequestHead> H1Parser::take_refused_request() {
  if (state_->kind != Kind::request || !std::exchange(state_->head_refused, false)) return std::nullopt;
  return std::move(state_->request);
}

std::optional<ResponseHead> H1Parser::take_refused_response() {
  if (state_->kind != Kind::response || !std::exchange(state_->head_refused, false)) return std::nullopt;
  return std::move(state_->response);
}

bool H1Parser::upgraded() const {
  return state_->phase == State::Phase::upgraded;
}

bool H1Parser::idle() const {
  return state_->phase == State::Phase::idle;
}

std::uint64_t H1Parser::body_wire_bytes() const {
  return state_->body_bytes;
}

void H1Parser::reset() {
  auto fresh = std::make_unique<State>(state_->kind, state_->limits);
  fresh->stop_between_messages = state_->stop_between_messages;
  state_ = std::move(fresh);
}

}  // namespace weir::http
