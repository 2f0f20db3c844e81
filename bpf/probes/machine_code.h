// Reading of machine code: where a probe may stand. x86-64; the decoder library stays behind this header.
#pragma once

#include <cstdint>
#include <expected>
#include <span>
#include <string>
#include <vector>

namespace weir::bpf {

// The offsets of a function's `ret` instructions. An error when the function can leave in a way that none of
// them sees: by a jump to another function, or one whose target isn't known. A conditional jump out is
// allowed: compilers keep a function's rarely used rest elsewhere. Any bytes may be given.
std::expected<std::vector<std::uint64_t>, std::string> find_returns(std::span<const std::uint8_t> code);

}  // namespace weir::bpf
