// The agent's configuration: defaults, then the file (YAML), then the command line. One struct, passed on to
// the worker as text, so that both processes run with the same values.
#pragma once

#include <cstdint>
#include <expected>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "agent/error.h"
#include "agent/state_dir.h"
#include "attribution/identity.h"
#include "bpf/filters.h"

namespace weir::agent {

struct Config {
  std::string state_dir;
  std::string jsonl;   // "": none, "-": standard output
  std::string record;  // file for the event stream, "": none
  Endpoint proxy_listen;
  Endpoint api_listen;
  std::vector<std::string> upstream_ca;          // files
  std::vector<std::string> client_certificates;  // "example.org=FILE"
  std::vector<std::string> passthrough;
  std::uint32_t passthrough_after = 3;       // rejections of our certificate in a row; 0: never
  std::uint32_t passthrough_seconds = 3600;  // and for how long then
  bool open_mutual_tls = false;
  std::vector<std::string> container_state;  // container_files.h: more directories
  std::string policy;                        // file (policy_file.h), "": none
  std::string upstream_proxy;                // proxy/upstream_proxy.h has the form; "": none
  bool bodies = false;
  bool redact = true;
  bool ingress = false;
  bool native = true;
  bool proxy = true;
  bool store = true;
  std::uint64_t store_max_age_hours = 0;  // 0: no limit
  std::uint64_t store_max_bytes = std::uint64_t{4} << 30;
  int first_user = -1;  // users.h: ends with its last user; no key of the file
  std::uint64_t ring_bytes = 32u << 20;
  bool socket_events = true;  // this and the next: false forces what older kernels get
  bool uprobe_multi = true;
  bool hold_execs = true;
  std::vector<std::string> native_only;  // bpf/filters.h has the words
  std::vector<std::string> native_except;
  std::vector<std::string> transparent_processes;  // those of the words that name processes and cgroups
  bool steer = true;                               // to the proxy, what only it can judge by policy
  bool refuse_quic = true;                         // of redirected processes
  bool fail_closed = false;  // what can't be redirected is refused, also when the agent is gone
  std::uint64_t body_bytes = 8u << 20;
  std::uint64_t queue_bytes = 64u << 20;
  std::uint64_t queue_events = 65'536;
  std::uint64_t connections = 100'000;
  std::uint64_t proxy_connections = 10'000;
  std::uint64_t proxy_memory_bytes = std::uint64_t{2}
                                     << 30;  // of the worker's, beyond which idle clients are ended
  std::uint32_t proxy_threads = 0;
  std::uint32_t shards = 1;
};

Config default_config();

// Reads the file over `config`. The error has the file, the line and what is wrong: unknown keys, wrong types
// and values out of range are errors, and `config` is then unchanged.
std::expected<void, Error> read_config_file(const std::filesystem::path& file, Config& config);
std::expected<void, Error> read_config_text(std::string_view text, const std::string& name, Config& config);

// The whole configuration as a file's text: what the broker hands to the worker.
std::string to_yaml(const Config& config);

// native.only and native.except, which were checked when they were read.
bpf::Filters filters_of(const Config& config);

// "127.0.0.1:7443", "[::1]:0"
std::expected<Endpoint, Error> parse_endpoint(std::string_view text);

}  // namespace weir::agent
