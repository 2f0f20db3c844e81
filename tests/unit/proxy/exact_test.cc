// Byte-exactness through the running proxy, over sockets and TLS: what arrives is what was sent, in each
// combination of protocols. Each exchange's number is its seed. WEIR_E2E_SOAK=1 makes it 10,000 of each.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <map>

#include "exact_peers.h"

namespace weir::proxy::test {
namespace {

using std::string;

constexpr std::size_t kMostContent = 8u << 20;
constexpr std::size_t kClients = 2;

std::size_t exchanges() {
  const char* soak = std::getenv("WEIR_E2E_SOAK");
  return soak != nullptr && string(soak) == "1" ? 10'000 : 300;
}

struct Way {
  const char* name;
  bool client_http2;
  bool origin_http2;
};
std::ostream& operator<<(std::ostream& out, const Way& way) {
  return out << way.name;
}

struct Exchange {
  std::size_t number = 0;
  Spoken request;
  Spoken response;
  std::optional<Spoken> arrived;
};

const string& noise() {
  static const string all = [] {
    std::mt19937_64 engine(1);
    string text(kMostContent + 4096, '\0');
    for (std::size_t i = 0; i < text.size(); i += 8) {
      const auto word = engine();
      text.replace(i, 8, reinterpret_cast<const char*>(&word), 8);
    }
    return text;
  }();
  return all;
}

// Small ones are as usual as large ones.
string content(Dice& dice) {
  if (dice.chance(5)) return "";
  const double bits =
      std::log2(static_cast<double>(kMostContent)) * static_cast<double>(dice.below(1001)) / 1000;
  return noise().substr(dice.below(4096), static_cast<std::size_t>(std::exp2(bits)));
}

void put(Dice& dice, Spoken& message, const string& name, const string& value, bool text) {
  const auto at = message.fields.begin() + static_cast<std::ptrdiff_t>(dice.below(message.fields.size() + 1));
  message.fields.emplace(at, text ? dice.odd_case(name) : name, value);
}

// `told`: only the length of a content that isn't there (HEAD).
Spoken random_message(Dice& dice, bool text, bool has_content, bool told) {
  Spoken message;
  message.fields = dice.fields("x-");
  message.empty = !has_content;
  if (told) put(dice, message, "content-length", std::to_string(dice.below(1'000'000)), text);
  if (has_content) message.content = content(dice);
  const bool with_length = has_content && dice.chance(2);
  if (with_length) put(dice, message, "content-length", std::to_string(message.content.size()), text);
  if (has_content && !with_length && text) put(dice, message, "transfer-encoding", "chunked", text);
  if (has_content && !with_length && dice.chance(2)) message.trailers = dice.fields("x-t");
  if (!text) return message;
  for (auto& [name, value] : message.fields) name = dice.odd_case(name);
  for (auto& [name, value] : message.trailers) name = dice.odd_case(name);
  return message;
}

// Which exchange it is stands in the path.
Exchange random_exchange(Dice& dice, std::size_t number, const Way& way) {
  Exchange made;
  made.number = number;
  const string method = dice.chance(8) ? "HEAD" : dice.method();
  made.request = random_message(dice, !way.client_http2, method != "HEAD" && !dice.chance(3), false);
  made.request.start = method + " /" + std::to_string(number) + dice.path();
  if (!way.client_http2) put(dice, made.request, "host", "origin.test", true);
  static const std::vector<string> statuses = {"200", "200", "201", "203", "404", "503", "204", "304"};
  made.response.start = statuses[dice.below(statuses.size())];
  const bool bodiless = made.response.start == "204" || made.response.start == "304";
  const string status = made.response.start;
  made.response =
      random_message(dice, !way.origin_http2, method != "HEAD" && !bodiless, method == "HEAD" && !bodiless);
  made.response.start = status;
  made.response.reason = dice.of("abc XYZ\xe4", 0, 20);
  return made;
}

// What a translation changes: names in lower case, and what frames the content.
Pairs translated(const Pairs& fields, bool said_length) {
  Pairs kept;
  for (auto [name, value] : fields) {
    for (char& c : name)
      if (c >= 'A' && c <= 'Z') c = static_cast<char>(c + 32);
    if (name == "host" || name == "transfer-encoding") continue;
    if (name == "content-length" && !said_length && value == "0") continue;
    kept.emplace_back(name, value);
  }
  return kept;
}

string difference(const Spoken& sent, const std::optional<Spoken>& got, bool same_protocol, bool text) {
  if (!got) return "nothing whole arrived";
  const auto fields = translated(sent.fields, true);
  const bool said =
      std::ranges::any_of(fields, [](const auto& one) { return one.first == "content-length"; });
  if (got->start != sent.start) return "start: " + got->start + " for " + sent.start;
  if (same_protocol && text && got->reason != sent.reason) return "reason: " + got->reason;
  if (same_protocol && got->fields != sent.fields) return "fields";
  if (!same_protocol && translated(got->fields, said) != fields) return "translated fields";
  if (got->content != sent.content) return "content";
  if (same_protocol && got->trailers != sent.trailers) return "trailers";
  if (translated(got->trailers, true) != translated(sent.trailers, true)) return "translated trailers";
  return "";
}

// Clients in threads of their own; each connection carries some exchanges, over HTTP/2 some of them at once.
class Exact : public testing::TestWithParam<Way> {
 protected:
  Exact() {
    world_.events.keep_nothing();
    Config config;
    config.threads = 2;
    world_.start(config);
  }

  void run_client(const Origin& origin, std::size_t first) {
    const bool http2 = GetParam().client_http2;
    Dice dice(static_cast<unsigned>(first));
    for (auto number = first; number < exchanges() && !HasFailure();) {
      Wire wire = world_.open(origin, "origin.test", http2);
      std::optional<FramePeer> peer;
      if (http2) peer.emplace(wire, dice);
      for (auto left = 1 + dice.below(20); left > 0 && number < exchanges() && !HasFailure(); --left) {
        const auto most = http2 ? 1 + dice.below(4) : 1;
        std::vector<Exchange*> at_once;
        for (; at_once.size() < most && number < exchanges(); number += kClients)
          at_once.push_back(&enter(number));
        http2 ? ask(*peer, at_once) : ask(wire, dice, *at_once.front());
      }
    }
  }
  void answer_all(Wire& wire) {
    Dice dice(7);
    const FramePeer::Answer answer = [this](const Spoken& request) { return &arrived(request).response; };
    if (GetParam().origin_http2) return FramePeer(wire, dice, answer).serve();
    while (const auto request = hear_text(wire, true)) speak_text(wire, dice, *answer(*request), false);
  }

  World world_;

 private:
  void ask(FramePeer& peer, const std::vector<Exchange*>& all) {
    std::vector<Asked> asked;
    for (const auto* one : all) asked.push_back({&one->request});
    peer.ask(asked);
    for (std::size_t i = 0; i < all.size(); ++i) check(*all[i], asked[i].answer);
  }
  void ask(Wire& wire, Dice& dice, Exchange& one) {
    speak_text(wire, dice, one.request, true);
    check(one, hear_text(wire, false, !one.request.start.starts_with("HEAD ")));
  }

  Exchange& enter(std::size_t number) {
    Dice dice(static_cast<unsigned>(number) + 1);
    Exchange made = random_exchange(dice, number, GetParam());
    const std::lock_guard lock(mutex_);
    return open_[number] = std::move(made);
  }
  // The one that a request names; a stray one has an answer of nothing.
  Exchange& arrived(const Spoken& request) {
    const auto at = request.start.find(" /");
    const auto number =
        at == string::npos ? exchanges() : std::strtoul(request.start.c_str() + at + 2, nullptr, 10);
    const std::lock_guard lock(mutex_);
    EXPECT_TRUE(open_.contains(number)) << request.start;
    Exchange& one = open_[number];
    EXPECT_FALSE(one.arrived) << "again: " << request.start;
    one.arrived = request;
    return one;
  }
  void check(Exchange& one, const std::optional<Spoken>& answer) {
    const auto [name, client_http2, origin_http2] = GetParam();
    const bool same = client_http2 == origin_http2;
    const std::lock_guard lock(mutex_);
    EXPECT_EQ(difference(one.request, one.arrived, same, !client_http2), "")
        << "request of exchange " << one.number << ", " << one.request.start;
    EXPECT_EQ(difference(one.response, answer, same, !origin_http2), "")
        << "response of exchange " << one.number << ", " << one.request.start << ": " << one.response.start;
    open_.erase(one.number);
  }

  std::mutex mutex_;
  std::map<std::size_t, Exchange> open_;  // by number
};

TEST_P(Exact, WhatArrivesIsWhatWasSent) {
  Origin origin(world_.origin_ca.server_context({.name = "origin.test", .http2 = GetParam().origin_http2}),
                [this](Wire& wire) { answer_all(wire); });
  std::vector<std::thread> clients;
  for (std::size_t i = 0; i < kClients; ++i)
    clients.emplace_back([this, &origin, i] { run_client(origin, i); });
  for (auto& client : clients) client.join();
  world_.proxy->stop(std::chrono::milliseconds(0));
}

INSTANTIATE_TEST_SUITE_P(Ways, Exact,
                         testing::Values(Way{"h1_to_h1", false, false}, Way{"h2_to_h2", true, true},
                                         Way{"h2_to_h1", true, false}, Way{"h1_to_h2", false, true}),
                         [](const auto& way) { return std::string(way.param.name); });

}  // namespace
}  // namespace weir::proxy::test
