#include "bpf/probes/library_cache.h"

#include <sys/stat.h>

#include <algorithm>
#include <optional>
#include <set>
#include <string_view>
#include <utility>

#include "bpf/probes/elf_file.h"

namespace weir::bpf {
namespace {

constexpr std::uint64_t kPage = 4096;

std::uint64_t size_of(int file_descriptor) {
  struct stat status{};
  return ::fstat(file_descriptor, &status) == 0 ? static_cast<std::uint64_t>(status.st_size) : 0;
}

// "" for a file of which nothing is remembered.
std::string key_of(ElfFile& file, std::uint64_t size) {
  const std::string id = file.build_id();
  if (id.empty()) return {};
  return id + ' ' + std::to_string(size) + ' ' + std::to_string(file.headers_digest());
}

// Of the pages with sites, and of those before them, where their functions may begin.
std::optional<std::size_t> code_digest(FileReader& reader, std::uint64_t size,
                                       const std::vector<FoundLibrary>& libraries) {
  std::set<std::uint64_t> pages;
  for (const FoundLibrary& library : libraries) {
    for (const ProbeSite& site : library.sites) {
      const std::uint64_t page = site.offset / kPage;
      pages.insert(page);
      if (page > 0) pages.insert(page - 1);
    }
  }
  std::size_t digest = 0;
  std::vector<std::uint8_t> bytes;
  for (const std::uint64_t page : pages) {
    const std::uint64_t start = page * kPage;
    if (start >= size) return std::nullopt;
    bytes.resize(std::min(kPage, size - start));
    if (!reader.read(start, bytes)) return std::nullopt;
    const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
    digest = digest * 31 + std::hash<std::string_view>()(text);
  }
  return digest;
}

}  // namespace

std::expected<std::vector<FoundLibrary>, std::string> LibraryCache::find(int file_descriptor) {
  auto file = ElfFile::open(file_descriptor);
  if (!file) return std::unexpected(file.error());
  const std::uint64_t size = size_of(file_descriptor);
  std::string key = key_of(*file, size);
  if (key.empty()) return find_tls_libraries(file_descriptor);
  if (const auto known = entries_.find(key); known != entries_.end()) {
    if (code_digest(file->reader(), size, known->second.libraries) == known->second.code) {
      known->second.used = ++uses_;
      ++hits_;
      return known->second.libraries;
    }
  }
  auto found = find_tls_libraries(file_descriptor);
  // Of a library that can't be read there is no code to compare.
  const auto can_be_read = [](const FoundLibrary& library) { return library.unreadable.empty(); };
  if (!found || !std::ranges::all_of(*found, can_be_read)) return found;
  if (const auto code = code_digest(file->reader(), size, *found))
    remember(std::move(key), {*found, *code, ++uses_});
  return found;
}

void LibraryCache::remember(std::string key, Entry entry) {
  entries_.insert_or_assign(std::move(key), std::move(entry));
  if (entries_.size() <= most_) return;
  entries_.erase(std::ranges::min_element(entries_, {}, [](const auto& one) { return one.second.used; }));
}

}  // namespace weir::bpf
