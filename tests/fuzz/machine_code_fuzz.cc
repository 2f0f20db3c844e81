// Any bytes as a function's code: the returns found lie within it, in order, more code behind it changes
// nothing about them, and what stands for them and for the entry lies within it; a place of random bytes or
// of a server's flag that is read off it is one that a site's cookie can hold.
#include <algorithm>

#include "bpf/probes/client_random.h"
#include "bpf/probes/machine_code.h"
#include "bpf/probes/placement.h"
#include "bpf/probes/server_flag.h"
#include "tests/fuzz/fuzz.h"

namespace {

using namespace weir::bpf;
using weir::fuzz::require;

// A file of one function.
class NothingElse : public CodeSource {
 public:
  std::optional<FunctionCode> function_at(std::uint64_t) override { return std::nullopt; }
  bool read_at(std::uint64_t, std::span<std::uint8_t>) override { return false; }
  std::optional<std::uint64_t> pointer_at(std::uint64_t) override { return std::nullopt; }
};

constexpr GeneralRegister kArguments[] = {GeneralRegister::rdi, GeneralRegister::rsi};

void check_place(const Place& place, const FunctionCode& function) {
  require(place.address - function.address < function.bytes.size());
  require(place.below <= kMostBelow && place.below % 8 == 0);
  const std::uint8_t first = function.bytes[place.address - function.address];
  require(!place.emulated || (first >= 0x50 && first <= 0x57) || first == 0x41 || first >> 4 == 7 ||
          first == 0x0f || first == 0xe8 || first == 0xe9 || first == 0xeb);
}

void check_call(const FunctionCode& function) {
  NothingElse nothing;
  const auto code = read_call(function, nothing);
  if (!code) return;
  const auto& returns = code->returns;
  require(!returns.empty() && returns.back() - function.address < function.bytes.size());
  require(std::ranges::adjacent_find(returns, std::ranges::greater_equal{}) == returns.end());
  const Place entry = place_entry(*code, kArguments);
  check_place(entry, function);
  const auto places = place_returns(*code);
  require(places.size() == returns.size());
  for (std::size_t i = 0; i < places.size(); ++i) {
    check_place(places[i], function);
    require(places[i].address <= returns[i] && places[i].emulated == (places[i].address != returns[i]));
    require(i == 0 || places[i].address > returns[i - 1]);
  }
  FunctionCode longer = function;
  longer.bytes.push_back(0xc3);
  const auto more = read_call(longer, nothing);
  auto expected = returns;
  expected.push_back(function.address + function.bytes.size());
  require(more && more->returns == expected);
  require(place_entry(*more, kArguments) == entry);
}

void check_random(const std::expected<ClientRandom, std::string>& found) {
  require(!found || (found->random_at != 0 && found->random_at <= 0xffff && found->pointer_at <= 0xffff));
}

void check_server(const std::expected<ServerFlag, std::string>& found) {
  require(!found || (found->at != 0 && found->at <= kMaxServerFlagAt && found->flag <= WIRE_SERVER_INT));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const FunctionCode function{0x1000, {data, data + std::min<std::size_t>(size, 4096)}};
  check_call(function);
  check_random(find_client_random(function));
  check_random(find_session_random(function));
  check_server(find_server_flag(function));
  return 0;
}
