// What a leaf may be for: one DNS name or one literal address, strictly checked, because the signer trusts
// nobody who asks. Never guesses, trims or lowers.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace weir::ca {

struct LeafName {
  std::string text;
  std::vector<std::uint8_t> address;  // 4 or 16 bytes in network order; empty for a DNS name
};

std::optional<LeafName> parse_leaf_name(std::string_view text);

}  // namespace weir::ca
