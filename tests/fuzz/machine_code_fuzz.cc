// Any bytes as a function's code: the returns found lie within it, in order, and more code behind it changes
// nothing about them; a place of random bytes or of a server's flag that is read off it is one that a
// site's cookie can hold.
#include <algorithm>

#include "bpf/probes/client_random.h"
#include "bpf/probes/machine_code.h"
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

void check_returns(const FunctionCode& function) {
  NothingElse nothing;
  const auto returns = find_returns(function, nothing);
  if (!returns) return;
  require(!returns->empty() && returns->back() - function.address < function.bytes.size());
  require(std::ranges::adjacent_find(*returns, std::ranges::greater_equal{}) == returns->end());
  FunctionCode longer = function;
  longer.bytes.push_back(0xc3);
  const auto more = find_returns(longer, nothing);
  auto expected = *returns;
  expected.push_back(function.address + function.bytes.size());
  require(more && *more == expected);
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
  check_returns(function);
  check_random(find_client_random(function));
  check_random(find_session_random(function));
  check_server(find_server_flag(function));
  return 0;
}
