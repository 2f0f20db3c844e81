// A hand-made host for the engine: short ways to say what a tap saw, and the records that came of it.
#pragma once

#include <gtest/gtest.h>

#include <boost/json.hpp>
#include <cmath>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "attribution/engine.h"

namespace weir::test {

inline Time at(double seconds) {
  return Time(std::chrono::nanoseconds(1'700'000'000'000'000'000 + std::llround(seconds * 1e9)));
}

inline std::vector<std::byte> bytes_of(std::string_view text) {
  const auto data = std::as_bytes(std::span(text));
  return {data.begin(), data.end()};
}

inline Endpoint endpoint(const std::string& address, std::uint16_t port) {
  return {parse_ip_address(address), port};
}

inline const ProcessKey kCurl{1000, 5'000'000'001};
inline const ProcessKey kShell{900, 4'000'000'001};
inline const ProcessKey kWorker{77, 1'000'000'001};
inline const Endpoint kProxy = endpoint("127.0.0.1", 7443);
inline const Endpoint kOrigin = endpoint("192.0.2.7", 443);

inline std::string get(const std::string& path) {
  return "GET " + path + " HTTP/1.1\r\nHost: example.test\r\n\r\n";
}
inline std::string ok(const std::string& body) {
  return "HTTP/1.1 200 OK\r\nContent-Length: " + std::to_string(body.size()) + "\r\n\r\n" + body;
}

inline std::string text(const boost::json::value& value) {
  if (value.is_string()) return std::string(value.get_string());
  if (!value.is_array()) return boost::json::serialize(value);
  std::string joined;
  for (const auto& one : value.get_array()) joined += (joined.empty() ? "" : "|") + text(one);
  return joined;
}

inline std::string text(const Record& record, std::string_view key) {
  const auto fields = boost::json::parse(record.json).as_object();
  const auto* value = fields.if_contains(key);
  return value == nullptr ? "(absent)" : text(*value);
}

inline EngineConfig default_config() {
  EngineConfig config;
  config.host_id = "host";
  config.boot_id = "boot";
  config.proxy_listeners = {kProxy};
  config.own_pids = {kWorker.pid};
  return config;
}

// One tap's view of one connection, with running offsets.
class View {
 public:
  View(Engine& engine, std::uint64_t cookie, Tap tap, ProcessKey process = kCurl)
      : engine_(engine), cookie_{cookie}, tap_(tap), process_(process) {
    if (tap == Tap::native) object_ = {process, 0x1000 + cookie, 0};
  }

  View& sent(std::string_view data, double when) { return pass(Direction::sent, data, when); }
  View& received(std::string_view data, double when) { return pass(Direction::received, data, when); }
  View& exchange(const std::string& path, const std::string& body, double when) {
    return sent(get(path), when).received(ok(body), when + 0.01);
  }
  View& skip(Direction direction, std::uint64_t length) {
    offset(direction) += length;
    return *this;
  }
  View& gap(Direction direction, std::uint64_t length, double when) {
    engine_.consume(
        Gap{at(when), cookie_, object_, tap_, direction, offset(direction), length, Gap::Reason::ring_full});
    return skip(direction, length);
  }
  View& ended(double when, bool broken_off = false) {
    engine_.consume(StreamEnded{at(when), cookie_, object_, tap_, Direction::sent, offset(Direction::sent)});
    engine_.consume(StreamEnded{at(when), cookie_, object_, tap_, Direction::received,
                                offset(Direction::received), broken_off});
    return *this;
  }
  View& handshake(double when, const std::string& sni) {
    Handshake event{.time = at(when), .cookie = cookie_, .object = object_, .tap = tap_};
    event.library = tap_ == Tap::native ? TlsLibrary::openssl : TlsLibrary::unknown;
    event.version = "1.3";
    event.sni = sni;
    event.completed = true;
    engine_.consume(std::move(event));
    return *this;
  }
  View& in_the_clear() {
    object_ = {};
    return *this;
  }
  View& unlinked() {
    cookie_ = {};
    return *this;
  }
  View& linked(std::uint64_t cookie) {
    cookie_ = {cookie};
    return *this;
  }
  View& next_generation() {
    ++object_.generation;
    offsets_[0] = offsets_[1] = 0;
    return *this;
  }
  std::uint64_t& offset(Direction direction) { return offsets_[static_cast<std::size_t>(direction)]; }

 private:
  View& pass(Direction direction, std::string_view data, double when) {
    engine_.consume(
        Bytes{at(when), cookie_, object_, process_, tap_, direction, offset(direction), bytes_of(data)});
    return skip(direction, data.size());
  }

  Engine& engine_;
  SocketCookie cookie_;
  Tap tap_;
  ProcessKey process_;
  TlsObjectId object_;
  std::uint64_t offsets_[2] = {0, 0};
};

class Scenario : public testing::Test {
 protected:
  void use(EngineConfig config) {
    engine_ =
        std::make_unique<Engine>(std::move(config), [this](RecordPtr record) { records_.push_back(record); });
  }
  void SetUp() override { use(default_config()); }

  Engine& engine() { return *engine_; }

  void process(ProcessKey key, const std::string& path, double when = 0,
               ProcessEvent::What what = ProcessEvent::What::seen, ProcessKey parent = {}) {
    ProcessEvent event;
    event.what = what;
    event.time = at(when);
    event.process = key;
    event.parent = parent;
    event.executable_path = path;
    if (!path.empty()) event.arguments = {path};
    engine().consume(std::move(event));
  }
  void opened(std::uint64_t cookie, Endpoint peer, double when = 0, ProcessKey owner = kCurl,
              std::optional<std::uint32_t> owner_uid = {}) {
    ConnectionOpened event;
    event.time = at(when);
    event.cookie = {cookie};
    event.tuple = {endpoint("10.0.0.1", 40000), peer};
    event.owner = owner;
    event.owner_uid = owner_uid;
    engine().consume(event);
  }
  void closed(std::uint64_t cookie, double when, std::uint64_t sent = 100, std::uint64_t received = 200) {
    ConnectionClosed event;
    event.time = at(when);
    event.cookie = {cookie};
    event.bytes_sent = sent;
    event.bytes_received = received;
    engine().consume(std::move(event));
  }
  void decided(std::uint64_t cookie, Decision decision, double when, const std::string& error = {}) {
    DecisionMade event;
    event.time = at(when);
    event.cookie = {cookie};
    event.decision = decision;
    event.error_type = error;
    event.server_name = "example.test";
    event.server_port = 443;
    event.upstream_peer = kOrigin;
    event.upstream_local = endpoint("10.0.0.1", 50000);
    engine().consume(std::move(event));
  }

  std::vector<RecordPtr> of(RecordKind kind) const {
    std::vector<RecordPtr> some;
    for (const RecordPtr& record : records_) {
      if (record->kind == kind) some.push_back(record);
    }
    return some;
  }
  std::vector<RecordPtr> exchanges() const { return of(RecordKind::exchange); }
  std::vector<RecordPtr> connections() const { return of(RecordKind::connection); }
  // "source url" of each exchange, in order.
  std::vector<std::string> summary() const {
    std::vector<std::string> lines;
    for (const RecordPtr& record : exchanges()) {
      lines.push_back(text(*record, "weir.source") + " " + text(*record, "url.full"));
    }
    return lines;
  }

  std::unique_ptr<Engine> engine_;
  std::vector<RecordPtr> records_;
};

}  // namespace weir::test
