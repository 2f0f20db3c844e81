// `weir doctor`: what this kernel and host allow, and what to do about what they don't. Changes nothing.
#include <sys/socket.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <boost/json.hpp>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <iomanip>
#include <iostream>
#include <optional>

#include "agent/command.h"
#include "agent/command_line.h"
#include "agent/commands/doctor_targets.h"
#include "agent/config.h"
#include "agent/descriptor.h"
#include "attribution/text.h"
#include "bpf/kernel_side.h"
#include "bpf/pins.h"
#include "ca/truststore.h"

#include <arpa/inet.h>

namespace weir::agent {
namespace {

struct Finding {
  std::string area;  // "kernel", "host"
  std::string name;
  bool good = false;
  bool required = false;
  std::string detail;  // what is wrong, or where the thing is
  std::string advice;  // what serves instead, or what to do
};

std::vector<Finding> kernel_findings() {
  std::vector<Finding> findings;
  if (::geteuid() != 0) {
    findings.push_back({"kernel", "native tap", false, false, "needs root", "run weir as root"});
    return findings;
  }
  for (const bpf::ProgramState& feature : bpf::probe_features()) {
    const std::string advice = feature.instead.empty() ? "" : feature.instead + " serve instead";
    findings.push_back({"kernel", feature.name, feature.working, feature.required, feature.error, advice});
  }
  return findings;
}

Finding state_finding(const StateDir& state) {
  Finding finding{"host", "state directory", true, true, state.path.string(), ""};
  std::filesystem::path nearest = state.path;
  std::error_code unknown;  // whether it is there: then access() says why
  while (!nearest.empty() && !std::filesystem::exists(nearest, unknown) && !unknown)
    nearest = nearest.parent_path();
  if (::access(nearest.c_str(), W_OK) != 0) {
    finding.good = false;
    finding.detail = nearest.string() + ": " + std::strerror(errno);
    finding.advice = "choose another with --state-dir";
  }
  return finding;
}

Finding port_finding(const std::string& name, const Endpoint& endpoint, const char* option, bool agent_runs) {
  Finding finding{"host", name, true, true, endpoint.to_string(), ""};
  if (agent_runs) {
    finding.detail += " (an agent runs)";
    return finding;
  }
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(endpoint.port);
  std::memcpy(&address.sin_addr, endpoint.address.bytes.data(), 4);
  const Descriptor socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const int yes = 1;
  ::setsockopt(socket.get(), SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
  if (::bind(socket.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) {
    finding.good = false;
    finding.detail += ": " + std::string(std::strerror(errno));
    finding.advice = std::string("choose another with ") + option;
  }
  return finding;
}

Finding roots_finding() {
  const auto bundle = ca::system_bundle();
  if (bundle.empty()) {
    return {"host", "system's roots",  false,
            false,  "no bundle found", "install ca-certificates, or name roots with --upstream-ca"};
  }
  return {"host", "system's roots", true, false, bundle.string(), ""};
}

// What fails closed is said also where all is well: who asks why connections are refused looks here.
void add_pinned(std::vector<Finding>& findings) {
  for (const bpf::PinnedPlace& place : bpf::pinned_places()) {
    const std::string detail =
        place.path.string() + (place.held ? " (its agent runs)" : " refuses for want of an agent");
    findings.push_back({"host", "transparent.fail_closed", place.held, false, detail,
                        "start that agent, or `weir release`"});
  }
}

std::vector<Finding> examine(const StateDir& state) {
  std::vector<Finding> findings = kernel_findings();
  const Config config = default_config();
  const bool agent_runs = find_agent(state).has_value();
  findings.push_back(state_finding(state));
  findings.push_back(port_finding("proxy's port", config.proxy_listen, "--proxy-listen", agent_runs));
  findings.push_back(port_finding("API's port", config.api_listen, "--api-listen", agent_runs));
  findings.push_back(roots_finding());
  add_pinned(findings);
  return findings;
}

void print_text(const std::vector<Finding>& findings) {
  for (const Finding& finding : findings) {
    const char* mark = finding.good ? "ok     " : finding.required ? "MISSING" : "no     ";
    std::cout << mark << "  " << std::left << std::setw(7) << finding.area << std::setw(32) << finding.name;
    if (!finding.detail.empty()) std::cout << finding.detail;
    if (!finding.good && !finding.advice.empty()) std::cout << "; " << finding.advice;
    std::cout << '\n';
  }
}

void print_json(const std::vector<Finding>& findings, bool fit) {
  boost::json::array rows;
  for (const Finding& finding : findings) {
    rows.push_back({{"area", finding.area},
                    {"name", finding.name},
                    {"works", finding.good},
                    {"required", finding.required},
                    {"detail", finding.detail},
                    {"advice", finding.good ? "" : finding.advice}});
  }
  std::cout << valid_json(boost::json::serialize(boost::json::object{{"fit", fit}, {"findings", rows}}))
            << '\n';
}

int run(const StateDir& state, bool json) {
  const auto findings = examine(state);
  bool fit = true;
  for (const Finding& finding : findings) fit = fit && (finding.good || !finding.required);
  json ? print_json(findings, fit) : print_text(findings);
  if (fit) return 0;
  return report({"something that weir needs is missing here", "see the lines marked MISSING"});
}

}  // namespace

void add_doctor_command(CLI::App& app, Action& action) {
  struct Options {
    std::optional<std::uint32_t> pid;
    bool processes = false;
    bool json = false;
  };
  CLI::App* command =
      app.add_subcommand("doctor", "What this kernel and host allow, and what to do about the rest");
  command->footer(
      "Examples:\n"
      "  sudo weir doctor\n"
      "  sudo weir doctor --pid 1234     which TLS libraries a process has, and whether they can be read\n"
      "  sudo weir doctor --processes    the same of all\n");
  auto state_dir = add_state_dir_option(*command);
  auto options = std::make_shared<Options>();
  CLI::Option* pid = command->add_option("--pid", options->pid, "instead: the TLS libraries of this process")
                         ->check(CLI::Range(1, INT32_MAX))
                         ->type_name("PID");
  command->add_flag("--processes", options->processes, "instead: those of all running processes")
      ->excludes(pid);
  command->add_flag("--json", options->json, "as JSON");
  command->callback([state_dir, options, &action] {
    action = [state_dir, options] {
      if (options->pid || options->processes) return report_targets(options->pid, options->json);
      return run(*state_dir, options->json);
    };
  });
}

}  // namespace weir::agent
