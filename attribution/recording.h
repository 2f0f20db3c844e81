// Recording and replay of the event stream: one JSON object a line. A recording replayed through an Engine
// gives the records of the live run, without root. A line with the format's version opens a session: the
// first, and one more each time a worker opened the file again.
#pragma once

#include <expected>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "attribution/events.h"

namespace weir {

// What the engine of the live run was told beside the events: without it a replay could not tell the proxy's
// listener, or weir's own processes, from others.
struct RecordingSession {
  std::string host_id;
  std::string boot_id;
  Time boot_time{};
  std::vector<Endpoint> proxy_listeners;
  std::vector<std::uint32_t> own_pids;
};

// Appends events to a file (created 0600). Thread-safe: sources publish from several threads, and the file's
// order is the order of the calls. Payload is stored base64.
class EventRecorder {
 public:
  static std::expected<std::unique_ptr<EventRecorder>, std::string> open(const std::filesystem::path& file,
                                                                         const RecordingSession& session);
  // A descriptor that someone else opened for appending; taken over.
  static std::expected<std::unique_ptr<EventRecorder>, std::string> open(int descriptor,
                                                                         const RecordingSession& session);
  virtual ~EventRecorder() = default;
  virtual void record(const Event& event) = 0;
  virtual void flush() = 0;
};

// The error names the file, the line and what is wrong with it; events before that line have been delivered.
std::expected<void, std::string> replay(const std::filesystem::path& file,
                                        const std::function<void(const RecordingSession&)>& on_session,
                                        const std::function<void(Event)>& deliver);

// The line format itself, for tests and fuzzing.
std::string to_line(const Event& event);
std::expected<Event, std::string> from_line(std::string_view line);

}  // namespace weir
