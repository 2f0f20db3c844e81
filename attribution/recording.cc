// A recording's file: written while the live engine runs, read back without it. Holds plaintext, so it is for
// its owner alone.
#include "attribution/recording.h"

#include <fcntl.h>
#include <unistd.h>

#include <boost/json.hpp>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <mutex>
#include <optional>

namespace weir {
namespace {

constexpr std::string_view kSessionStart = R"({"weir.recording":)";
constexpr std::int64_t kVersion = 1;
constexpr std::size_t kLongestLine = std::size_t{16} << 20;

std::string to_header(const RecordingSession& session) {
  boost::json::array listeners;
  for (const Endpoint& listener : session.proxy_listeners) {
    listeners.push_back({{"address", listener.address.to_string()}, {"port", listener.port}});
  }
  return boost::json::serialize(boost::json::object{
      {"weir.recording", kVersion},
      {"host_id", session.host_id},
      {"boot_id", session.boot_id},
      {"boot_time_ns", session.boot_time.time_since_epoch().count()},
      {"proxy_listeners", listeners},
      {"own_pids", boost::json::array(session.own_pids.begin(), session.own_pids.end())}});
}

std::optional<Endpoint> endpoint_of(const boost::json::value& value) {
  boost::system::error_code absent;
  const auto* address = value.find_pointer("/address", absent);
  const auto* port = value.find_pointer("/port", absent);
  if (address == nullptr || !address->is_string() || port == nullptr || !port->is_int64())
    return std::nullopt;
  return Endpoint{parse_ip_address(std::string(address->as_string())),
                  static_cast<std::uint16_t>(port->as_int64())};
}

std::optional<RecordingSession> from_header(std::string_view line) {
  boost::system::error_code malformed;
  const boost::json::value parsed = boost::json::parse(line, malformed);
  if (malformed || !parsed.is_object()) return std::nullopt;
  const boost::json::object& header = parsed.get_object();
  const auto* version = header.if_contains("weir.recording");
  const auto* host_id = header.if_contains("host_id");
  const auto* boot_id = header.if_contains("boot_id");
  const auto* boot_time = header.if_contains("boot_time_ns");
  const auto* listeners = header.if_contains("proxy_listeners");
  const auto* own_pids = header.if_contains("own_pids");
  if (version == nullptr || !version->is_int64() || version->get_int64() != kVersion || host_id == nullptr ||
      !host_id->is_string() || boot_id == nullptr || !boot_id->is_string() || boot_time == nullptr ||
      !boot_time->is_int64() || listeners == nullptr || !listeners->is_array() || own_pids == nullptr ||
      !own_pids->is_array()) {
    return std::nullopt;
  }
  RecordingSession session;
  session.host_id = std::string(host_id->get_string());
  session.boot_id = std::string(boot_id->get_string());
  session.boot_time = Time(std::chrono::nanoseconds(boot_time->get_int64()));
  if (session.boot_time < Time{} || session.boot_time > kLatestTime) return std::nullopt;
  for (const auto& listener : listeners->get_array()) {
    const auto endpoint = endpoint_of(listener);
    if (!endpoint) return std::nullopt;
    session.proxy_listeners.push_back(*endpoint);
  }
  for (const auto& pid : own_pids->get_array()) {
    if (!pid.is_int64()) return std::nullopt;
    session.own_pids.push_back(static_cast<std::uint32_t>(pid.get_int64()));
  }
  return session;
}

using File = std::unique_ptr<std::FILE, int (*)(std::FILE*)>;

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
  File file_;
};

// False at the end. A line ends at the limit at the latest: what is no recording may have none.
bool next_line(std::FILE* in, std::string& line) {
  line.clear();
  int next = EOF;
  while (line.size() < kLongestLine && (next = ::getc_unlocked(in)) != EOF && next != '\n')
    line.push_back(static_cast<char>(next));
  return !line.empty() || next == '\n';
}

std::string errno_text(const std::filesystem::path& file) {
  return file.string() + ": " + std::strerror(errno);
}

}  // namespace

std::expected<std::unique_ptr<EventRecorder>, std::string> EventRecorder::open(
    const std::filesystem::path& file, const RecordingSession& session) {
  const int descriptor = ::open(file.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600);
  if (descriptor < 0) return std::unexpected(errno_text(file));
  return open(descriptor, session);
}

std::expected<std::unique_ptr<EventRecorder>, std::string> EventRecorder::open(
    int descriptor, const RecordingSession& session) {
  std::FILE* stream = ::fdopen(descriptor, "a");
  if (stream == nullptr) {
    const std::string what = errno_text("the recording");
    ::close(descriptor);
    return std::unexpected(what);
  }
  std::fprintf(stream, "%s\n", to_header(session).c_str());
  return std::make_unique<FileRecorder>(stream);
}

std::expected<void, std::string> replay(const std::filesystem::path& file,
                                        const std::function<void(const RecordingSession&)>& on_session,
                                        const std::function<void(Event)>& deliver) {
  const File in(std::fopen(file.c_str(), "re"), &std::fclose);
  if (!in) return std::unexpected(errno_text(file));
  std::string line;
  std::uint64_t number = 1;
  for (; next_line(in.get(), line); ++number) {
    const auto refuse = [&](const std::string& what) {
      return std::unexpected(file.string() + ":" + std::to_string(number) + ": " + what);
    };
    if (number == 1 || line.starts_with(kSessionStart)) {
      const auto session = from_header(line);
      if (!session) return refuse("not a recording of this version of weir");
      on_session(*session);
      continue;
    }
    auto event = from_line(line);
    if (!event) return refuse(event.error());
    deliver(std::move(*event));
  }
  if (std::ferror(in.get()) != 0) return std::unexpected(errno_text(file));
  if (number == 1) return std::unexpected(file.string() + ": empty, not a recording");
  return {};
}

}  // namespace weir
