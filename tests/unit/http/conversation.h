// Plays a conversation to an exchange builder, cut in many ways, and tells in short texts what came out.
#pragma once

#include <gtest/gtest.h>

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "http/exchange.h"
#include "tests/unit/http/splits.h"

namespace weir::http::test {

struct Step {
  enum class Kind : std::uint8_t { data, gap, end };
  Kind kind;
  Side side;
  std::string data = {};
  std::uint64_t length = 0;
};
inline Step req(std::string data) {
  return {Step::Kind::data, Side::request, std::move(data)};
}
inline Step res(std::string data) {
  return {Step::Kind::data, Side::response, std::move(data)};
}
inline Step lost(Side side, std::uint64_t length) {
  return {Step::Kind::gap, side, {}, length};
}
inline Step end(Side side) {
  return {Step::Kind::end, side};
}

inline std::string text_of(const Body& body) {
  return std::string(reinterpret_cast<const char*>(body.data.data()), body.data.size()) + "/" +
         std::to_string(body.size) + (body.truncated ? "!" : "");
}

// "0 GET /a ''/0 -> 200 'x'/1" and what is particular after it; of HTTP/2 "0#1 GET...".
inline std::string text_of(const Exchange& e) {
  std::string text = std::to_string(e.number);
  if (e.stream_id) text += "#" + std::to_string(*e.stream_id);
  text += " " + e.request.method + " " + e.request.target + " " + text_of(e.request_body) + " -> ";
  for (const auto& interim : e.interim_responses) text += std::to_string(interim.status) + " ";
  text += (e.response ? std::to_string(e.response->status) : "none") + " " + text_of(e.response_body);
  if (e.gap_bytes > 0) text += " gap_bytes=" + std::to_string(e.gap_bytes);
  if (e.upgraded) text += " upgraded";
  if (!e.incomplete.empty()) text += " " + e.incomplete;
  if (!e.protocol_error.empty()) text += " error";
  for (const auto& trailer : e.request_trailers) text += " >" + trailer.name + "=" + trailer.value;
  for (const auto& trailer : e.response_trailers) text += " " + trailer.name + "=" + trailer.value;
  return text;
}

struct Result {
  std::vector<std::string> before_finish;
  std::vector<std::string> all;
  Protocol protocol = Protocol::undecided;
  std::array<std::uint64_t, 2> unparsed{};
};

constexpr Time at(int second) {
  return Time(std::chrono::seconds(second));
}

inline ExchangeLimits capturing() {
  ExchangeLimits limits;
  limits.capture_bodies = true;
  return limits;
}

template <typename Builder>
Result run(const std::vector<Step>& steps, std::size_t split, const ExchangeLimits& limits) {
  Result result;
  Builder builder(limits, [&](const Exchange& e) {
    if (e.final) result.all.push_back(text_of(e));  // others come by how bytes are cut
  });
  const Time now = at(1);
  for (const auto& step : steps) {
    if (step.kind == Step::Kind::gap) builder.gap(step.side, step.length, now);
    if (step.kind == Step::Kind::end) builder.end(step.side, now);
    if (step.kind != Step::Kind::data) continue;
    const auto cuts = splits(step.data);
    for (const auto piece : cuts[std::min(split, cuts.size() - 1)])
      builder.feed(step.side, bytes(piece), now);
  }
  result.before_finish = result.all;
  builder.finish(now);
  EXPECT_TRUE(builder.idle());
  result.protocol = builder.protocol();
  result.unparsed = {builder.unparsed_bytes(Side::request), builder.unparsed_bytes(Side::response)};
  return result;
}

template <typename Builder>
Result run_all(const std::vector<Step>& steps, const ExchangeLimits& limits = capturing()) {
  const auto first = run<Builder>(steps, 0, limits);
  for (std::size_t split = 1; split < 22; ++split) {
    const auto other = run<Builder>(steps, split, limits);
    EXPECT_EQ(other.before_finish, first.before_finish) << "split " << split;
    EXPECT_EQ(other.all, first.all) << "split " << split;
    EXPECT_EQ(other.protocol, first.protocol) << "split " << split;
    EXPECT_EQ(other.unparsed, first.unparsed) << "split " << split;
  }
  return first;
}

using Lines = std::vector<std::string>;
using Unparsed = std::array<std::uint64_t, 2>;

struct Case {
  std::string_view name;
  std::vector<Step> steps;
  Lines whole;      // given out as soon as they end
  Lines late = {};  // given out by finish()
  Unparsed unparsed = {0, 0};
};

inline void check(const Case& c, const Result& result) {
  SCOPED_TRACE(c.name);
  auto expected = c.whole;
  EXPECT_EQ(result.before_finish, expected);
  expected.insert(expected.end(), c.late.begin(), c.late.end());
  EXPECT_EQ(result.all, expected);
  EXPECT_EQ(result.unparsed, c.unparsed);
}

}  // namespace weir::http::test
