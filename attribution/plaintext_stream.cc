// Offset arithmetic: a jump forward is a gap of exactly that size, a jump backward is bytes already seen.
#include "attribution/plaintext_stream.h"

#include <algorithm>
#include <utility>

namespace weir {

PlaintextStream::Account PlaintextStream::bytes(Direction direction, std::uint64_t offset,
                                                std::span<const std::byte> data, Time when) {
  OneSide& one = side(direction);
  Account account;
  if (offset > one.next) account = gap(direction, one.next, offset - one.next, when);
  one.joined = true;
  account.duplicate = std::min<std::uint64_t>(one.next - offset, data.size());
  account.fresh = data.size() - account.duplicate;
  if (account.fresh == 0) return account;
  one.next += account.fresh;
  builder_.feed(http_side(direction), data.subspan(account.duplicate), when);
  account.unparsed += newly_unparsed();
  return account;
}

PlaintextStream::Account PlaintextStream::gap(Direction direction, std::uint64_t offset, std::uint64_t length,
                                              Time when) {
  OneSide& one = side(direction);
  one.joined = true;
  const std::uint64_t end = offset + length;
  if (end <= one.next) return {};
  const std::uint64_t missing = end - one.next;
  one.next = end;
  builder_.gap(http_side(direction), missing, when);
  return {.missing = missing, .unparsed = newly_unparsed()};
}

// What broke off stays open for finish() to say so.
void PlaintextStream::end(Direction direction, Time when, bool broken_off) {
  OneSide& one = side(direction);
  if (one.ended) return;
  one.ended = when;
  if (!broken_off) builder_.end(http_side(direction), when);
}

void PlaintextStream::join(Time when) {
  for (const auto side : {http::Side::request, http::Side::response}) builder_.gap(side, 0, when);
}

void PlaintextStream::join_at(Direction direction, std::uint64_t offset) {
  OneSide& one = side(direction);
  if (!std::exchange(one.joined, true)) one.next = offset;
}

// What was kept for recognition is unparsed now. What broke off did so when the conversation ended, and not
// when somebody gave up waiting for more of it.
PlaintextStream::Account PlaintextStream::finish(Time when) {
  if (ended()) when = std::min(when, std::max(*sides_[0].ended, *sides_[1].ended));
  builder_.finish(when);
  return {.unparsed = newly_unparsed()};
}

std::uint64_t PlaintextStream::newly_unparsed() {
  const std::uint64_t known =
      builder_.unparsed_bytes(http::Side::request) + builder_.unparsed_bytes(http::Side::response);
  return known > unparsed_ ? known - std::exchange(unparsed_, known) : 0;
}

}  // namespace weir
