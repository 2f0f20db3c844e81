// `weir status`: is the agent ready, what is it listening on, and what did it have to drop.
#include <CLI/CLI.hpp>
#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>
#include <chrono>
#include <csignal>
#include <memory>
#include <thread>

#include "agent/command.h"
#include "agent/command_line.h"
#include "agent/commands/common.h"
#include "agent/record_text.h"

namespace weir::agent {
namespace {

namespace json = boost::json;

struct StatusOptions {
  StateDir state_dir;
  bool json = false;
  double wait_seconds = 0;
};

struct Answer {
  std::string text;
  json::object status;

  bool ready() const {
    const auto* value = status.if_contains("ready");
    return value && value->is_bool() && value->get_bool();
  }
};

std::expected<Answer, ApiClientError> ask(const StateDir& state_dir) {
  Answer answer;
  const auto asked = ask_agent(state_dir, "/v1/status", [&answer](std::string_view line) {
    answer.text += line;
    return true;
  });
  if (!asked) return std::unexpected(asked.error());
  boost::system::error_code error;
  auto parsed = json::parse(answer.text, error);
  if (error || !parsed.is_object())
    return std::unexpected(ApiClientError{false, "the agent's status is no JSON object"});
  answer.status = std::move(parsed.get_object());
  return answer;
}

std::expected<Answer, ApiClientError> ask_until_ready(const StatusOptions& options) {
  const auto deadline =
      std::chrono::steady_clock::now() + std::chrono::duration<double>(options.wait_seconds);
  auto answer = ask(options.state_dir);
  while (!(answer && answer->ready()) && std::chrono::steady_clock::now() < deadline) {
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    answer = ask(options.state_dir);
  }
  return answer;
}

// A value for a person: strings bare, all else as JSON.
std::string shown(const json::value& value) {
  return escape_for_terminal(value.is_string() ? std::string_view(value.get_string())
                                               : json::serialize(value));
}

std::string shown(const json::object& object, std::string_view key) {
  const auto* value = object.if_contains(key);
  return value ? shown(*value) : "";
}

const json::object& object_of(const json::object& parent, std::string_view key) {
  static const json::object kNone;
  const auto* value = parent.if_contains(key);
  return value && value->is_object() ? value->get_object() : kNone;
}

const json::array& array_of(const json::object& parent, std::string_view key) {
  static const json::array kNone;
  const auto* value = parent.if_contains(key);
  return value && value->is_array() ? value->get_array() : kNone;
}

void print_row(const std::string& label, const std::string& text) {
  constexpr std::size_t kWidth = 10;
  print_line(label + std::string(label.size() < kWidth ? kWidth - label.size() : 1, ' ') + text);
}

std::string with(std::string_view before, const std::string& text, std::string_view after = "") {
  return text.empty() ? "" : std::string(before) + text + std::string(after);
}

std::string not_ready_text(const json::object& status) {
  std::string reasons;
  for (const auto& reason : array_of(status, "not_ready"))
    reasons += (reasons.empty() ? "" : "; ") + shown(reason);
  return reasons.empty() ? "the agent gives no reason" : reasons;
}

std::string list_text(const json::array& items) {
  std::string text;
  for (const auto& item : items) text += (text.empty() ? "" : ", ") + shown(item);
  return text;
}

void print_filters(const json::object& native, const json::object& counters) {
  const std::string only = list_text(array_of(native, "only"));
  const std::string except = list_text(array_of(native, "except"));
  if (only.empty() && except.empty()) return;
  print_row("filters", with("only: ", only) + with(only.empty() ? "except: " : "; except: ", except) +
                           "; left out " + shown(counters, "filtered_connections") + " connections");
}

void print_native(const json::object& native) {
  print_row("native", shown(native, "state") + with(": ", shown(native, "reason")) +
                          with(", ", shown(native, "targets"), " libraries probed"));
  for (const auto& [name, state] : object_of(native, "programs")) {
    print_row("", escape_for_terminal(name) + ": " + shown(state));
  }
}

// Programs that were started for the first time.
void print_held_execs(const json::object& native, const json::object& counters) {
  if (shown(native, "holds_execs") != "true") return;
  const auto restarts = shown(counters, "exec_gate_restarts");
  print_row("starts", shown(counters, "execs_held") + " held until probed, " +
                          shown(counters, "execs_let_go_late") + " let go late" +
                          with(", ", restarts == "0" ? "" : restarts, " times the gate was started again"));
}

void print_passed_through(const json::array& rows) {
  for (const auto& row : rows) {
    if (!row.is_object()) continue;
    const auto& one = row.get_object();
    print_row("", shown(one, "process.executable.path") + " to " + shown(one, "server.address") +
                      ": passed through until " + shown(one, "until") + ", as it rejected the certificate");
  }
}

void print_policy(const json::object& policy) {
  if (shown(policy, "state") == "off") return;
  print_row("policy", shown(policy, "rules") + " rules from " + shown(policy, "file") + ", default " +
                          shown(policy, "default") +
                          with("; not in force as it is now: ", shown(policy, "error")));
}

void print_sink(const json::object& sink) {
  const auto removed = shown(sink, "removed");
  print_row("sink", shown(sink, "name") + ": " + shown(sink, "written") + " written, " +
                        shown(sink, "dropped") + " dropped" +
                        with(", ", removed == "0" ? "" : removed, " removed for age or size") +
                        with(" (", shown(sink, "last_error"), ")"));
}

bool tells_of_loss(std::string_view name) {
  for (const auto* word : {"drop", "evict", "gap", "lost", "unparsed", "fail", "error", "refused"}) {
    if (name.find(word) != std::string_view::npos) return true;
  }
  return false;
}

void print_losses(const json::object& counters, const std::string& prefix) {
  for (const auto& [key, value] : counters) {
    const std::string name = prefix + std::string(key);
    if (value.is_object()) {
      print_losses(value.get_object(), name + ".");
    } else if (tells_of_loss(name) && value.is_number() && value.to_number<double>() != 0) {
      print_row("lost", escape_for_terminal(name) + ": " + shown(value));
    }
  }
}

void print_status(const json::object& status) {
  const auto& proxy = object_of(status, "proxy");
  print_row("agent", "weir " + shown(status, "version") + ", pid " + shown(status, "pid") +
                         with(" (worker ", shown(status, "worker_pid"), ")"));
  print_row("state", shown(status, "state_dir"));
  print_native(object_of(status, "native"));
  print_held_execs(object_of(status, "native"), object_of(object_of(status, "counters"), "native"));
  print_filters(object_of(status, "native"), object_of(object_of(status, "counters"), "native"));
  print_row("proxy", shown(proxy, "state") + with(": ", shown(proxy, "reason")) +
                         with(" on ", shown(proxy, "address")) +
                         with(", ", shown(proxy, "threads"), " threads"));
  print_passed_through(array_of(proxy, "passed_through"));
  if (shown(object_of(status, "ca"), "overlap") == "true")
    print_row("ca", "being replaced, both roots are trusted: weir ca rotate --finish ends it");
  print_row("api", shown(object_of(status, "api"), "address"));
  print_policy(object_of(status, "policy"));
  for (const auto& sink : array_of(status, "sinks")) {
    if (sink.is_object()) print_sink(sink.get_object());
  }
  print_losses(object_of(status, "counters"), "");
}

int run(const StatusOptions& options) {
  std::signal(SIGPIPE, SIG_IGN);
  const auto answer = ask_until_ready(options);
  if (!answer && answer.error().not_running) return fail_not_running(options.state_dir);
  if (!answer) return fail(answer.error().what);
  if (options.json) {
    print_line(answer->text);
  } else {
    print_status(answer->status);
  }
  const int written = finish_output();
  return answer->ready() ? written : fail("not ready: " + not_ready_text(answer->status));
}

}  // namespace

void add_status_command(CLI::App& app, Action& action) {
  auto options = std::make_shared<StatusOptions>();
  auto* command =
      app.add_subcommand("status", "Whether the agent is ready, and what it had to drop; exit 0 if ready");
  add_state_dir_option(*command, options->state_dir);
  command->add_flag("--json", options->json, "As one line of JSON");
  command->add_option("--wait", options->wait_seconds, "Wait until the agent is ready, at most so long")
      ->type_name("SECONDS")
      ->check(CLI::Range(0.0, 86'400.0));
  command->footer(
      "Examples:\n  weir status\n  weir status --wait 30 && echo ready\n  weir status --json | jq -r "
      ".proxy.address\n");
  command->callback([options, &action] { action = [options] { return run(*options); }; });
}

}  // namespace weir::agent
