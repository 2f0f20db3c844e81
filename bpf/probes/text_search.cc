// One pass over the file for all that is sought.
#include "bpf/probes/text_search.h"

#include <cstring>

#include <algorithm>
#include <array>

namespace weir::bpf {
namespace {

constexpr std::size_t kMaxNamePlaces = 64 * 1024;
constexpr std::size_t kCacheBytes = 16 * 1024;

std::size_t longest(std::span<const std::string_view> texts) {
  std::size_t length = 0;
  for (const std::string_view text : texts) length = std::max(length, text.size());
  return length;
}

class Names {
 public:
  explicit Names(std::span<const std::string_view> names) {
    for (const std::string_view name : names)
      if (!name.empty()) by_last_[static_cast<std::uint8_t>(name.back())].push_back(name);
  }

  void note_end(std::string_view before_nul, std::uint64_t at, NamePlaces& places) const {
    if (before_nul.empty()) return;
    for (const std::string_view name : by_last_[static_cast<std::uint8_t>(before_nul.back())])
      if (before_nul.ends_with(name)) places.emplace(at + before_nul.size() - name.size(), name);
  }

 private:
  std::array<std::vector<std::string_view>, 256> by_last_;
};

// The first occurrence that begins before `limit`.
std::optional<std::size_t> find_before(std::span<const std::uint8_t> piece, std::size_t limit,
                                       std::string_view text) {
  const std::size_t length = std::min(piece.size(), limit + text.size() - 1);
  const void* found = ::memmem(piece.data(), length, text.data(), text.size());
  if (found == nullptr) return std::nullopt;
  return static_cast<const std::uint8_t*>(found) - piece.data();
}

}  // namespace

std::optional<NamePlaces> find_names(FileReader& reader, FileRange table, std::span<const std::string_view> names) {
  const Names sought(names);
  NamePlaces places;
  const bool read = reader.scan(table, longest(names), [&](std::span<const std::uint8_t> piece, std::uint64_t at) {
    const std::string_view text(reinterpret_cast<const char*>(piece.data()), piece.size());
    for (auto end = text.find('\0'); end != std::string_view::npos; end = text.find('\0', end + 1))
      sought.note_end(text.substr(0, end), at - table.offset, places);
    return places.size() <= kMaxNamePlaces;
  });
  if (!read || places.size() > kMaxNamePlaces) return std::nullopt;
  return places;
}

std::vector<std::optional<std::uint64_t>> find_texts(FileReader& reader, std::span<const FileRange> ranges,
                                                     std::span<const std::string_view> texts) {
  std::vector<std::optional<std::uint64_t>> places(texts.size());
  std::size_t missing = texts.size();
  const auto look = [&](std::span<const std::uint8_t> piece, std::uint64_t at) {
    // Part by part, so that each part is in the cache for all texts but the first.
    for (std::size_t start = 0; start < piece.size(); start += kCacheBytes) {
      for (std::size_t i = 0; i < texts.size(); ++i) {
        if (places[i]) continue;
        const auto found = find_before(piece.subspan(start), kCacheBytes, texts[i]);
        if (!found) continue;
        places[i] = at + start + *found;
        --missing;
      }
    }
    return missing > 0;
  };
  for (const FileRange& range : ranges) {
    if (missing > 0) (void)reader.scan(range, longest(texts), look);
  }
  return places;
}

}  // namespace weir::bpf
