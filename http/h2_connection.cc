// The course of each direction: preface, frames, and back to frames where they were lost. An error on a
// direction that is known from its start ends the reading of the connection; on one that was found again it
// means that what was found were no frames.
#include "http/h2_connection.h"

#include <algorithm>
#include <utility>

namespace weir::http {
namespace {

// How much may pass without frames before a connection without a preface is taken for another protocol.
constexpr std::uint64_t kUndecidedBytes = std::uint64_t{1} << 20;
// How often frames may turn out to be none within bytes that came together.
constexpr int kMaxFailures = 16;
// How far streams' numbers may have gone on unseen.
constexpr std::uint32_t kUnseenStreams = 1u << 20;
constexpr std::uint32_t kMaxStream = 0x7fffffff;
constexpr std::uint16_t kMaxFrameSizeSetting = 5;
constexpr std::uint32_t kLargestMaxFrame = 0xffffff;

std::uint32_t number(Bytes bytes) {
  std::uint32_t value = 0;
  for (const auto byte : bytes) value = value << 8 | std::to_integer<std::uint32_t>(byte);
  return value;
}

}  // namespace

void H2Connection::adopt(Exchange upgraded) {
  protocol_ = Protocol::http2;
  from_start_ = true;
  streams_.adopt(std::move(upgraded));
}

std::uint64_t H2Connection::unparsed_bytes(Side side) const {
  const auto& l = lane(side);
  return l.unparsed + l.seeker.discarded() + (side == Side::response ? streams_.dropped_bytes() : 0);
}

bool H2Connection::idle() const {
  const auto quiet = [](const Lane& l) {
    return l.reader.between_frames() && !l.block && l.opening.empty() && l.seeker.empty();
  };
  return streams_.empty() && quiet(lanes_[0]) && quiet(lanes_[1]);
}

FramesSought H2Connection::sought(const Lane& lane) const {
  const auto highest = streams_.highest();
  const auto max_stream = highest == 0 ? kMaxStream : std::min(kMaxStream, highest + kUnseenStreams);
  return {.side = lane.side, .max_length = max_frame_, .max_stream = max_stream};
}

void H2Connection::feed(Side side, Bytes data, Time when) {
  now_ = when;
  lane(side).failures = 0;
  process(lane(side), data);
  decide();
}

void H2Connection::process(Lane& lane, Bytes data) {
  std::string text;  // where `data` lies once it was kept
  while (!data.empty()) {
    if (lane.failures > kMaxFailures) {
      lane.unparsed += data.size();
      return;
    }
    switch (lane.mode) {
      case Mode::start:
        data = read_opening(lane, data, text);
        break;
      case Mode::parsing:
        data = parse(lane, data);
        break;
      case Mode::seeking:
        if (!lane.seeker.feed(data, sought(lane), text)) return;
        data = bytes_of(text);
        lane.mode = Mode::parsing;
        break;
      case Mode::opaque:
        lane.unparsed += data.size();
        return;
    }
  }
}

// A client begins with the preface, a server with its SETTINGS (RFC 9113, section 3.4). Returns what is to be
// read next.
Bytes H2Connection::read_opening(Lane& lane, Bytes data, std::string& text) {
  const bool client = lane.side == Side::request;
  const auto wanted = client ? kH2Preface.size() : FrameHeader::kSize;
  const auto more = data.first(std::min(data.size(), wanted - lane.opening.size()));
  lane.opening += text_of(more);
  const bool possible = !client || kH2Preface.starts_with(lane.opening);
  if (possible && lane.opening.size() < wanted) return {};

  auto opening = std::exchange(lane.opening, {}) + std::string(text_of(data.subspan(more.size())));
  const auto header = client ? FrameHeader{} : parse_frame_header(bytes_of(opening));
  const bool settings = header.is(FrameType::settings) && !header.has(FrameFlag::end_stream) &&
                        is_plausible(header, sought(lane));
  text = std::move(opening);
  if (client ? possible : settings) {
    lane.mode = Mode::parsing;
    if (client) protocol_ = Protocol::http2;
    return bytes_of(text).subspan(client ? kH2Preface.size() : 0);
  }
  if (from_start_) {
    refuse(lane, "bad preface");
    return bytes_of(text);
  }
  lane.loss = "joined_midstream";
  lose_framing(lane);
  return bytes_of(text);
}

Bytes H2Connection::parse(Lane& lane, Bytes data) {
  using Kind = FrameReader::Piece::Kind;
  while (lane.mode == Mode::parsing) {
    if (lane.reader.between_frames()) {
      if (data.empty()) break;
      lane.frame_began = now_;
    }
    const auto piece = lane.reader.take(data);
    if (!piece) {
      refuse(lane, piece.error());
      break;
    }
    if (piece->kind == Kind::none) break;
    const auto result = piece->kind == Kind::begin     ? begin_frame(lane)
                        : piece->kind == Kind::content ? take_content(lane, piece->content)
                                                       : end_frame(lane);
    if (!result) {
      refuse(lane, result.error());
      break;
    }
  }
  return data;
}

H2Connection::Result H2Connection::begin_frame(Lane& lane) {
  const auto& header = lane.reader.header();
  if (!lane.loss.empty() && !is_plausible(header, sought(lane))) return std::unexpected("lost framing");
  if (header.is(FrameType::continuation) != lane.block.has_value() ||
      (lane.block && lane.block->stream != header.stream)) {
    return std::unexpected("header block without its continuation");
  }
  const bool of_client = lane.side == Side::request;
  const bool refused =
      header.is(FrameType::push_promise) || (header.is(FrameType::headers) && header.stream % 2 == 0);
  if (of_client && refused) return std::unexpected("stream that a client can't open");
  if (header.carries_fields() && !lane.block) return begin_block(lane);
  return {};
}

H2Connection::Result H2Connection::begin_block(Lane& lane) {
  const auto& header = lane.reader.header();
  const bool promised = header.is(FrameType::push_promise);
  lane.block.emplace();
  auto& block = *lane.block;
  block.head.loss = lane.loss;
  block.head.last = !promised && header.has(FrameFlag::end_stream);
  block.head.began = lane.frame_began;
  block.stream = header.stream;
  block.promised = promised ? parse_stream_id(lane.reader.fixed()) : 0;
  const bool bad_promise = promised && (block.promised == 0 || block.promised % 2 == 1);
  if (bad_promise) return std::unexpected("promise of a client's stream");
  return {};
}

H2Connection::Result H2Connection::take_content(Lane& lane, Bytes content) {
  const auto& header = lane.reader.header();
  if (header.is(FrameType::data)) streams_.data(lane.side, header.stream, content, now_);
  if (header.is(FrameType::settings)) take_settings(lane, content);
  if (header.carries_fields() &&
      !lane.hpack.decode(content, false, lane.block->head.block, limits_.of(lane.side)))
    return std::unexpected("bad header block");
  return {};
}

// Of the settings only one matters here: how long frames may be.
void H2Connection::take_settings(Lane& lane, Bytes content) {
  for (const auto byte : content) {
    lane.setting[lane.setting_size++] = byte;
    if (lane.setting_size < lane.setting.size()) continue;
    lane.setting_size = 0;
    const auto setting = Bytes(lane.setting);
    if (number(setting.first(2)) != kMaxFrameSizeSetting) continue;
    max_frame_ = std::clamp(number(setting.subspan(2)), max_frame_, kLargestMaxFrame);
  }
}

H2Connection::Result H2Connection::end_frame(Lane& lane) {
  const auto& header = lane.reader.header();
  if (header.carries_fields()) return end_block_part(lane);
  if (header.is(FrameType::settings)) lane.setting_size = 0;
  if (header.is(FrameType::data)) {
    const bool last = header.has(FrameFlag::end_stream);
    const auto wire = lane.reader.frame_bytes();
    if (!streams_.data_ended(lane.side, header.stream, wire, last, now_)) lane.unparsed += wire;
  }
  if (header.is(FrameType::rst_stream))
    streams_.reset(lane.side, header.stream, number(lane.reader.fixed()) == 0, now_);
  if (header.is(FrameType::goaway)) streams_.goaway(lane.side, parse_stream_id(lane.reader.fixed()), now_);
  return {};
}

H2Connection::Result H2Connection::end_block_part(Lane& lane) {
  const auto& header = lane.reader.header();
  lane.block->wire += lane.reader.frame_bytes();
  if (!header.has(FrameFlag::end_headers)) return {};
  auto block = *std::exchange(lane.block, std::nullopt);
  if (!lane.hpack.decode({}, true, block.head.block, limits_.of(lane.side))) {
    lane.unparsed += block.wire;
    return std::unexpected("bad header block");
  }
  const bool taken = block.promised != 0
                         ? streams_.promise(block.promised, std::move(block.head), now_)
                         : streams_.head(lane.side, block.stream, std::move(block.head), block.wire, now_);
  if (!taken) lane.unparsed += block.wire;
  return {};
}

void H2Connection::gap(Side side, std::uint64_t length, Time when) {
  now_ = when;
  auto& l = lane(side);
  const bool at_start = l.mode == Mode::start && l.opening.empty() && length == 0;
  if (l.mode == Mode::opaque || (length == 0 && !at_start)) return;
  if (l.mode == Mode::parsing) {
    const auto& header = l.reader.header();
    const auto content = std::min(length, l.reader.content_left());
    const bool skipped = l.reader.skip(length);
    if (content > 0 && header.is(FrameType::data)) streams_.missing_data(side, header.stream, content);
    if (skipped) {
      parse(l, {});
      return;
    }
  }
  l.loss = at_start ? "joined_midstream" : "gap";
  lose_framing(l);
  if (!at_start) streams_.lost(side);
}

// What was begun and isn't complete is lost.
void H2Connection::lose_framing(Lane& lane) {
  close(lane);
  lane.hpack = HpackDecoder::joined();
  lane.mode = Mode::seeking;
}

void H2Connection::refuse(Lane& lane, std::string_view error) {
  if (lane.loss.empty()) {
    close_all();
    return streams_.fail(error, now_);
  }
  ++lane.failures;
  lose_framing(lane);
  streams_.lost(lane.side);
}

void H2Connection::close(Lane& lane) {
  const auto& header = lane.reader.header();
  const bool of_exchange = lane.reader.taken() >= FrameHeader::kSize && header.is(FrameType::data) &&
                           streams_.takes_data(lane.side, header.stream);
  if (!of_exchange) lane.unparsed += lane.reader.taken();
  lane.unparsed += lane.opening.size();
  if (lane.block) lane.unparsed += lane.block->wire;
  lane.opening.clear();
  lane.reader.reset();
  lane.block.reset();
  lane.setting_size = 0;
  lane.seeker.clear();
  lane.mode = Mode::opaque;
}

void H2Connection::close_all() {
  for (auto& one : lanes_) close(one);
}

void H2Connection::end(Side side, Time when) {
  now_ = when;
  if (lane(side).mode == Mode::opaque) return;
  close(lane(side));
  streams_.ended(side, now_);
}

void H2Connection::finish(Time when) {
  now_ = when;
  const bool saw_bytes = unparsed_bytes(Side::request) > 0 || !lane(Side::request).opening.empty();
  close_all();
  streams_.finish(now_);
  if (protocol_ == Protocol::undecided && saw_bytes) protocol_ = Protocol::other;
}

// Without a preface frames decide, on either side, once the client's isn't at its start.
void H2Connection::decide() {
  if (protocol_ != Protocol::undecided || lane(Side::request).mode == Mode::start) return;
  if (std::ranges::any_of(lanes_, [](const Lane& l) { return l.mode == Mode::parsing; })) {
    protocol_ = Protocol::http2;
  } else if (unparsed_bytes(Side::request) + unparsed_bytes(Side::response) > kUndecidedBytes) {
    close_all();
    protocol_ = Protocol::other;
  }
}

}  // namespace weir::http
