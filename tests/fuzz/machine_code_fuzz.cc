// Any bytes as a function's code: the returns found lie within it, in order, and more code behind it changes
// nothing about them.
#include <algorithm>

#include "bpf/probes/machine_code.h"
#include "tests/fuzz/fuzz.h"

using weir::fuzz::require;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto returns = weir::bpf::find_returns({data, size});
  if (!returns) return 0;
  require(!returns->empty() && returns->back() < size);
  require(std::ranges::adjacent_find(*returns, std::ranges::greater_equal{}) == returns->end());

  std::vector<std::uint8_t> longer(data, data + size);
  longer.push_back(0xc3);
  const auto more = weir::bpf::find_returns(longer);
  require(more.has_value());
  auto expected = *returns;
  expected.push_back(size);
  require(*more == expected);
  return 0;
}
