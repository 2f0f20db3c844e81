// Bounded reading by pread.
#include "bpf/probes/file_reader.h"

#include <unistd.h>

#include <algorithm>

namespace weir::bpf {
namespace {

constexpr std::uint64_t kCallCost = 4096;

}  // namespace

bool FileReader::read(std::uint64_t offset, std::span<std::uint8_t> into) {
  if (into.size() > kBudget || offset > static_cast<std::uint64_t>(INT64_MAX) - kBudget) return false;
  while (!into.empty()) {
    if (spent_ + into.size() + kCallCost > kBudget) return false;
    const ssize_t got = ::pread(descriptor_, into.data(), into.size(), static_cast<off_t>(offset));
    if (got <= 0) return false;
    spent_ += static_cast<std::uint64_t>(got) + kCallCost;
    offset += static_cast<std::uint64_t>(got);
    into = into.subspan(static_cast<std::size_t>(got));
  }
  return true;
}

bool FileReader::scan(FileRange range, std::size_t overlap, const Visit& visit) {
  if (range.size > kBudget) return false;
  std::vector<std::uint8_t> buffer(overlap + std::min<std::uint64_t>(range.size, kPieceBytes));
  std::size_t kept = 0;
  std::uint64_t done = 0;
  while (done < range.size) {
    const auto fresh = static_cast<std::size_t>(std::min<std::uint64_t>(range.size - done, kPieceBytes));
    if (!read(range.offset + done, std::span(buffer).subspan(kept, fresh))) return false;
    const std::span piece = std::span(buffer).first(kept + fresh);
    if (!visit(piece, range.offset + done - kept)) return true;
    done += fresh;
    kept = std::min(overlap, piece.size());
    std::ranges::copy(piece.last(kept), buffer.begin());
  }
  return true;
}

bool FileWindow::hold(std::uint64_t offset, std::size_t size) {
  if (offset >= start_ && offset - start_ <= page_.size() && size <= page_.size() - (offset - start_))
    return true;
  // The file's last page is shorter: its few records are read one by one.
  page_.resize(kPageBytes);
  start_ = offset;
  if (!file_.read(offset, page_)) page_.clear();
  return !page_.empty();
}

}  // namespace weir::bpf
