// Recording and replay of the event stream: one JSON object a line, first line a header with the format's
// version. A recording replayed through an Engine gives the records of the live run, without root.
#pragma once

#include <expected>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "attribution/events.h"

namespace weir {

// Appends events to a file (created 0600). Thread-safe: sources publish from several threads, and the file's
// order is the order of the calls. Payload is stored base64.
class EventRecorder {
 public:
  static std::expected<std::unique_ptr<EventRecorder>, std::string> open(const std::filesystem::path& file);
  virtual ~EventRecorder() = default;
  virtual void record(const Event& event) = 0;
  virtual void flush() = 0;
};

// The error names the file, the line and what is wrong with it; events before that line have been delivered.
std::expected<void, std::string> replay(const std::filesystem::path& file,
                                        const std::function<void(Event)>& deliver);

// The line format itself, for tests and fuzzing.
std::string to_line(const Event& event);
std::expected<Event, std::string> from_line(std::string_view line);

}  // namespace weir
