// Any conversation, from a fuzzer's input, to an exchange builder: a step is a control byte, a length byte
// and so many bytes, or a gap of that length, or an end.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <span>

#include "http/exchange.h"

namespace weir::fuzz {

enum class Action : std::uint8_t { request, response, gap_request, gap_response, end_request, end_response };

// What was played.
struct Played {
  http::Time end{};
  std::uint64_t fed = 0;  // bytes
  bool gaps = false;
};

template <typename Builder>
void apply(Builder& builder, Action action, std::span<const std::byte> bytes, std::uint64_t gap,
           http::Time now) {
  switch (action) {
    case Action::request:
      return builder.feed(http::Side::request, bytes, now);
    case Action::response:
      return builder.feed(http::Side::response, bytes, now);
    case Action::gap_request:
      return builder.gap(http::Side::request, gap, now);
    case Action::gap_response:
      return builder.gap(http::Side::response, gap, now);
    case Action::end_request:
      return builder.end(http::Side::request, now);
    case Action::end_response:
      return builder.end(http::Side::response, now);
  }
}

// Each step's bytes at once, or one by one.
template <typename Builder>
Played play(Builder& builder, std::span<const std::byte> input, bool bytewise) {
  Played played;
  while (input.size() >= 2) {
    const auto action = static_cast<Action>(static_cast<unsigned>(input[0]) % 6);
    const auto length = static_cast<std::size_t>(input[1]);
    input = input.subspan(2);
    played.end += std::chrono::milliseconds(400);
    const bool data = action == Action::request || action == Action::response;
    played.gaps = played.gaps || action == Action::gap_request || action == Action::gap_response;
    auto bytes = input.first(data ? std::min(length, input.size()) : 0);
    input = input.subspan(bytes.size());
    played.fed += bytes.size();
    for (; bytewise && bytes.size() > 1; bytes = bytes.subspan(1))
      apply(builder, action, bytes.first(1), 0, played.end);
    apply(builder, action, bytes, length, played.end);
  }
  return played;
}

}  // namespace weir::fuzz
