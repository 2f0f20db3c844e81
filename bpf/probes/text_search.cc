// One pass over the file for all that is sought.
#include "bpf/probes/text_search.h"

#include <cstring>

#include <algorithm>
#include <array>

namespace weir::bpf {
namespace {

constexpr std::size_t kMaxNamePlaces = 64 * 1024;
constexpr std::size_t kCacheBytes = 16 * 1024;

std::string_view text_of(std::span<const std::uint8_t> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
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

// The first accepted occurrence that begins before `limit`: where in the piece.
std::optional<std::size_t> find_before(std::string_view piece, std::size_t limit, const SoughtText& sought) {
  const auto& [text, accept] = sought;
  const std::string_view within = piece.substr(0, limit + text.size() - 1);
  // A file may be full of what is not accepted.
  std::size_t tries = 64;
  for (std::size_t from = 0; from < within.size() && tries-- > 0;) {
    const void* found = ::memmem(within.data() + from, within.size() - from, text.data(), text.size());
    if (found == nullptr) return std::nullopt;
    const std::size_t at = static_cast<const char*>(found) - within.data();
    if (accept == nullptr || accept(piece.substr(at, text.size() + kTailBytes))) return at;
    from = at + 1;
  }
  return std::nullopt;
}

}  // namespace

std::optional<NamePlaces> find_names(FileReader& reader, FileRange table,
                                     std::span<const std::string_view> names) {
  const Names sought(names);
  NamePlaces places;
  std::size_t longest = 0;
  for (const std::string_view name : names) longest = std::max(longest, name.size());
  const bool read = reader.scan(table, longest, [&](std::span<const std::uint8_t> piece, std::uint64_t at) {
    const std::string_view text = text_of(piece);
    for (auto end = text.find('\0'); end != std::string_view::npos; end = text.find('\0', end + 1)) {
      sought.note_end(text.substr(0, end), at - table.offset, places);
      while (end + 1 < text.size() && text[end + 1] == '\0') ++end;
    }
    return places.size() <= kMaxNamePlaces;
  });
  if (!read || places.size() > kMaxNamePlaces) return std::nullopt;
  return places;
}

std::vector<std::optional<FoundText>> find_texts(FileReader& reader, std::span<const FileRange> ranges,
                                                 std::span<const SoughtText> texts) {
  std::vector<std::optional<FoundText>> found(texts.size());
  std::size_t missing = texts.size(), overlap = 0;
  for (const SoughtText& sought : texts) overlap = std::max(overlap, sought.text.size() + kTailBytes);
  const auto look = [&](std::span<const std::uint8_t> piece, std::uint64_t at) {
    // Part by part, so that each part is in the cache for all texts but the first.
    for (std::size_t start = 0; start < piece.size(); start += kCacheBytes) {
      const std::string_view rest = text_of(piece.subspan(start));
      for (std::size_t i = 0; i < texts.size(); ++i) {
        if (found[i]) continue;
        const auto place = find_before(rest, kCacheBytes, texts[i]);
        if (!place) continue;
        found[i] = FoundText{at + start + *place,
                             std::string(rest.substr(*place, texts[i].text.size() + kTailBytes))};
        --missing;
      }
    }
    return missing > 0;
  };
  for (const FileRange& range : ranges) {
    if (missing > 0) (void)reader.scan(range, overlap, look);
  }
  return found;
}

}  // namespace weir::bpf
