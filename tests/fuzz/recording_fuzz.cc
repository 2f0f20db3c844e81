// Any text as a recording: a line is refused or reads the same when written again, and the events of a
// stranger's file pass through the engine. It may count and drop what makes no sense, and must give each
// record as JSON.
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <boost/json.hpp>
#include <optional>

#include "attribution/engine.h"
#include "attribution/recording.h"
#include "tests/fuzz/fuzz.h"

namespace {

using namespace weir;
using fuzz::require;

EngineConfig config_of(const RecordingSession& session) {
  EngineConfig config;
  config.boot_time = session.boot_time;
  config.proxy_listeners = session.proxy_listeners;
  config.own_pids = session.own_pids;
  config.capture_bodies = true;
  config.limits = {.connections = 4,
                   .processes = 4,
                   .pending_exchanges = 4,
                   .unlinked_bytes = 256,
                   .body_bytes = 64,
                   .head_bytes = 512};
  return config;
}

// As `weir replay` does it.
class Replayer {
 public:
  void begin(const RecordingSession& session) {
    finish();
    engine_.emplace(config_of(session), [](const RecordPtr& record) {
      boost::json::error_code error;
      boost::json::parse(record->json, error);
      require(!error);
    });
  }
  void consume(Event event) {
    const std::string written = to_line(event);
    const auto again = from_line(written);
    require(again && to_line(*again) == written);
    last_ = std::max(last_, time_of(event));
    engine_->consume(std::move(event));
    engine_->advance(last_);
  }
  void finish() {
    if (engine_) engine_->finish(last_);
    engine_.reset();
  }

 private:
  std::optional<Engine> engine_;
  Time last_{};
};

void replay_as_file(std::string_view text) {
  static const int file = ::memfd_create("recording", MFD_CLOEXEC);
  require(::ftruncate(file, 0) == 0);
  require(::pwrite(file, text.data(), text.size(), 0) == static_cast<ssize_t>(text.size()));
  Replayer replayer;
  const auto read = replay(
      "/proc/self/fd/" + std::to_string(file), [&](const auto& session) { replayer.begin(session); },
      [&](Event event) { replayer.consume(std::move(event)); });
  replayer.finish();
  require(read || !read.error().empty());
}

// A file is left at its first bad line; here the good ones behind it get their turn, too.
void replay_line_by_line(std::string_view text) {
  Replayer replayer;
  replayer.begin({});
  while (!text.empty()) {
    const auto end = std::min(text.find('\n'), text.size());
    if (auto event = from_line(text.substr(0, end))) replayer.consume(*std::move(event));
    text.remove_prefix(std::min(end + 1, text.size()));
  }
  replayer.finish();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto text = fuzz::text_of(data, size);
  replay_as_file(text);
  replay_line_by_line(text);
  return 0;
}
