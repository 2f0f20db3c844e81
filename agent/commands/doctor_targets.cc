// The report about processes: one function renders a library for people, one for programs.
#include "agent/commands/doctor_targets.h"

#include <grp.h>
#include <unistd.h>

#include <array>
#include <boost/json.hpp>
#include <cerrno>
#include <cstring>
#include <string>

#include "agent/commands/common.h"
#include "agent/error.h"
#include "agent/process_targets.h"
#include "agent/record_text.h"
#include "attribution/names.h"
#include "attribution/text.h"
#include "bpf/wire.h"

namespace weir::agent {
namespace {

namespace json = boost::json;

constexpr uid_t nobody = 65534;

// What follows reads files that others wrote.
bool give_up_root() {
  return ::geteuid() != 0 || (::setgroups(0, nullptr) == 0 && ::setresgid(nobody, nobody, nobody) == 0 &&
                              ::setresuid(nobody, nobody, nobody) == 0);
}

// Where a program of the kernel side stands in the function that it is for.
const char* place_of(const bpf::ProbeSite& site) {
  switch (site.program) {
    case WIRE_TLS_ENTER:
    case WIRE_GO_ENTER:
      return "entry";
    case WIRE_TLS_RETURN:
    case WIRE_GO_RETURN:
      return "return";
    default:
      return "end";
  }
}

// "6 probes: 2 at entries, 3 at returns, 1 at ends"
std::string probes_text(const std::vector<bpf::ProbeSite>& sites) {
  constexpr std::array<std::pair<const char*, const char*>, 3> places{
      {{"entry", "at entries"}, {"return", "at returns"}, {"end", "at ends"}}};
  std::string text;
  for (const auto& [place, shown] : places) {
    const auto count = std::ranges::count_if(
        sites, [&](const auto& site) { return std::strcmp(place_of(site), place) == 0; });
    if (count > 0) text += (text.empty() ? "" : ", ") + std::to_string(count) + " " + shown;
  }
  return std::to_string(sites.size()) + (sites.size() == 1 ? " probe: " : " probes: ") + text;
}

// Of a called function: the kernel emulates the instruction under a probe, or runs it by a single step, which
// is dear.
std::string steps_text(const bpf::PlacedFunction& function) {
  const std::size_t stepped = function.returns - function.returns_emulated;
  const std::string entry = function.entry_emulated ? "entry emulated" : "entry single-stepped";
  if (stepped == 0) return entry + ", return emulated";
  if (stepped == function.returns) return entry + ", return single-stepped";
  return entry + ", " + std::to_string(stepped) + " of " + std::to_string(function.returns) +
         " returns single-stepped";
}

void print_library(const TargetFile& file, const bpf::FoundLibrary& library) {
  const bool good = library.unreadable.empty();
  print_line(std::string(good ? "  ok  " : "  no  ") + escape_for_terminal(library.name) + "  " +
             escape_for_terminal(file.path) + "  " +
             (good ? probes_text(library.sites) : library.unreadable));
  for (const bpf::PlacedFunction& function : library.functions)
    if (function.returns > 0)
      print_line("        " + escape_for_terminal(function.name) + ": " + steps_text(function));
}

void print_process(const ProcessTargets& process) {
  print_line(std::to_string(process.pid) + " " + escape_for_terminal(process.executable));
  bool any = false;
  for (const TargetFile& file : process.files) {
    any = any || !file.libraries.empty() || !file.error.empty();
    if (!file.error.empty()) print_line("  no  " + escape_for_terminal(file.path) + "  " + file.error);
    for (const bpf::FoundLibrary& library : file.libraries) print_library(file, library);
  }
  if (!any) print_line("  --  no TLS library is known in what it has mapped");
}

json::object library_json(const TargetFile& file, const bpf::FoundLibrary& library) {
  json::array probes;
  for (const bpf::ProbeSite& site : library.sites)
    probes.push_back({{"place", place_of(site)}, {"offset", site.offset}});
  json::array functions;
  for (const bpf::PlacedFunction& function : library.functions)
    functions.push_back({{"name", function.name},
                         {"entry_emulated", function.entry_emulated},
                         {"returns", function.returns},
                         {"returns_emulated", function.returns_emulated}});
  return {{"file", file.path},
          {"library", name_of(library.library)},
          {"name", library.name},
          {"readable", library.unreadable.empty()},
          {"reason", library.unreadable},
          {"probes", probes},
          {"functions", functions}};
}

json::object process_json(const ProcessTargets& process) {
  json::array libraries;
  for (const TargetFile& file : process.files) {
    if (!file.error.empty())
      libraries.push_back({{"file", file.path}, {"readable", false}, {"reason", file.error}});
    for (const bpf::FoundLibrary& library : file.libraries) libraries.push_back(library_json(file, library));
  }
  return {{"process.pid", process.pid},
          {"process.executable.path", process.executable},
          {"libraries", libraries}};
}

void print_all(const std::vector<ProcessTargets>& processes) {
  std::size_t without = 0;
  for (const ProcessTargets& process : processes) {
    if (process.files.empty())
      ++without;
    else
      print_process(process);
  }
  print_line(std::to_string(without) + (without == 1 ? " process has" : " processes have") +
             " no TLS library that is known");
}

}  // namespace

int report_targets(std::optional<std::uint32_t> pid, bool as_json) {
  const auto opened = OpenTargets::open(pid);
  if (!opened) return report(opened.error());
  if (!give_up_root()) return report({"can't give up root: " + std::string(std::strerror(errno)), ""});
  const auto processes = opened->examine();
  if (as_json) {
    json::array rows;
    for (const ProcessTargets& process : processes) rows.push_back(process_json(process));
    print_line(valid_json(json::serialize(json::object{{"processes", rows}})));
  } else if (pid) {
    print_process(processes.front());
  } else {
    print_all(processes);
  }
  return finish_output();
}

}  // namespace weir::agent
