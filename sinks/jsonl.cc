// See jsonl.h. The descriptor may be a file, a pipe or a terminal, blocking or not.
#include "sinks/jsonl.h"

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace weir::sinks {
namespace {

// So much text goes out at once: what fits into a processor's cache beside its records. A record may be
// longer, its memory isn't kept.
constexpr std::size_t kWriteBytes = std::size_t{128} << 10;
constexpr std::size_t kKeptBytes = 4 * kWriteBytes;

const char* remedy_for(int error_number) {
  switch (error_number) {
    case ENOSPC:
    case EDQUOT:
      return "free some space; records go on once there is room";
    case EPIPE:
      return "its reader has gone";
    case EACCES:
    case EPERM:
      return "choose a file that weir's user may write";
    case ENOENT:
      return "make its directory first";
    default:
      return "";
  }
}

Error system_error(const std::string& name, int error_number) {
  return {name + ": " + std::strerror(error_number), remedy_for(error_number)};
}

class JsonlSink : public Sink {
 public:
  JsonlSink(int descriptor, std::string name) : descriptor_(descriptor), name_(std::move(name)) {}
  ~JsonlSink() override { ::close(descriptor_); }
  JsonlSink(const JsonlSink&) = delete;
  JsonlSink& operator=(const JsonlSink&) = delete;

  std::string name() const override { return "jsonl"; }
  std::chrono::milliseconds batch_delay() const override { return std::chrono::milliseconds(20); }

  std::expected<void, Error> write(std::span<const RecordPtr> batch) override {
    text_.clear();
    // A line that an earlier failure cut short must not swallow the next one.
    if (torn_line_) text_ += '\n';
    for (const auto& record : batch) {
      text_ += record->json;
      text_ += '\n';
      if (text_.size() < kWriteBytes) continue;
      if (auto written = write_all(text_); !written) return written;
      text_.clear();
      if (text_.capacity() > kKeptBytes) text_.shrink_to_fit();
    }
    return write_all(text_);
  }

 private:
  std::expected<void, Error> write_all(std::string_view text) {
    while (!text.empty()) {
      const auto written = ::write(descriptor_, text.data(), text.size());
      if (written > 0) {
        torn_line_ = text[static_cast<std::size_t>(written) - 1] != '\n';
        text.remove_prefix(static_cast<std::size_t>(written));
      } else if (errno == EAGAIN) {
        pollfd ready{descriptor_, POLLOUT, 0};
        ::poll(&ready, 1, -1);
      } else if (errno != EINTR) {
        return std::unexpected(system_error(name_, errno));
      }
    }
    return {};
  }

  const int descriptor_;
  const std::string name_;
  std::string text_;
  bool torn_line_ = false;
};

}  // namespace

std::unique_ptr<Sink> make_jsonl_sink(int descriptor, std::string name) {
  return std::make_unique<JsonlSink>(descriptor, std::move(name));
}

std::expected<std::unique_ptr<Sink>, Error> make_jsonl_sink(const std::string& path) {
  const bool to_stdout = path == "-";
  const int descriptor =
      to_stdout ? ::fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 3)
                : ::open(path.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOCTTY, 0600);
  const std::string name = to_stdout ? "standard output" : path;
  if (descriptor < 0) return std::unexpected(system_error(name, errno));
  return make_jsonl_sink(descriptor, name);
}

}  // namespace weir::sinks
