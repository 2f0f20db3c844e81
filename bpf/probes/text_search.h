// Texts sought in parts of a file, without holding these.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "bpf/probes/file_reader.h"

namespace weir::bpf {

// Where names end in a table of strings that are each ended by NUL: offset of the name's first character in the
// table -> the name, a view of `names`. Linkers let a string stand at the end of a longer one, so what comes
// before the name does not matter. Nothing when the table can't be read or has the names absurdly often.
using NamePlaces = std::unordered_map<std::uint64_t, std::string_view>;
std::optional<NamePlaces> find_names(FileReader& reader, FileRange table, std::span<const std::string_view> names);

// Where in the file each text first occurs in the ranges; nothing for those that don't. What can't be read is
// passed over.
std::vector<std::optional<std::uint64_t>> find_texts(FileReader& reader, std::span<const FileRange> ranges,
                                                     std::span<const std::string_view> texts);

}  // namespace weir::bpf
