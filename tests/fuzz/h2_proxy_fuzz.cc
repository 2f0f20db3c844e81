// Plays any bytes of a client and of its upstream to the two halves of a proxied connection. Whatever they
// are, the upstream must be sent nothing that a strict parser of its own refuses, no request that was not
// asked for, and content that waits must stay within the windows. The first byte chooses the upstream's
// protocol; then come steps: whose bytes (the lowest bit), how many, the bytes.
#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "proxy/h1_back.h"
#include "proxy/h2_back.h"
#include "proxy/h2_front.h"
#include "proxy/h2_rules.h"
#include "tests/fuzz/fuzz.h"

namespace {

using namespace weir;
using namespace weir::proxy;
using fuzz::require;

constexpr std::string_view kClientHello = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0";

H2Limits small_limits() {
  H2Limits limits;
  limits.streams = 4;
  limits.stream_window = limits.connection_window = 65'535;
  limits.head_size = 2'048;
  limits.head_fields = 16;
  limits.response_head_size = 2'048;
  limits.response_head_fields = 16;
  limits.flood_burst = 20;
  return limits;
}

struct Judge : RequestJudge {
  std::optional<OwnAnswer> judge(std::int32_t, const HeadBlock& request) override {
    require(malformation(request).empty());
    if (request.pseudo_value(":path") == "/no") return OwnAnswer{403, "no"};
    ++passed;
    return std::nullopt;
  }
  void malformed() override {}
  std::size_t passed = 0;
};

// The upstream's own parser of HTTP/2.
struct Origin : H2Session::Handler {
  void on_block(std::int32_t, HeadBlock block, bool, bool) override {
    if (block.pseudo.empty()) return;
    ++requests;
    require(malformation(block).empty());
  }
  void on_content(std::int32_t stream, std::span<const std::byte> data) override {
    session.consumed(stream, data.size());
  }
  void on_end(std::int32_t) override {}
  void on_closed(std::int32_t, std::uint32_t code, bool by_peer) override { require(by_peer || code == 0); }
  Content* outgoing(std::int32_t) override { return nullptr; }
  void on_sent(std::int32_t, std::size_t) override {}

  std::size_t requests = 0;
  H2Session session{H2Session::Role::server, H2Limits{}, *this};
};

// And of HTTP/1.
struct Request : http::H1Handler {
  http::Next on_request_head(http::RequestHead, http::BodyFraming) override {
    ++heads;
    return http::Next::proceed;
  }
  void on_body(std::span<const std::byte>) override {}
  void on_trailers(http::Fields) override {}
  void on_message_complete() override {}
  http::H1Parser parser{http::H1Parser::Kind::request};
  std::size_t heads = 0;
};

struct Steps {
  std::span<const std::byte> input;
  // Whose, and what; nothing at the end.
  std::optional<std::pair<bool, std::span<const std::byte>>> next() {
    if (input.size() < 2) return std::nullopt;
    const bool of_client = std::to_integer<int>(input[0]) % 2 == 0;
    const auto size = std::min(std::to_integer<std::size_t>(input[1]), input.size() - 2);
    const auto bytes = input.subspan(2, size);
    input = input.subspan(2 + size);
    return std::pair(of_client, bytes);
  }
};

void play_h2(Steps steps) {
  Judge judge;
  H2Back back(small_limits(), "up");
  H2Front front(small_limits(), {}, judge, back);
  back.set_front(front);
  Origin origin;
  H2Session::Clock::time_point now{};
  const auto move = [&] {
    for (bool any = true; any;) {
      std::vector<std::byte> up;
      std::vector<std::byte> down;
      back.produce(up, 4'096);
      front.produce(down, 4'096);
      if (!up.empty()) require(origin.session.receive(up, now));
      any = !up.empty() || !down.empty();
    }
  };
  front.open(4, true);
  front.receive(fuzz::bytes_of(kClientHello), now);
  move();
  while (const auto step = steps.next()) {
    now += std::chrono::milliseconds(10);
    if (step->first) {
      front.receive(step->second, now);
    } else if (!back.receive(step->second, now)) {
      back.ended({502, "malformed"});
    }
    move();
  }
  back.ended({502, "over"});
  move();
  require(origin.requests <= judge.passed);
}

void play_h1(Steps steps) {
  Judge judge;
  std::list<std::pair<H1Leg*, Request>> legs;
  H1Back back(
      small_limits(), "up", [&](H1Leg& leg) { legs.emplace_back(&leg, Request()); },
      [](H1Leg&) { return true; });
  H2Front front(small_limits(), {}, judge, back);
  back.set_front(front);
  H2Session::Clock::time_point now{};
  const auto move = [&] {
    for (bool any = true; any;) {
      std::vector<std::byte> down;
      front.produce(down, 4'096);
      any = !down.empty();
      for (auto& [leg, request] : legs) {
        std::vector<std::byte> up;
        leg->produce(up, 4'096);
        any = any || !up.empty();
        std::span<const std::byte> left = up;
        while (!left.empty()) {
          const auto taken = request.parser.feed(left, request);
          require(taken.has_value() && *taken > 0);
          left = left.subspan(*taken);
        }
      }
      std::erase_if(legs, [&](auto& one) {
        if (one.first->usable()) return false;
        back.remove(*one.first);
        return true;
      });
    }
  };
  front.open(4, false);
  front.receive(fuzz::bytes_of(kClientHello), now);
  move();
  std::size_t heads = 0;
  while (const auto step = steps.next()) {
    now += std::chrono::milliseconds(10);
    if (step->first) {
      front.receive(step->second, now);
    } else if (!legs.empty() && !legs.front().first->receive(step->second)) {
      heads += legs.front().second.heads;
      back.remove(*legs.front().first);
      legs.pop_front();
    }
    move();
  }
  for (const auto& [leg, request] : legs) heads += request.heads;
  require(heads <= judge.passed);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const Steps steps{fuzz::bytes_of(data + 1, size - 1)};
  data[0] % 2 == 0 ? play_h2(steps) : play_h1(steps);
  return 0;
}
