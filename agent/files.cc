// See files.h. Never reads on in what has no end, as a device.
#include "agent/files.h"

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>

#include "agent/descriptor.h"

namespace weir::agent {

std::expected<std::string, Error> read_file(const std::filesystem::path& file, std::size_t limit,
                                            const std::string& option) {
  const std::string remedy = "check the path given to " + option;
  const auto failed = [&] {
    return std::unexpected(Error{file.string() + ": " + std::strerror(errno), remedy});
  };
  const Descriptor in(::open(file.c_str(), O_RDONLY | O_CLOEXEC));
  if (!in) return failed();
  std::string text;
  std::array<char, 65536> part{};
  while (true) {
    const ssize_t size = ::read(in.get(), part.data(), part.size());
    if (size < 0 && errno == EINTR) continue;
    if (size < 0) return failed();
    if (size == 0) return text;
    if (text.size() + static_cast<std::size_t>(size) > limit) {
      return std::unexpected(
          Error{file.string() + ": larger than " + std::to_string(limit) + " bytes", remedy});
    }
    text.append(part.data(), static_cast<std::size_t>(size));
  }
}

}  // namespace weir::agent
