// The record: what weir writes, one for each exchange, connection, process. Flat keys in OpenTelemetry's
// names where one exists, weir.* else. A field that is absent is unknown; a known "none" is an empty string.
//
// A Record is built by the engine on one thread and immutable from then on; sinks share it by RecordPtr.
#pragma once

#include <cstdint>
#include <expected>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "attribution/identity.h"

namespace weir {

enum class RecordKind : std::uint8_t { exchange, connection, process, dns, policy };
std::string_view to_string(RecordKind kind);

struct Record {
  RecordKind kind = RecordKind::exchange;
  std::string id;  // unique over hosts and boots; interim records of one exchange share it
  bool final = true;
  bool replaces = false;  // interim records with its id, and its timestamp, were made before it
  Time timestamp;         // when it began

  // What filters and the store's columns look at; the same facts stand in `json`.
  std::uint32_t pid = 0;
  std::string executable_name;
  std::string server_address;
  std::int64_t status_code = 0;  // 0: none
  std::string container_id;
  std::string container_name{};
  std::string opaque_reason;

  // The whole record, as RecordWriter (record_json.h) wrote it: one line of JSON without the newline. Strings
  // that aren't UTF-8 have each offending byte written as \u00XX with the byte's value, so nothing is lost
  // and the line is valid JSON.
  std::string json;
};

using RecordPtr = std::shared_ptr<const Record>;

// RFC 3339, UTC, nine fractional digits, "Z".
std::string to_rfc3339(Time time);
std::expected<Time, std::string> parse_rfc3339(std::string_view text);

// What the filters of `weir tail` and `weir ls` select. Empty members select everything.
struct RecordFilter {
  std::vector<RecordKind> kinds{};
  std::string process_name{};  // equals process.executable.name
  std::uint32_t pid = 0;
  std::string host{};           // equals server.address, or a suffix of it after a leading '.' or "*."
  std::string status{};         // "404", or a class: "4xx"
  std::optional<Time> since{};  // timestamp not before
  bool matches(const Record& record) const;
};

}  // namespace weir
