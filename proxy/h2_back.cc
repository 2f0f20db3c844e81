#include "proxy/h2_back.h"

#include <utility>
#include <vector>

#include "proxy/h2_rules.h"

namespace weir::proxy {

bool H2Back::receive(std::span<const std::byte> data, H2Session::Clock::time_point now) {
  return session_.receive(data, now);
}

Transit* H2Back::find(std::int32_t stream) const {
  const auto found = transits_.find(stream);
  return found == transits_.end() ? nullptr : found->second;
}

void H2Back::start(Transit& transit, HeadBlock head, bool ended) {
  const auto stream = over_ ? -1 : session_.request(head, !ended);
  if (stream < 0) return front_->failed(transit, h2_error::kRefusedStream, {});
  transit.upstream_stream = stream;
  transits_.emplace(stream, &transit);
}

void H2Back::request_arrived(Transit& transit) {
  session_.resume(transit.upstream_stream);
}

void H2Back::response_taken(Transit& transit, std::size_t size) {
  session_.consumed(transit.upstream_stream, size);
}

void H2Back::cancel(Transit& transit, std::uint32_t code) {
  transits_.erase(transit.upstream_stream);
  session_.reset(transit.upstream_stream, code);
}

void H2Back::on_block(std::int32_t stream, HeadBlock block, bool ended, bool too_large) {
  Transit* transit = find(stream);
  if (transit == nullptr) return;
  if (too_large) {
    transits_.erase(stream);
    session_.reset(stream, h2_error::kCancel);
    return front_->failed(*transit, h2_error::kInternal, upstream_oversized(name_));
  }
  const int status = status_of(block);
  if (status >= 100 && status < 200) {
    if (++transit->interims <= kMostInterims) return front_->interim(*transit, block);
    transits_.erase(stream);
    session_.reset(stream, h2_error::kEnhanceYourCalm);
    return front_->failed(*transit, h2_error::kEnhanceYourCalm,
                          upstream_malformed(name_, "no end of interim responses"));
  }
  if (status != 0) return front_->response(*transit, block, ended);
  transit->response.end(std::move(block));
  front_->response_arrived(*transit);
}

void H2Back::on_content(std::int32_t stream, std::span<const std::byte> data) {
  Transit* transit = find(stream);
  if (transit == nullptr) return session_.consumed(stream, data.size());
  transit->response.append(data);
  front_->response_arrived(*transit);
}

void H2Back::on_end(std::int32_t stream) {
  Transit* transit = find(stream);
  if (transit == nullptr) return;
  transit->response.end();
  front_->response_arrived(*transit);
}

void H2Back::on_closed(std::int32_t stream, std::uint32_t code, bool by_peer) {
  Transit* transit = find(stream);
  if (transit == nullptr) return;
  transits_.erase(stream);
  if (!transit->response.ended()) {
    return front_->failed(*transit, code,
                          by_peer ? OwnAnswer{} : upstream_malformed(name_, "a malformed answer"));
  }
  // It has answered in full and wants no more of the request.
  if (!transit->request.ended() || !transit->request.empty()) {
    transit->response.break_off(code);
    front_->response_arrived(*transit);
  }
  front_->done(*transit);
}

void H2Back::on_goaway(std::uint32_t code, std::string_view why) {
  front_->upstream_leaves(code, why);
}

void H2Back::ended(const OwnAnswer& answer) {
  if (std::exchange(over_, true)) return;
  const auto open = std::exchange(transits_, {});
  front_->upstream_leaves(h2_error::kNone, {});
  for (const auto& [stream, transit] : open) {
    if (transit->response.ended()) {
      front_->done(*transit);
    } else {
      front_->failed(*transit, h2_error::kInternal, answer);
    }
  }
}

Content* H2Back::outgoing(std::int32_t stream) {
  Transit* transit = find(stream);
  return transit == nullptr ? nullptr : &transit->request;
}

void H2Back::on_sent(std::int32_t stream, std::size_t size) {
  if (Transit* transit = find(stream)) front_->request_taken(*transit, size);
}

}  // namespace weir::proxy
