// The agent's API: HTTP/1.1 and JSON, on the state directory's unix socket (no token: the file's mode decides
// who may) and on a TCP listener (loopback by default; Bearer token, Host checked against DNS rebinding).
// The command line is its first client; nothing else reaches a running agent.
//
//   GET /v1/status                                  what `weir status --json` prints
//   GET /v1/coverage                                what `weir coverage --json` prints
//   GET /v1/records?process=&pid=&host=&status=&since=&kind=&limit=   JSON lines, from the store, oldest
//   first GET /v1/tail?process=&...                       JSON lines without end: records as they are written
//
// `since` is RFC 3339, `kind` may repeat, `connections=opaque` leaves out connections whose content was read.
// A tail begins with an empty line: from there on nothing is missed but what {"weir.tail.dropped":N} counts.
// An answer that breaks off (no last chunk) is not whole.
#pragma once

#include <cstdint>
#include <expected>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "attribution/record.h"

namespace weir::agent {

struct ApiError {
  std::string what;
  std::string remedy;
};

// What the API asks the agent; each is called on the API's thread and must not block for long.
struct ApiBackend {
  std::function<std::string()> status_json;
  std::function<std::string()> coverage_json;
  std::filesystem::path database;  // opened read-only for each query
};

struct ApiConfig {
  std::filesystem::path unix_socket;  // made with mode 0600; a stale one is replaced
  std::optional<Endpoint> tcp;        // port 0: the kernel chooses
  std::string token;                  // for TCP
  std::size_t connections = 64;       // at once, for each of the two listeners
  std::size_t tail_queue = 4'096;  // records waiting for one slow reader; beyond it they are dropped and said
};

class ApiServer {
 public:
  static std::expected<std::unique_ptr<ApiServer>, ApiError> create(ApiConfig config, ApiBackend backend);
  virtual ~ApiServer() = default;
  virtual std::optional<Endpoint> address() const = 0;
  virtual void start() = 0;
  // Hands a record to everyone who is tailing. Thread-safe, never blocks.
  virtual void publish(RecordPtr record) = 0;
  // Ends the tails after what was published, within a second; then the thread.
  virtual void stop() = 0;
};

// The client's half, for the subcommands: one GET over the unix socket; `on_line` gets each line of the body
// as it arrives and returns false to stop. The error tells "no agent is running" apart by `not_running`.
struct ApiClientError {
  bool not_running = false;
  std::string what;
};
std::expected<void, ApiClientError> api_get(const std::filesystem::path& socket, const std::string& target,
                                            const std::function<bool(std::string_view line)>& on_line);

}  // namespace weir::agent
