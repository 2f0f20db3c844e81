// Reading of a file that somebody else made and may change meanwhile: by pread alone (of a mapped file cut
// short each access would be SIGBUS), and within a budget, so that no file costs more than a second or so,
// whatever it says about itself.
#pragma once

#include <array>
#include <cstdint>
#include <cstring>
#include <functional>
#include <optional>
#include <span>
#include <type_traits>
#include <vector>

namespace weir::bpf {

struct FileRange {
  std::uint64_t offset = 0;
  std::uint64_t size = 0;
};

// Borrows the descriptor. Not thread-safe.
class FileReader {
 public:
  static constexpr std::uint64_t kBudget = 1024ull * 1024 * 1024;  // bytes; each call counts as a page, too

  explicit FileReader(int descriptor) : descriptor_(descriptor) {}

  // All of `into`, or false: the file is shorter, can't be read, or has used up the budget.
  bool read(std::uint64_t offset, std::span<std::uint8_t> into);

  template <class T>
  std::optional<T> read_one(std::uint64_t offset) {
    static_assert(std::is_trivially_copyable_v<T>);
    std::array<std::uint8_t, sizeof(T)> bytes;
    if (!read(offset, bytes)) return std::nullopt;
    T value;
    std::memcpy(&value, bytes.data(), sizeof(T));
    return value;
  }

  // A range, piece by piece. Each piece but the first begins with the last `overlap` bytes of the one before,
  // so that whatever is not longer than that is whole in one of them. `visit` gets the piece and where in the
  // file it begins, and returns false to end the scan. False: the range could not be read to its end.
  using Visit = std::function<bool(std::span<const std::uint8_t> piece, std::uint64_t offset)>;
  bool scan(FileRange range, std::size_t overlap, const Visit& visit);

  // The records of a table, in order, until `visit` returns false. False: as for scan().
  template <class T, class VisitRecord>
  bool each(FileRange table, VisitRecord&& visit) {
    static_assert(std::is_trivially_copyable_v<T> && kPieceBytes % sizeof(T) == 0);
    table.size -= table.size % sizeof(T);
    return scan(table, 0, [&](std::span<const std::uint8_t> piece, std::uint64_t) {
      for (; !piece.empty(); piece = piece.subspan(sizeof(T))) {
        T record;
        std::memcpy(&record, piece.data(), sizeof(T));
        if (!visit(record)) return false;
      }
      return true;
    });
  }

 private:
  static constexpr std::size_t kPieceBytes = 3 * 64 * 1024;  // holds whole records of 8, 16 and 24 bytes

  int descriptor_;
  std::uint64_t spent_ = 0;
};

// Small reads near one another: most are answered from a page read before.
class FileWindow {
 public:
  explicit FileWindow(FileReader& file) : file_(file) {}

  template <class T>
  std::optional<T> read_one(std::uint64_t offset) {
    static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= kMargin);
    if (!hold(offset, sizeof(T))) return file_.read_one<T>(offset);
    T value;
    std::memcpy(&value, page_.data() + (offset - start_), sizeof(T));
    return value;
  }

 private:
  static constexpr std::size_t kPageBytes = 16 * 1024;
  static constexpr std::size_t kMargin = 64;

  bool hold(std::uint64_t offset, std::size_t size);

  FileReader& file_;
  std::vector<std::uint8_t> page_;
  std::uint64_t start_ = 0;
};

}  // namespace weir::bpf
