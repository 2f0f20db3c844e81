// Both halves of a proxied connection, in each combination of protocols, between a client and an upstream
// that are frames or text. Without sockets.
#pragma once

#include <gtest/gtest.h>

#include "h2_wire.h"
#include "proxy/h1_back.h"
#include "proxy/h1_front.h"
#include "proxy/h2_back.h"
#include "proxy/h2_front.h"

namespace weir::proxy::test {

inline std::span<const std::byte> bytes(const std::string& text) {
  return std::as_bytes(std::span(text));
}

class Judge : public RequestJudge {
 public:
  std::optional<OwnAnswer> judge(std::int32_t, const HeadBlock& request) override {
    ++asked;
    if (request.pseudo_value(":path") == "/refused") return OwnAnswer{403, "refused"};
    return std::nullopt;
  }
  void malformed() override { ++malformed_requests; }
  void malformed_stream(std::int32_t stream) override {
    malformed();
    malformed_streams.push_back(stream);
  }
  void upstream_failed(std::int32_t, const OwnAnswer& answer) override {
    failures.push_back(answer.error_type);
  }
  std::vector<std::string> failures;
  std::vector<std::int32_t> malformed_streams;
  int asked = 0;
  int malformed_requests = 0;
};

// A client and an upstream in frames, and the two halves between them.
struct Bridge {
  explicit Bridge(H2Limits limits = {}) : back(limits, "up"), front(limits, {}, judge, back) {
    back.set_front(front);
    upstream(frame(kSettings, 0, 0));
    front.open(limits.streams, false);
    client(kHello);
  }

  bool client(const std::string& text) {
    const bool taken = front.receive(bytes(text), now);
    move();
    return taken;
  }
  bool upstream(const std::string& text) {
    const bool taken = back.receive(bytes(text), now);
    move();
    return taken;
  }
  void move() {
    for (bool any = true; any && !stopped;) {
      std::vector<std::byte> up;
      std::vector<std::byte> down;
      back.produce(up, 1 << 16);
      front.produce(down, 1 << 16);
      to_upstream.feed(up);
      to_client.feed(down);
      any = !up.empty() || !down.empty();
    }
  }
  // Of frames to the upstream, those that are about requests.
  std::size_t requests() const { return to_upstream.of_type(kHeaders).size(); }

  Judge judge;
  H2Back back;
  H2Front front;
  FrameLog to_upstream;
  FrameLog to_client;
  H2Session::Clock::time_point now{std::chrono::seconds(1000)};
  bool stopped = false;
};

// A client in frames, and the legs' upstreams in text.
struct TranslatingBridge {
  struct Leg {
    H1Leg* leg;
    std::string sent;
  };
  explicit TranslatingBridge(H2Limits limits = {})
      : back(
            limits, "up", [this](H1Leg& leg) { legs.push_back({&leg, {}}); },
            [this](H1Leg&) { return reuse; }),
        front(limits, {}, judge, back) {
    back.set_front(front);
    front.open(limits.streams, false);
    client(kHello);
  }
  void client(const std::string& text) {
    front.receive(bytes(text), {});
    move();
  }
  bool upstream(std::size_t leg, const std::string& text) {
    const bool usable = legs[leg].leg->receive(bytes(text));
    move();
    return usable;
  }
  void move() {
    for (bool any = true; any;) {
      std::vector<std::byte> down;
      front.produce(down, 1 << 16);
      to_client.feed(down);
      any = !down.empty();
      for (auto& [leg, sent] : legs) {
        std::vector<std::byte> up;
        leg->produce(up, 1 << 16);
        sent.append(reinterpret_cast<const char*>(up.data()), up.size());
        any = any || !up.empty();
      }
    }
  }
  std::string status(std::uint32_t stream) const {
    for (const auto& one : to_client.of(stream))
      if (one.type == kHeaders) return one.fields[0].second;
    return "";
  }

  Judge judge;
  std::vector<Leg> legs;
  bool reuse = true;
  H1Back back;
  H2Front front;
  FrameLog to_client;
};

// A client in text, and an upstream in frames.
struct ReverseBridge {
  explicit ReverseBridge(H2Limits limits = {}) : back(limits, "up"), front(limits, {}, judge, back) {
    back.set_front(front);
    upstream(frame(kSettings, 0, 0));
  }
  void client(const std::string& text) {
    front.receive(bytes(text), {});
    move();
  }
  void upstream(const std::string& text) {
    back.receive(bytes(text), {});
    move();
  }
  void move() {
    for (bool any = true; any;) {
      std::vector<std::byte> up;
      std::vector<std::byte> down;
      back.produce(up, 1 << 16);
      front.produce(down, 1 << 16);
      to_upstream.feed(up);
      answered.append(reinterpret_cast<const char*>(down.data()), down.size());
      any = !up.empty() || !down.empty();
    }
  }

  Judge judge;
  H2Back back;
  H1Front front;
  FrameLog to_upstream;
  std::string answered;
};

}  // namespace weir::proxy::test
