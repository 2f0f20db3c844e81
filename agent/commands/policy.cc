// `weir policy`: a policy file, without an agent.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <charconv>
#include <iostream>

#include "agent/command.h"
#include "agent/commands/common.h"
#include "agent/config.h"
#include "agent/executable_links.h"
#include "agent/policy_file.h"
#include "agent/policy_report.h"
#include "attribution/text.h"
#include "bpf/policy_table.h"

namespace weir::agent {
namespace {

struct ExplainOptions {
  std::string file;
  std::string executable;
  std::string user;
  std::string container;
  std::string kubernetes_namespace;
  std::string cgroup;
  std::string destination;
  std::string address;
  std::string hello;
  std::string method;
  std::string path;
  std::vector<std::string> headers;
};

std::expected<Policy, Error> read_policy(const std::string& file) {
  const auto text = load_policy_file(file);
  if (!text) return std::unexpected(text.error());
  return read_policy_text(*text, file, user_id);
}

int check_policy(const std::string& file) {
  const auto policy = read_policy(file);
  if (!policy) return report(policy.error());
  if (const auto table = bpf::make_policy_table(*policy); !table)
    return report({file + ": too large for the kernel: " + table.error(),
                   "use wider networks or ports; an agent that runs refuses it, one that starts has it "
                   "enforced by the proxy alone"});
  std::cout << describe_coverage(*policy, file);
  for (const std::string& line : linked_executables(*policy, file)) complain("warning: " + line);
  return 0;
}

std::expected<Destination, Error> to_destination(const ExplainOptions& options) {
  std::string_view host = options.destination;
  Destination destination{"", 443};
  const auto colon = host.rfind(':');
  const bool bare_v6 = host.find(':') != colon && !host.starts_with('[');
  if (colon != std::string_view::npos && !bare_v6 && !host.ends_with(']')) {
    const std::string_view port = host.substr(colon + 1);
    const auto [end, failed] = std::from_chars(port.data(), port.data() + port.size(), destination.port);
    if (failed != std::errc() || end != port.data() + port.size() || destination.port == 0)
      return std::unexpected(
          Error{"--dest: '" + options.destination + "' has no valid port", "write host:port"});
    host = host.substr(0, colon);
  }
  if (host.starts_with('[') && host.ends_with(']')) host = host.substr(1, host.size() - 2);
  if (host.ends_with('.')) host.remove_suffix(1);  // as the proxy does
  destination.name = to_lower(host);
  const std::string address = options.address.empty() ? destination.name : options.address;
  destination.address = parse_ip_address(address);
  if (!options.address.empty() && destination.address.family == IpAddress::Family::unknown)
    return std::unexpected(Error{"--address: '" + options.address + "' is no address", ""});
  return destination;
}

std::expected<http::Fields, Error> to_fields(const std::vector<std::string>& headers) {
  http::Fields fields;
  for (const std::string& header : headers) {
    const auto colon = header.find(':');
    if (colon == std::string::npos)
      return std::unexpected(Error{"--header: '" + header + "' has no value", "write \"name: value\""});
    // The blanks around a value are not of it (RFC 9110, section 5.5).
    const auto begin = header.find_first_not_of(" \t", colon + 1);
    const auto end = header.find_last_not_of(" \t") + 1;
    fields.push_back(
        {header.substr(0, colon), begin == std::string::npos ? "" : header.substr(begin, end - begin)});
  }
  return fields;
}

// What is not given is not known.
ClientFacts container_of(const ExplainOptions& options) {
  const bool is_id = begins_container_id(options.container) &&
                     (options.container.empty() || options.container.size() >= kShortContainerId);
  ClientFacts facts;
  facts.cgroup_path = options.cgroup;
  facts.container_id = is_id ? options.container : "";
  if (!is_id || !options.kubernetes_namespace.empty())
    facts.container = std::make_shared<const ContainerNames>(ContainerNames{
        .name = is_id ? "" : options.container, .k8s_namespace = options.kubernetes_namespace});
  facts.cgroup_known = !options.cgroup.empty() || !options.container.empty() || facts.container;
  return facts;
}

struct NamedHello {
  const char* name;
  HelloFacts facts;
};
constexpr NamedHello kHellos[] = {
    {"sni", {.is_tls = true, .has_server_name = true}},
    {"no-sni", {.is_tls = true}},
    {"ech", {.is_tls = true, .has_server_name = true, .has_encrypted = true}},
    {"none", {}},
};

std::optional<HelloFacts> hello_of(const ExplainOptions& options) {
  const auto* const found = std::ranges::find(kHellos, options.hello, &NamedHello::name);
  return found == std::end(kHellos) ? std::nullopt : std::optional(found->facts);
}

int explain_policy(const ExplainOptions& options) {
  auto policy = read_policy(options.file);
  if (!policy) return report(policy.error());
  ClientFacts facts = container_of(options);
  facts.executable_path = options.executable;
  if (!options.user.empty()) {
    std::uint32_t number = 0;
    const char* const last = options.user.data() + options.user.size();
    const auto [end, failed] = std::from_chars(options.user.data(), last, number);
    facts.uid = failed == std::errc() && end == last ? std::optional(number) : user_id(options.user);
    if (!facts.uid) return report({"--user: no user '" + options.user + "' on this host", "give its number"});
  }
  const auto destination = to_destination(options);
  if (!destination) return report(destination.error());
  const auto fields = to_fields(options.headers);
  if (!fields) return report(fields.error());
  const bool has_request = !options.method.empty() || !options.path.empty() || !fields->empty();
  const std::string method = options.method.empty() ? "GET" : options.method;
  const std::string path = options.path.empty() ? "/" : options.path;
  const RequestSummary request{method, path, &*fields};
  const CompiledPolicy compiled(*std::move(policy));
  const PolicySubject subject{&facts, *destination, has_request ? &request : nullptr, hello_of(options)};
  std::cout << explain(compiled, subject, options.file).text;
  return 0;
}

void add_check(CLI::App& command, Action& action) {
  CLI::App* check = command.add_subcommand("check", "Read a policy file; say where each rule is enforced");
  check->footer("Example:\n  weir policy check /etc/weir/policy.yaml");
  auto file = std::make_shared<std::string>();
  check->add_option("FILE", *file, "the policy")->required();
  check->callback([file, &action] { action = [file] { return check_policy(*file); }; });
}

void add_explain(CLI::App& command, Action& action) {
  CLI::App* explain = command.add_subcommand("explain", "Which rule decides, and why the others don't");
  explain->footer(
      "Example:\n  weir policy explain policy.yaml --exe /usr/bin/curl --dest example.org:443 --path /admin");
  auto options = std::make_shared<ExplainOptions>();
  explain->add_option("FILE", options->file, "the policy")->required();
  explain->add_option("--dest", options->destination, "where to (port 443 if there is none)")
      ->type_name("HOST[:PORT]")
      ->required();
  explain->add_option("--address", options->address, "what its name resolves to")->type_name("ADDRESS");
  explain->add_option("--exe", options->executable, "the client's executable")->type_name("PATH");
  explain->add_option("--user", options->user, "its user, by name or number");
  explain->add_option("--container", options->container, "its container")->type_name("NAME|ID");
  explain->add_option("--namespace", options->kubernetes_namespace, "its namespace in Kubernetes")
      ->type_name("NAME");
  explain->add_option("--cgroup", options->cgroup, "its cgroup")->type_name("PATH");
  explain->add_option("--hello", options->hello, "what the connection begins with; none: not with TLS")
      ->check(CLI::IsMember({"sni", "no-sni", "ech", "none"}));
  explain->add_option("--method", options->method, "of a request");
  explain->add_option("--path", options->path, "of a request");
  explain->add_option("--header", options->headers, "of a request; may be repeated")
      ->type_name("\"NAME: VALUE\"");
  explain->callback([options, &action] { action = [options] { return explain_policy(*options); }; });
}

}  // namespace

void add_policy_command(CLI::App& app, Action& action) {
  CLI::App* command =
      app.add_subcommand("policy", "Rules for who may go where: check a file, explain a decision");
  command->require_subcommand(1);
  command->footer("Example:\n  weir policy check /etc/weir/policy.yaml");
  add_check(*command, action);
  add_explain(*command, action);
}

}  // namespace weir::agent
