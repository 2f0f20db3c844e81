// Texts sought in parts of a file, without holding these.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "bpf/probes/file_reader.h"

namespace weir::bpf {

// Where names end in a table of strings that are each ended by NUL: offset of the name's first character in
// the table -> the name, a view of `names`. Linkers let a string stand at the end of a longer one, so what
// comes before the name does not matter. Nothing when the table can't be read or has the names absurdly
// often.
using NamePlaces = std::unordered_map<std::uint64_t, std::string_view>;
std::optional<NamePlaces> find_names(FileReader& reader, FileRange table,
                                     std::span<const std::string_view> names);

// A text that is sought among other bytes, and what must follow it. `accept` gets what stands there, the text
// first, up to kTailBytes behind it (fewer only at a range's end); null accepts everything.
struct SoughtText {
  std::string_view text;
  bool (*accept)(std::string_view from_text_on) = nullptr;
};

struct FoundText {
  std::uint64_t offset = 0;  // in the file
  std::string tail;          // as `accept` got it
};

inline constexpr std::size_t kTailBytes = 64;

// The first of each that is accepted, in the order of the ranges; nothing for those that aren't there. What
// can't be read is passed over.
std::vector<std::optional<FoundText>> find_texts(FileReader& reader, std::span<const FileRange> ranges,
                                                 std::span<const SoughtText> texts);

}  // namespace weir::bpf
