// `weir agent`: defaults, then the configuration file, then the command line; then the broker.
#include <CLI/CLI.hpp>
#include <filesystem>
#include <optional>

#include "agent/broker.h"
#include "agent/command.h"
#include "agent/config.h"

namespace weir::agent {
namespace {

struct AgentOptions {
  std::string config_file;
  std::optional<std::string> state_dir;
  std::optional<std::string> jsonl;
  std::optional<std::string> record;
  std::optional<std::string> policy;
  std::optional<std::string> proxy_listen;
  std::optional<std::string> api_listen;
  std::vector<std::string> upstream_ca;
  bool bodies = false;
  bool no_native = false;
  bool no_proxy = false;
  int first_user = -1;
};

std::expected<void, Error> apply(const AgentOptions& options, Config& config) {
  if (!options.config_file.empty()) {
    if (auto read = read_config_file(options.config_file, config); !read) return read;
  }
  if (options.state_dir) config.state_dir = *options.state_dir;
  if (options.jsonl) config.jsonl = *options.jsonl;
  if (options.record) config.record = *options.record;
  if (options.policy) config.policy = *options.policy;
  config.upstream_ca.insert(config.upstream_ca.end(), options.upstream_ca.begin(), options.upstream_ca.end());
  if (options.bodies) config.bodies = true;
  if (options.no_native) config.native = false;
  if (options.no_proxy) config.proxy = false;
  config.first_user = options.first_user;
  if (options.proxy_listen) {
    auto endpoint = parse_endpoint(*options.proxy_listen);
    if (!endpoint) return std::unexpected(endpoint.error());
    config.proxy_listen = *endpoint;
  }
  if (options.api_listen) {
    auto endpoint = parse_endpoint(*options.api_listen);
    if (!endpoint) return std::unexpected(endpoint.error());
    config.api_listen = *endpoint;
  }
  // The worker knows the directory by a descriptor alone; messages need its full name.
  std::error_code failed;
  if (!config.policy.empty()) config.policy = std::filesystem::absolute(config.policy, failed).string();
  const auto absolute = std::filesystem::absolute(config.state_dir, failed);
  if (!failed) config.state_dir = absolute.lexically_normal().string();
  return {};
}

int run(const AgentOptions& options) {
  Config config = default_config();
  if (auto applied = apply(options, config); !applied) {
    report(applied.error());
    return 2;
  }
  return run_broker(config);
}

}  // namespace

void add_agent_command(CLI::App& app, Action& action) {
  auto options = std::make_shared<AgentOptions>();
  CLI::App* command = app.add_subcommand("agent", "Watch this host: the native tap and the egress proxy");
  command->footer("Example:\n  weir agent --jsonl - --upstream-ca company-root.pem");
  command->add_option("--config", options->config_file, "configuration file (YAML)")->type_name("FILE");
  command
      ->add_option("--state-dir", options->state_dir, "where state is kept (default: /var/lib/weir for root)")
      ->type_name("DIR");
  command
      ->add_option("--jsonl", options->jsonl, "append each record as a line of JSON; - for standard output")
      ->type_name("FILE");
  command
      ->add_option("--record", options->record,
                   "append the event stream, for `weir replay`: plaintext, unredacted, bodies too")
      ->type_name("FILE");
  command->add_option("--policy", options->policy, "rules for who may go where (YAML); read again on SIGHUP")
      ->type_name("FILE");
  command->add_option("--proxy-listen", options->proxy_listen, "the proxy's address (default 127.0.0.1:7443)")
      ->type_name("ADDRESS:PORT");
  command->add_option("--api-listen", options->api_listen, "the API's address (default 127.0.0.1:7480)")
      ->type_name("ADDRESS:PORT");
  command
      ->add_option("--upstream-ca", options->upstream_ca,
                   "roots to trust upstream, beside the system's (PEM)")
      ->type_name("FILE");
  command->add_flag("--bodies", options->bodies, "record bodies, too");
  command->add_flag("--no-native", options->no_native, "without the native tap");
  command->add_flag("--no-proxy", options->no_proxy, "without the proxy");
  // What `weir exec` starts: not for people, so not in the help.
  command->add_option("--first-user", options->first_user)->group("");
  command->callback([options, &action] { action = [options] { return run(*options); }; });
}

}  // namespace weir::agent
