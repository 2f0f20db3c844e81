// Readers of /proc/PID. Must take any content: names and arguments are the process's own choice.
#include "agent/process_info.h"

#include <pwd.h>
#include <unistd.h>

#include <array>
#include <charconv>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <sstream>

namespace weir::agent {
namespace {

constexpr std::size_t most_bytes = 64 * 1024;

std::string read_file(const std::string& name) {
  std::ifstream in(name, std::ios::binary);
  std::string text(most_bytes, '\0');
  in.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<std::size_t>(in.gcount()));
  return text;
}

std::uint64_t to_number(const std::string& text) {
  std::uint64_t number = 0;
  std::from_chars(text.data(), text.data() + text.size(), number);
  return number;
}

// Field `index` of /proc/PID/stat, counted as in proc(5); the command's name may hold anything, so the count
// starts behind its last ')'.
std::string stat_field(const std::string& stat, int index) {
  const auto name_end = stat.rfind(')');
  if (name_end == std::string::npos) return "";
  std::istringstream rest(stat.substr(name_end + 1));
  std::string field;
  for (int i = 3; i <= index; ++i) {
    if (!(rest >> field)) return "";
  }
  return field;
}

std::optional<std::uint32_t> status_number(const std::string& status, const std::string& name) {
  const auto line = status.find("\n" + name + ":");
  if (line == std::string::npos) return std::nullopt;
  std::istringstream rest(status.substr(line + name.size() + 2));
  std::uint32_t number = 0;
  return rest >> number ? std::optional(number) : std::nullopt;
}

// NSpid lists the pid in each namespace, outermost first.
std::uint32_t innermost_pid(const std::string& status) {
  const auto line = status.find("\nNSpid:");
  if (line == std::string::npos) return 0;
  std::istringstream rest(status.substr(line + 7, status.find('\n', line + 1) - line - 7));
  std::uint32_t pid = 0;
  while (rest >> pid) {
  }
  return pid;
}

}  // namespace

std::string read_cgroup(std::uint32_t pid) {
  return read_file("/proc/" + std::to_string(pid) + "/cgroup");
}

bool has_ended(const std::string& pid) {
  constexpr std::uint64_t exiting = 4;  // PF_EXITING, include/linux/sched.h
  const std::string stat = pid.empty() ? "" : read_file("/proc/" + pid + "/stat");
  const std::string state = stat_field(stat, 3);
  return !pid.empty() &&
         (state.empty() || state == "Z" || state == "X" || (to_number(stat_field(stat, 9)) & exiting) != 0);
}

std::optional<ProcessEvent> read_process(std::uint32_t pid) {
  const std::string base = "/proc/" + std::to_string(pid) + "/";
  const std::string stat = read_file(base + "stat");
  const std::string start = stat_field(stat, 22);
  if (start.empty()) return std::nullopt;

  ProcessEvent event;
  event.what = ProcessEvent::What::seen;
  event.time = std::chrono::system_clock::now();
  const auto ticks_a_second = static_cast<std::uint64_t>(::sysconf(_SC_CLK_TCK));
  event.process = {pid, to_number(start) * (1'000'000'000 / ticks_a_second)};
  event.parent = {static_cast<std::uint32_t>(to_number(stat_field(stat, 4))), 0};
  const std::string status = read_file(base + "status");
  event.uid = status_number(status, "Uid");
  event.inner_pid = innermost_pid(status);
  std::error_code unreadable;
  event.executable_path = std::filesystem::read_symlink(base + "exe", unreadable).string();
  std::istringstream arguments(read_file(base + "cmdline"));
  for (std::string argument; std::getline(arguments, argument, '\0');) event.arguments.push_back(argument);
  event.cgroup_path = read_cgroup(pid);
  return event;
}

std::string UserNames::operator()(std::uint32_t uid) {
  const auto now = std::chrono::steady_clock::now();
  const auto [entry, is_new] = names_.try_emplace(uid);
  if (is_new || now >= entry->second.until) entry->second = {user_name(uid), now + kept};
  std::string name = entry->second.name;
  if (names_.size() > most) names_.clear();
  return name;
}

std::string user_name(std::uint32_t uid) {
  passwd account{};
  passwd* found = nullptr;
  std::array<char, 4096> buffer{};
  if (::getpwuid_r(uid, &account, buffer.data(), buffer.size(), &found) == 0 && found != nullptr) {
    return account.pw_name;
  }
  return std::to_string(uid);
}

Time boot_time() {
  const auto nanoseconds = [](clockid_t clock) {
    timespec now{};
    ::clock_gettime(clock, &now);
    return std::chrono::seconds(now.tv_sec) + std::chrono::nanoseconds(now.tv_nsec);
  };
  return Time(nanoseconds(CLOCK_REALTIME) - nanoseconds(CLOCK_BOOTTIME));
}

}  // namespace weir::agent
