// What is not looked at can't decide: the bits to try are those that the function loads from an object of
// zeros.
#include "bpf/probes/server_flag.h"

#include <algorithm>
#include <optional>
#include <set>

#include "bpf/probes/sketch_machine.h"

namespace weir::bpf {
namespace {

constexpr std::uint64_t kObject = 0x1100'0000'0000'0000;
constexpr std::uint64_t kObjectBytes = 0x1'0000;
constexpr std::uint64_t kTypeBytes =
    4;  // struct ssl_st begins with `int type` (ssl/ssl_local.h, OpenSSL 3.2)
constexpr std::size_t kMaxBytesLoaded = 16;

using Bits = std::set<std::uint64_t>;    // of the object, by number
using Places = std::set<std::uint64_t>;  // bytes of it

Value load_of(const Bits& set, std::uint64_t place, std::size_t bytes) {
  std::uint64_t value = 0;
  for (const std::uint64_t bit : set)
    if (bit / 8 >= place && bit / 8 < place + bytes) value |= std::uint64_t{1} << (bit - place * 8);
  return value;
}

enum class Answer { no, yes, unknown };

// The function's answer about an object in which these bits are set; notes what it looks at.
Answer answer(const FunctionCode& is_server, const Bits& set, Places& loaded) {
  const auto load = [&](std::uint64_t address, std::size_t bytes) -> Value {
    const std::uint64_t place = address - kObject;
    if (place >= kObjectBytes) return std::nullopt;
    for (std::size_t i = 0; i < bytes; ++i) loaded.insert(place + i);
    return load_of(set, place, bytes);
  };
  SketchMachine start(load, [](SketchMachine&) {});
  start.set(SketchMachine::rdi, kObject);
  std::optional<Answer> agreed;
  for (const SketchMachine& end : SketchMachine::run(start, is_server)) {
    const Value result = end.get(SketchMachine::rax);
    if (!result) return Answer::unknown;
    const Answer one = static_cast<std::uint32_t>(*result) != 0 ? Answer::yes : Answer::no;
    if (agreed && *agreed != one) return Answer::unknown;
    agreed = one;
  }
  return agreed.value_or(Answer::unknown);
}

// The member that these bits are all of.
std::optional<ServerFlag> member_of(const Bits& bits) {
  const std::uint64_t first = *bits.begin(), last = *bits.rbegin();
  const auto at = static_cast<std::uint32_t>(first / 8);
  if (at < kTypeBytes || at > kMaxServerFlagAt || last - first != bits.size() - 1) return std::nullopt;
  if (bits.size() == 1) return ServerFlag{at, static_cast<std::uint32_t>(first % 8)};
  if (first % 8 != 0) return std::nullopt;
  if (bits.size() == 8) return ServerFlag{at, WIRE_SERVER_BYTE};
  if (bits.size() == 32) return ServerFlag{at, WIRE_SERVER_INT};
  return std::nullopt;
}

Bits bits_of(const Places& places) {
  Bits bits;
  for (const std::uint64_t place : places)
    for (std::uint64_t bit = place * 8; bit < place * 8 + 8; ++bit) bits.insert(bit);
  return bits;
}

}  // namespace

std::expected<ServerFlag, std::string> find_server_flag(const FunctionCode& is_server) {
  Places loaded;
  if (answer(is_server, {}, loaded) != Answer::no || loaded.size() > kMaxBytesLoaded)
    return std::unexpected("the function that tells a server's object is not understood");
  const auto unclear = std::unexpected("what tells a server's object is not clear");
  Bits telling;
  Places loaded_then = loaded;
  for (const std::uint64_t bit : bits_of(loaded)) {
    const Answer one = answer(is_server, {bit}, loaded_then);
    if (one == Answer::yes) telling.insert(bit);
    if (one == Answer::unknown && bit / 8 >= kTypeBytes) return unclear;
  }
  const auto member = telling.empty() ? std::nullopt : member_of(telling);
  if (!member || loaded_then.size() > kMaxBytesLoaded) return unclear;
  for (const std::uint64_t bit : bits_of(Places(loaded_then)))
    if (bit / 8 >= kTypeBytes && answer(is_server, {*telling.begin(), bit}, loaded_then) != Answer::yes)
      return unclear;
  return *member;
}

}  // namespace weir::bpf
