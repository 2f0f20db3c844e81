// See common.h.
#include "agent/commands/common.h"

#include <grp.h>
#include <sys/stat.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <cstdio>
#include <cstring>

#include "agent/record_query.h"
#include "agent/record_text.h"

namespace weir::agent {
namespace {

int output_error = 0;  // errno of the first failed write to standard output

// "10m" as the time ten minutes ago; anything else is returned as it is.
std::string absolute_time(const std::string& text) {
  struct Unit {
    char letter;
    std::chrono::seconds length;
  };
  static constexpr Unit kUnits[] = {{'s', std::chrono::seconds(1)},
                                    {'m', std::chrono::minutes(1)},
                                    {'h', std::chrono::hours(1)},
                                    {'d', std::chrono::days(1)}};
  std::uint32_t count = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), count);
  if (error != std::errc{} || end + 1 != text.data() + text.size()) return text;
  for (const auto& unit : kUnits) {
    if (*end != unit.letter) continue;
    const auto now = std::chrono::floor<std::chrono::seconds>(std::chrono::system_clock::now());
    return to_rfc3339(now - std::min(count * unit.length, now.time_since_epoch()));  // 1970 is early enough
  }
  return text;
}

struct FilterOption {
  const char* parameter;
  const char* value_name;
  const char* help;
};
constexpr FilterOption kFilters[] = {
    {"process", "NAME", "Only of processes whose executable has this name"},
    {"pid", "N", "Only of the process with this pid"},
    {"host", "H", "Only to this server; .example.com means everything below it"},
    {"status", "S", "Only with this HTTP status: 404, or a class: 4xx"},
    {"container", "C", "Only from the container of this name, or whose id is this or begins so"},
    {"since", "WHEN", "Only from then on: 2030-01-31T12:00:00Z, or a span back from now: 90s, 10m, 2h, 1d"},
    {"kind", "K", "Only this kind (exchange, connection, process, dns, policy); may be repeated"},
};

void set_or_throw(sinks::StoreQuery& query, const std::string& parameter, const std::string& value) {
  const bool is_time = parameter == "since";
  const auto set = set_parameter(query, parameter, is_time ? absolute_time(value) : value);
  if (set) return;
  throw CLI::ValidationError("--" + parameter,
                             "not " + set.error() + (is_time ? " or 10m" : "") + ": " + value);
}

void add_option(CLI::App& app, sinks::StoreQuery& query, const FilterOption& filter) {
  const std::string parameter = filter.parameter;
  auto* option = app.add_option_function<std::vector<std::string>>(
      "--" + parameter,
      [&query, parameter](const std::vector<std::string>& values) {
        for (const auto& value : values) set_or_throw(query, parameter, value);
      },
      filter.help);
  option->type_name(filter.value_name)
      ->type_size(1)
      ->allow_extra_args(false)
      ->expected(1, parameter == "kind" ? 5 : 1);
}

}  // namespace

void add_filter_options(CLI::App& app, sinks::StoreQuery& query) {
  for (const auto& filter : kFilters) add_option(app, query, filter);
}

void add_limit_option(CLI::App& app, sinks::StoreQuery& query) {
  add_option(app, query, {"limit", "N", "Only the newest N"});
}

void select_for_people(sinks::StoreQuery& query) {
  if (!query.filter.kinds.empty()) return;
  query.filter.kinds = {RecordKind::exchange, RecordKind::connection};
  query.hide_readable_connections = true;
}

StateDir absolute(const StateDir& state_dir) {
  std::error_code failed;
  const auto path = std::filesystem::absolute(state_dir.path, failed);
  return failed ? state_dir : StateDir{path};
}

bool print_line(std::string_view line) {
  // Written at once: a feed into a pipe is to be read while it grows, and a signal finds no half line here.
  std::string text(line);
  text += '\n';
  std::string_view left = text;
  while (!left.empty() && output_error == 0) {
    const auto written = ::write(STDOUT_FILENO, left.data(), left.size());
    if (written > 0) left.remove_prefix(static_cast<std::size_t>(written));
    if (written < 0 && errno != EINTR) output_error = errno;
  }
  return output_error == 0;
}

bool output_ended() {
  return output_error != 0;
}

int finish_output() {
  if (output_error == 0 || output_error == EPIPE) return 0;
  return fail(std::string("standard output: ") + std::strerror(output_error));
}

void complain(const std::string& text) {
  std::fprintf(stderr, "weir: %s\n", escape_for_terminal(text).c_str());
}

int fail(const std::string& text) {
  complain(text);
  return 1;
}

int fail_not_running(const StateDir& state_dir) {
  const auto path = state_dir.path.string();
  return fail("no agent is running on state directory " + path + ": start one with `weir agent --state-dir " +
              path + "`");
}

std::expected<StateDir, std::string> enter_as_owner(const StateDir& state_dir,
                                                    std::filesystem::path (StateDir::*file)() const) {
  static bool entered = false;
  StateDir here{"."};
  if (entered) return here;
  struct stat status{};
  if (::geteuid() != 0 || ::stat((state_dir.*file)().c_str(), &status) != 0 || status.st_uid == 0) {
    return state_dir;
  }
  // Entered before root is given up: the directory's parents may be closed to the owner.
  if (::chdir(state_dir.path.c_str()) != 0) {
    return std::unexpected(state_dir.path.string() + ": " + std::strerror(errno));
  }
  const auto user = status.st_uid;
  const auto group = status.st_gid;
  if (::setgroups(0, nullptr) == 0 && ::setresgid(group, group, group) == 0 &&
      ::setresuid(user, user, user) == 0) {
    entered = true;
    return here;
  }
  return std::unexpected("can't give up root: " + std::string(std::strerror(errno)));
}

std::expected<void, ApiClientError> ask_agent(const StateDir& state_dir, const std::string& target,
                                              const std::function<bool(std::string_view line)>& on_line) {
  const auto entered = enter_as_owner(state_dir, &StateDir::socket);
  if (!entered) return std::unexpected(ApiClientError{false, entered.error()});
  return api_get(entered->socket(), target, on_line);
}

}  // namespace weir::agent
