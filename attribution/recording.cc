// A recording's file: written while the live engine runs, read back without it. Holds plaintext, so it is for
// its owner alone.
#include "attribution/recording.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <mutex>

namespace weir {
namespace {

constexpr std::string_view kHeader = R"({"weir.recording":1})";

class FileRecorder final : public EventRecorder {
 public:
  explicit FileRecorder(std::FILE* file) : file_(file, &std::fclose) {}

  void record(const Event& event) override {
    std::string line = to_line(event);
    line += '\n';
    const std::lock_guard lock(mutex_);
    std::fwrite(line.data(), 1, line.size(), file_.get());
  }

  void flush() override {
    const std::lock_guard lock(mutex_);
    std::fflush(file_.get());
  }

 private:
  std::mutex mutex_;
  std::unique_ptr<std::FILE, int (*)(std::FILE*)> file_;
};

std::string errno_text(const std::filesystem::path& file) { return file.string() + ": " + std::strerror(errno); }

}  // namespace

std::expected<std::unique_ptr<EventRecorder>, std::string> EventRecorder::open(const std::filesystem::path& file) {
  const int descriptor = ::open(file.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600);
  if (descriptor < 0) return std::unexpected(errno_text(file));
  const bool empty = ::lseek(descriptor, 0, SEEK_END) == 0;
  std::FILE* stream = ::fdopen(descriptor, "a");
  if (stream == nullptr) {
    const std::string what = errno_text(file);
    ::close(descriptor);
    return std::unexpected(what);
  }
  if (empty) std::fprintf(stream, "%s\n", kHeader.data());
  return std::make_unique<FileRecorder>(stream);
}

std::expected<void, std::string> replay(const std::filesystem::path& file,
                                        const std::function<void(Event)>& deliver) {
  std::ifstream in(file, std::ios::binary);
  if (!in) return std::unexpected(errno_text(file));
  std::string line;
  for (std::uint64_t number = 1; std::getline(in, line); ++number) {
    const auto refuse = [&](const std::string& what) {
      return std::unexpected(file.string() + ":" + std::to_string(number) + ": " + what);
    };
    if (number == 1) {
      if (line != kHeader) return refuse("not a recording of this version of weir");
      continue;
    }
    auto event = from_line(line);
    if (!event) return refuse(event.error());
    deliver(std::move(*event));
  }
  return {};
}

}  // namespace weir
