// First match wins, over an index: for each kind that rules ask about, the set of rules that one fact can
// match, as bits. What all kinds have in common are the candidates, and only these are looked at, in order.
#include "attribution/policy_rules.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <unordered_map>
#include <utility>

#include "attribution/policy_match.h"
#include "attribution/text.h"

namespace weir {
namespace {

using Words = std::vector<std::uint64_t>;  // one bit a rule

void set_bit(Words& words, std::size_t rule) {
  words[rule / 64] |= std::uint64_t{1} << (rule % 64);
}

constexpr std::size_t kMostLengths = 128;
constexpr std::size_t kLongestName = 253;

struct TextHash {
  using is_transparent = void;
  std::size_t operator()(std::string_view text) const noexcept { return std::hash<std::string_view>()(text); }
};
template <class Key, class Hash = std::hash<Key>>
using BitsBy = std::unordered_map<Key, Words, Hash, std::equal_to<>>;
using BitsByText = BitsBy<std::string, TextHash>;

// The sets that one subject meets in one dimension: their union, and that of the rules that don't ask.
class Union {
 public:
  explicit Union(const Words& always) { parts_[0] = &always; }
  void add(const Words* part) {
    if (part != nullptr && count_ < parts_.size()) parts_[count_++] = part;
  }
  template <class Map, class Key>
  void add(const Map& map, const Key& key) {
    if (const auto found = map.find(key); found != map.end()) add(&found->second);
  }
  std::uint64_t word(std::size_t at) const {
    std::uint64_t bits = 0;
    for (std::size_t i = 0; i < count_; ++i) bits |= (*parts_[i])[at];
    return bits;
  }

 private:
  // A name has at most 127 labels, an address 129 prefixes, a text kMostLengths beginnings; an executable is
  // looked up twice. Left as it is: clearing it would cost more than all the rest.
  std::array<const Words*, 264> parts_;
  std::size_t count_ = 1;
};

// Texts and beginnings of texts. Beginnings are looked up by each length that there is one of.
class TextIndex {
 public:
  void put(const TextPattern& pattern, std::size_t rule, std::size_t words) {
    auto& map = pattern.prefix ? prefixes_ : exact_;
    auto& bits = map.try_emplace(pattern.text, Words(words)).first->second;
    set_bit(bits, rule);
    if (!pattern.prefix) return;
    const auto place = std::ranges::lower_bound(lengths_, pattern.text.size());
    if (place == lengths_.end() || *place != pattern.text.size()) lengths_.insert(place, pattern.text.size());
  }
  // False when there are more lengths than a union holds: then nothing is known of this dimension.
  bool find(std::string_view text, Union& found) const {
    found.add(exact_, text);
    if (lengths_.size() > kMostLengths) return false;
    for (const std::size_t length : lengths_) {
      if (length > text.size()) break;
      found.add(prefixes_, text.substr(0, length));
    }
    return true;
  }

 private:
  BitsByText exact_;
  BitsByText prefixes_;
  std::vector<std::size_t> lengths_;  // ascending
};

// Where a range begins or ends the set changes: between two such places it is the same.
class PortIndex {
 public:
  void build(const std::vector<PolicyRule>& rules, std::size_t words) {
    for (const PolicyRule& rule : rules)
      for (const PortRange& range : rule.ports)
        starts_.insert(starts_.end(), {std::uint32_t{range.first}, std::uint32_t{range.last} + 1});
    std::ranges::sort(starts_);
    starts_.erase(std::ranges::unique(starts_).begin(), starts_.end());
    sets_.assign(starts_.size(), Words(words));
    for (std::size_t rule = 0; rule < rules.size(); ++rule)
      for (const PortRange& range : rules[rule].ports) put(range, rule);
  }
  const Words* find(std::uint16_t port) const {
    const auto after = std::ranges::upper_bound(starts_, std::uint32_t{port});
    if (after == starts_.begin()) return nullptr;
    return &sets_[static_cast<std::size_t>(after - starts_.begin()) - 1];
  }

 private:
  void put(const PortRange& range, std::size_t rule) {
    auto at = std::ranges::lower_bound(starts_, std::uint32_t{range.first});
    for (; at != starts_.end() && *at <= range.last; ++at)
      set_bit(sets_[static_cast<std::size_t>(at - starts_.begin())], rule);
  }
  std::vector<std::uint32_t> starts_;
  std::vector<Words> sets_;
};

IpAddress masked(IpAddress address, unsigned bits) {
  for (unsigned i = 0; i < address.bytes.size(); ++i) {
    const unsigned kept = bits > i * 8 ? std::min(bits - i * 8, 8u) : 0;
    address.bytes[i] = static_cast<std::uint8_t>(address.bytes[i] & (0xff00u >> kept));
  }
  return address;
}

struct AddressHash {
  std::size_t operator()(const IpAddress& address) const noexcept {
    std::array<std::uint64_t, 2> halves;
    std::memcpy(halves.data(), address.bytes.data(), sizeof halves);
    return static_cast<std::size_t>((halves[0] ^ std::rotl(halves[1], 29)) * 0x9E3779B97F4A7C15ull);
  }
};

class AddressIndex {
 public:
  void put(const AddressRange& range, std::size_t rule, std::size_t words) {
    auto place = std::ranges::find_if(lengths_, [&](const Length& each) {
      return each.family == range.address.family && each.bits == range.bits;
    });
    if (place == lengths_.end()) place = lengths_.insert(place, Length{range.address.family, range.bits, {}});
    set_bit(place->sets.try_emplace(masked(range.address, range.bits), Words(words)).first->second, rule);
  }
  void find(const IpAddress& address, Union& found) const {
    for (const Length& length : lengths_)
      if (length.family == address.family) found.add(length.sets, masked(address, length.bits));
  }

 private:
  struct Length {
    IpAddress::Family family;
    unsigned bits;
    BitsBy<IpAddress, AddressHash> sets;
  };
  std::vector<Length> lengths_;
};

class HostIndex {
 public:
  void put(const std::string& host, std::size_t rule, std::size_t words) {
    const bool below = host.starts_with('.');
    auto& map = below ? below_ : exact_;
    set_bit(map.try_emplace(below ? host.substr(1) : host, Words(words)).first->second, rule);
  }
  // False for what can't be a name.
  bool find(std::string_view name, Union& found) const {
    if (name.size() > kLongestName) return false;
    found.add(exact_, name);
    while (!below_.empty()) {
      found.add(below_, name);
      const auto dot = name.find('.');
      if (dot == std::string_view::npos) break;
      name.remove_prefix(dot + 1);
    }
    return true;
  }

 private:
  BitsByText exact_;
  BitsByText below_;
};

// By name, and by name and value.
class HeaderIndex {
 public:
  void put(const HeaderPattern& header, std::size_t rule, std::size_t words) {
    const std::string key = header.name + (header.value ? ":" + *header.value : "");
    set_bit(fields_.try_emplace(key, Words(words)).first->second, rule);
  }
  // False for more fields than a union holds.
  bool find(const RequestSummary& request, Union& found) const {
    const http::Fields* const fields = request.fields;
    if (!request.authority.empty()) {
      found.add(fields_, std::string_view("host"));
      found.add(fields_, std::string("host:").append(request.authority));
    }
    if (fields == nullptr) return true;
    if (fields->size() > kMostLengths) return false;
    for (const http::Field& field : *fields) {
      std::string key = to_lower(field.name);
      found.add(fields_, key);
      found.add(fields_, key.append(":").append(field.value));
    }
    return true;
  }

 private:
  BitsByText fields_;
};

// What came together of one subject's candidates.
class Outcome {
 public:
  explicit Outcome(const Policy& policy) : policy_(policy) {}

  // True when the rule has the last word.
  bool take(std::size_t index, RuleMatch match) {
    if (match.answer == Answer::no) return false;
    const PolicyRule& rule = policy_.rules[index];
    actions_ |= bit(rule.action);
    if (match.answer == Answer::yes) {
      decided_ = &rule;
      return true;
    }
    if (first_maybe_ == nullptr) first_maybe_ = &rule;
    if (match.needs_request && inspecting_ == nullptr) inspecting_ = &rule;
    return false;
  }

  Verdict verdict() const {
    const PolicyAction last = decided_ != nullptr ? decided_->action : policy_.fallback;
    const unsigned actions = actions_ | bit(last);
    const PolicyRule* named = decided_ != nullptr ? decided_ : first_maybe_;
    const std::string name = named != nullptr ? named->name : "";
    if (actions == bit(PolicyAction::deny)) return {.allowed = false, .rule = name};
    if (first_maybe_ == nullptr) return {.log = last == PolicyAction::log, .rule = name};
    if (actions == bit(PolicyAction::allow)) return {.rule = name};
    return {.inspect = inspecting_ != nullptr,
            .undecided = true,
            .rule = inspecting_ != nullptr ? inspecting_->name : ""};
  }

 private:
  static unsigned bit(PolicyAction action) { return 1u << static_cast<unsigned>(action); }

  const Policy& policy_;
  unsigned actions_ = 0;
  const PolicyRule* decided_ = nullptr;
  const PolicyRule* first_maybe_ = nullptr;
  const PolicyRule* inspecting_ = nullptr;
};

}  // namespace

struct CompiledPolicy::Index {
  // The rules that ask nothing about this; without one that does, the dimension is passed over.
  struct Dimension {
    Words always;
    bool asked = false;
    template <class List>
    void note(const List& list, std::size_t rule) {
      if (list.empty())
        set_bit(always, rule);
      else
        asked = true;
    }
  };

  explicit Index(const std::vector<PolicyRule>& rules) : words((rules.size() + 63) / 64) {
    for (Dimension* each : {&host, &executable, &user, &container, &kubernetes_namespace, &address, &port,
                            &method, &path, &header})
      each->always.resize(words);
    for (std::size_t i = 0; i < rules.size(); ++i) put(rules[i], i);
    by_port.build(rules, words);
  }

  void put(const PolicyRule& rule, std::size_t at) {
    host.note(rule.hosts, at);
    executable.note(rule.executables, at);
    user.note(rule.users, at);
    container.note(rule.containers, at);
    kubernetes_namespace.note(rule.namespaces, at);
    asks_container_name = asks_container_name || rule.asks_container_name();
    address.note(rule.addresses, at);
    port.note(rule.ports, at);
    method.note(rule.methods, at);
    path.note(rule.paths, at);
    header.note(rule.headers, at);
    for (const std::string& each : rule.hosts) by_host.put(each, at, words);
    for (const TextPattern& each : rule.executables) by_executable.put(each, at, words);
    for (const std::uint32_t each : rule.users)
      set_bit(by_user.try_emplace(each, Words(words)).first->second, at);
    for (const ContainerPattern& each : rule.containers)
      (each.is_name ? by_container_name : by_container_id).put({each.text, !each.is_name}, at, words);
    for (const std::string& each : rule.namespaces) by_namespace.put({each, false}, at, words);
    for (const AddressRange& each : rule.addresses) by_address.put(each, at, words);
    for (const std::string& each : rule.methods) by_method.put({to_lower(each), false}, at, words);
    for (const TextPattern& each : rule.paths) by_path.put(each, at, words);
    for (const HeaderPattern& each : rule.headers) by_header.put(each, at, words);
  }

  std::size_t words;
  Dimension host, executable, user, container, kubernetes_namespace, address, port, method, path, header;
  bool asks_container_name = false;
  HostIndex by_host;
  TextIndex by_executable, by_container_id, by_container_name, by_namespace, by_method, by_path;
  BitsBy<std::uint32_t> by_user;
  AddressIndex by_address;
  PortIndex by_port;
  HeaderIndex by_header;

  // Calls `take` with each candidate, in order, until it returns true.
  template <class Take>
  void each_candidate(const PolicyQuestion& question, Take take) const;
};

template <class Take>
void CompiledPolicy::Index::each_candidate(const PolicyQuestion& question, Take take) const {
  const PolicySubject& subject = question.subject();
  const ClientFacts* client = subject.client;
  const Destination& to = subject.destination;
  const RequestSummary* request = subject.request;
  std::array<std::optional<Union>, 10> unions;
  std::size_t used = 0;
  const auto begin = [&](const Dimension& dimension, bool known) -> Union* {
    return dimension.asked && known ? &unions[used++].emplace(dimension.always) : nullptr;
  };
  if (Union* found = begin(port, true)) found->add(by_port.find(to.port));
  if (Union* found = begin(host, !to.name.empty())) {
    if (!by_host.find(to.name, *found)) --used;
  }
  if (Union* found = begin(address, to.address.family != IpAddress::Family::unknown))
    by_address.find(to.address, *found);
  if (Union* found = begin(user, client != nullptr && client->uid)) found->add(by_user, *client->uid);
  if (Union* found = begin(executable, client != nullptr && !client->executable_path.empty())) {
    const std::string_view program = client->executable_path;
    const bool all = by_executable.find(program, *found) && by_executable.find(file_name(program), *found);
    if (!all) --used;
  }
  static const ContainerNames kNoNames;
  const ContainerNames& names = client != nullptr && client->container ? *client->container : kNoNames;
  const bool named = client != nullptr && client->container_names_known();
  if (Union* found = begin(
          container, named || (client != nullptr && client->container_known() && !asks_container_name))) {
    const bool all = by_container_id.find(client->container_id, *found) &&
                     by_container_name.find(names.name, *found) &&
                     by_container_name.find(names.k8s_container, *found);
    if (!all) --used;
  }
  if (Union* found = begin(kubernetes_namespace, named)) by_namespace.find(names.k8s_namespace, *found);
  if (Union* found = begin(method, request != nullptr)) by_method.find(to_lower(request->method), *found);
  // One rule may go by this reading of a path, another by that.
  if (Union* found = begin(path, path.asked && request != nullptr && question.paths().size() == 1)) {
    if (!by_path.find(question.paths().front(), *found)) --used;
  }
  if (Union* found = begin(header, request != nullptr)) {
    if (!by_header.find(*request, *found)) --used;
  }
  for (std::size_t at = 0; at < words; ++at) {
    std::uint64_t bits = ~std::uint64_t{0};
    for (std::size_t i = 0; i < used && bits != 0; ++i) bits &= unions[i]->word(at);
    for (; bits != 0; bits &= bits - 1)
      if (take(at * 64 + static_cast<std::size_t>(std::countr_zero(bits)))) return;
  }
}

CompiledPolicy::CompiledPolicy(Policy policy)
    : policy_(std::move(policy)), index_(std::make_unique<Index>(policy_.rules)) {}
CompiledPolicy::~CompiledPolicy() = default;

Verdict CompiledPolicy::decide(const PolicySubject& subject) const {
  const PolicyQuestion question(subject);
  Outcome outcome(policy_);
  index_->each_candidate(question, [&](std::size_t rule) {
    return rule >= policy_.rules.size() || outcome.take(rule, match(policy_.rules[rule], question, nullptr));
  });
  return outcome.verdict();
}

Verdict CompiledPolicy::decide_slowly(const PolicySubject& subject) const {
  const PolicyQuestion question(subject);
  Outcome outcome(policy_);
  for (std::size_t i = 0; i < policy_.rules.size(); ++i)
    if (outcome.take(i, match(policy_.rules[i], question, nullptr))) break;
  return outcome.verdict();
}

RuleAnswer CompiledPolicy::explain(std::size_t rule, const PolicySubject& subject) const {
  RuleAnswer answer;
  answer.answer = match(policy_.rules[rule], PolicyQuestion(subject), &answer.why).answer;
  return answer;
}

}  // namespace weir
