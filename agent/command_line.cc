#include "agent/command_line.h"

#include <boost/json.hpp>

#include "agent/api.h"

namespace weir::agent {

void add_state_dir_option(CLI::App& command, StateDir& state_dir) {
  state_dir = default_state_dir();
  command
      .add_option_function<std::string>(
          "--state-dir", [&state_dir](const std::string& path) { state_dir.path = path; },
          "Where the agent keeps its state")
      ->type_name("DIR")
      ->default_str(state_dir.path.string());
}

std::shared_ptr<StateDir> add_state_dir_option(CLI::App& command) {
  auto state_dir = std::make_shared<StateDir>();
  add_state_dir_option(command, *state_dir);
  return state_dir;
}

std::expected<RunningAgent, NoAgent> find_agent(const StateDir& state) {
  std::string text;
  auto asked = api_get(state.socket(), "/v1/status", [&](std::string_view line) {
    text += line;
    return true;
  });
  if (!asked) return std::unexpected(NoAgent{asked.error().not_running, {asked.error().what, ""}});
  boost::system::error_code malformed;
  const boost::json::value status = boost::json::parse(text, malformed);
  if (malformed || !status.is_object()) {
    return std::unexpected(NoAgent{false, {"the agent's status can't be read", "is it of another version?"}});
  }
  RunningAgent agent;
  const auto text_at = [&](const char* pointer) {
    boost::system::error_code absent;
    const auto* value = status.find_pointer(pointer, absent);
    return value != nullptr && value->is_string() ? std::string(value->as_string()) : std::string();
  };
  boost::system::error_code absent;
  if (const auto* pid = status.find_pointer("/pid", absent); pid != nullptr && pid->is_int64()) {
    agent.pid = static_cast<std::uint32_t>(pid->get_int64());
  }
  const auto bool_at = [&](const char* pointer) {
    const auto* value = status.find_pointer(pointer, absent);
    return value != nullptr && value->is_bool() && value->get_bool();
  };
  agent.proxy_address = text_at("/proxy/address");
  agent.ca_sha256 = text_at("/ca/sha256");
  agent.ca_overlap = bool_at("/ca/overlap");
  agent.for_a_command = bool_at("/for_a_command");
  agent.native_ready = text_at("/native/state") == "ready";
  return agent;
}

}  // namespace weir::agent
