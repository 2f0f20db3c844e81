// Cuts a byte stream in pieces: whole, byte by byte, and at random places (reproducibly). A parser must not
// notice.
#pragma once

#include <algorithm>
#include <random>
#include <span>
#include <string_view>
#include <vector>

namespace weir::http::test {

inline std::span<const std::byte> bytes(std::string_view text) {
  return std::as_bytes(std::span(text));
}

using Pieces = std::vector<std::string_view>;

inline Pieces cut(std::string_view text, std::size_t min_size, std::size_t max_size, unsigned seed) {
  std::mt19937 random(seed);
  std::uniform_int_distribution<std::size_t> size(min_size, max_size);
  Pieces pieces;
  while (!text.empty()) {
    const auto n = std::min(size(random), text.size());
    pieces.push_back(text.substr(0, n));
    text.remove_prefix(n);
  }
  return pieces;
}

inline std::vector<Pieces> splits(std::string_view text) {
  std::vector<Pieces> all = {Pieces{text}, cut(text, 1, 1, 0)};
  for (unsigned seed = 1; seed <= 20; ++seed) all.push_back(cut(text, 1, 3 * seed, seed));
  return all;
}

}  // namespace weir::http::test
