// `weir exec`: runs a command through the egress proxy. With a running agent it becomes the command; without
// one it starts an agent that ends with the command, and passes signals and the exit status through.
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <iostream>

#include "agent/child_environment.h"
#include "agent/command.h"
#include "agent/command_line.h"
#include "agent/descriptor.h"
#include "agent/files.h"
#include "agent/redirector.h"
#include "agent/trust_mount.h"
#include "agent/trust_places.h"
#include "agent/users.h"

namespace weir::agent {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::chrono::seconds start_limit{60};
constexpr std::chrono::seconds end_limit{35};
constexpr std::chrono::milliseconds look_interval{20};

// As shells do it.
constexpr int not_executable = 126;
constexpr int not_found = 127;

// What makes the command's connections come to us, and makes it trust us.
struct Injection {
  EnvironmentParts variables;
  bool mount = false;     // cover the trust stores (trust_mount.h)
  bool redirect = false;  // by the kernel side, instead of the proxy variables
};

Injection injection_of(const std::string& trust_by, bool transparent) {
  Injection injection;
  injection.redirect = transparent;
  injection.variables.proxy = !transparent;
  injection.mount = trust_by != "env";
  injection.variables.trust = trust_by != "mount";
  return injection;
}

std::expected<void, Error> cover_stores(const StateDir& state, const std::string& command) {
  constexpr std::size_t largest_roots = 65536;
  const auto roots = read_file(state.ca().certificate(), largest_roots, "--state-dir");
  if (!roots) return std::unexpected(roots.error());
  const auto variable = [](std::string_view name) -> std::optional<std::string> {
    const char* value = ::getenv(std::string(name).c_str());
    return value == nullptr ? std::nullopt : std::optional<std::string>(value);
  };
  auto places = trust_places({command, variable});
  std::error_code unknown;
  const auto ours = std::filesystem::canonical(state.ca().directory, unknown);
  std::erase_if(places, [&](const auto& place) { return place.parent_path() == ours; });
  const auto mounts = cover_trust_stores(places, *roots);
  if (!mounts) return std::unexpected(mounts.error());
  for (const std::string& skipped : mounts->skipped) std::cerr << "weir: left as it is: " + skipped + "\n";
  return {};
}

[[noreturn]] void become_command(const StateDir& state, const Injection& injection,
                                 std::vector<std::string>& words) {
  if (injection.redirect) {
    if (auto marked = ask_for_redirection(state); !marked) ::_exit(report(marked.error()));
  }
  if (injection.mount) {
    if (auto covered = cover_stores(state, words[0]); !covered) ::_exit(report(covered.error()));
  }
  std::vector<char*> arguments;
  for (std::string& word : words) arguments.push_back(word.data());
  arguments.push_back(nullptr);
  ::execvp(arguments[0], arguments.data());
  const int failed = errno;
  // In one write: the agent may be speaking, too.
  std::cerr << "weir: " + words[0] + ": " + std::strerror(failed) + "\n";
  ::_exit(failed == ENOENT ? not_found : not_executable);
}

// An agent that lasts as long as commands use it: started by this one, or by another that still runs.
class CommandAgent {
 public:
  explicit CommandAgent(const StateDir& state) : state_(state) {}
  ~CommandAgent() { leave(); }
  CommandAgent(const CommandAgent&) = delete;
  CommandAgent& operator=(const CommandAgent&) = delete;

  std::expected<RunningAgent, Error> start() {
    const auto limit = Clock::now() + start_limit;
    while (Clock::now() < limit) {
      if (auto agent = use()) return *agent;
      // Another command's agent may be starting or ending: then it has the directory's lock.
      if (pid_ > 0 && ::waitpid(pid_, nullptr, WNOHANG) == pid_) {
        pid_ = -1;
        if (!locked()) return std::unexpected(Error{"the agent for this command did not start", "see above"});
      } else if (pid_ < 0 && !locked()) {
        if (auto started = start_agent(); !started) return std::unexpected(started.error());
      }
      ::poll(nullptr, 0, static_cast<int>(look_interval.count()));
    }
    return std::unexpected(
        Error{"the agent for this command is not ready after 60 s", "try `weir agent` by itself"});
  }

  // Returns when the agent has written all, unless others use it.
  void leave() {
    if (!lease_ || !std::exchange(lease_, std::nullopt)->give_back()) return;
    if (pid_ > 0) {
      while (::waitpid(pid_, nullptr, 0) < 0 && errno == EINTR) {
      }
      return;
    }
    const auto limit = Clock::now() + end_limit;
    while (locked() && Clock::now() < limit) ::poll(nullptr, 0, static_cast<int>(look_interval.count()));
  }

 private:
  std::optional<RunningAgent> use() {
    const auto agent = find_agent(state_);
    if (!agent || agent->proxy_address.empty()) return std::nullopt;
    if (pid_ > 0)
      return agent->pid == static_cast<std::uint32_t>(pid_) ? std::optional(*agent) : std::nullopt;
    if (!agent->for_a_command) return *agent;
    auto lease = Lease::take(state_);
    if (!lease) return std::nullopt;
    lease_ = std::move(lease);
    // Only from now on is it sure to stay, and to be the same.
    const auto certain = find_agent(state_);
    return certain ? std::optional(*certain) : std::nullopt;
  }

  std::expected<void, Error> start_agent() {
    int pair[2];
    if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0)
      return std::unexpected(Error{std::string("socketpair: ") + std::strerror(errno), ""});
    lease_ = Lease(Descriptor(pair[0]));
    const Descriptor its(pair[1]);
    pid_ = ::fork();
    if (pid_ < 0) return std::unexpected(Error{std::string("fork: ") + std::strerror(errno), ""});
    if (pid_ == 0) become_agent(its.get());
    return {};
  }

  [[noreturn]] void become_agent(int first_user) const {
    ::setpgid(0, 0);  // the terminal's Ctrl-C is for the command alone
    ::dup2(STDERR_FILENO, STDOUT_FILENO);
    ::fcntl(first_user, F_SETFD, 0);
    const std::string directory = state_.path.string();
    const std::string user = std::to_string(first_user);
    ::execl("/proc/self/exe", "weir", "agent", "--first-user", user.c_str(), "--state-dir", directory.c_str(),
            "--proxy-listen", "127.0.0.1:0", "--api-listen", "127.0.0.1:0", static_cast<char*>(nullptr));
    ::_exit(not_executable);
  }

  // Whether an agent holds the state directory.
  bool locked() const {
    const Descriptor lock(::open(state_.lock().c_str(), O_RDONLY | O_CLOEXEC));
    return lock && ::flock(lock.get(), LOCK_SH | LOCK_NB) != 0;
  }

  const StateDir& state_;
  std::optional<Lease> lease_;
  pid_t pid_ = -1;
};

// Waits for the command and hands on the signals that were meant for it.
class Foreground {
 public:
  Foreground() {
    sigemptyset(&signals_);
    for (const int signal :
         {SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2, SIGWINCH, SIGCONT, SIGCHLD}) {
      sigaddset(&signals_, signal);
    }
    ::sigprocmask(SIG_BLOCK, &signals_, &before_);
    descriptor_ = Descriptor(::signalfd(-1, &signals_, SFD_CLOEXEC));
  }

  // The wait status of the command.
  std::expected<int, Error> run(const StateDir& state, const Injection& injection,
                                std::vector<std::string>& words) {
    const pid_t child = ::fork();
    if (child < 0) return std::unexpected(Error{std::string("fork: ") + std::strerror(errno), ""});
    if (child == 0) {
      ::sigprocmask(SIG_SETMASK, &before_, nullptr);
      become_command(state, injection, words);
    }
    while (true) {
      signalfd_siginfo info{};
      if (::read(descriptor_.get(), &info, sizeof info) != sizeof info) continue;
      int status = 0;
      if (::waitpid(child, &status, WNOHANG) == child) return status;
      const auto signal = static_cast<int>(info.ssi_signo);
      // What the terminal sends reaches the command by itself.
      if (signal != SIGCHLD && info.ssi_code != SI_KERNEL) ::kill(child, signal);
    }
  }

  void restore() { ::sigprocmask(SIG_SETMASK, &before_, nullptr); }

 private:
  sigset_t signals_{};
  sigset_t before_{};
  Descriptor descriptor_;
};

int end_like(int status) {
  if (WIFEXITED(status)) return WEXITSTATUS(status);
  const int signal = WTERMSIG(status);
  ::signal(signal, SIG_DFL);
  ::raise(signal);
  return 128 + signal;
}

int run_with_command_agent(const StateDir& state, const Injection& injection,
                           std::vector<std::string>& words) {
  Foreground foreground;
  int status = 0;
  {
    CommandAgent agent(state);
    auto started = agent.start();
    if (!started) return report(started.error());
    if (auto set = set_child_environment(state, started->proxy_address, injection.variables); !set)
      return report(set.error());
    auto ended = foreground.run(state, injection, words);
    if (!ended) return report(ended.error());
    status = *ended;
  }
  foreground.restore();
  std::cerr << "weir: records: weir ls --state-dir " << state.path.string() << '\n';
  return end_like(status);
}

int run(const StateDir& state, const Injection& injection, std::vector<std::string>& words) {
  const auto agent = find_agent(state);
  if (agent ? agent->for_a_command : agent.error().not_running)
    return run_with_command_agent(state, injection, words);
  // The agent answers for its own user alone, but redirects others, too.
  const bool asks_nothing = !injection.variables.proxy;
  if (!agent && !asks_nothing) return report(agent.error().error);
  const std::string proxy_address = agent ? agent->proxy_address : "";
  if (proxy_address.empty() && !asks_nothing) {
    return report(
        {"the agent on " + state.path.string() + " runs without its proxy", "start it without --no-proxy"});
  }
  if (auto set = set_child_environment(state, proxy_address, injection.variables); !set)
    return report(set.error());
  become_command(state, injection, words);
}

}  // namespace

void add_exec_command(CLI::App& app, Action& action) {
  CLI::App* command = app.add_subcommand("exec", "Run a command through the egress proxy");
  command->footer(
      "Example:\n  weir exec -- java -jar app.jar\n  weir exec --inject mount -- ./tool\n"
      "  weir exec --transparent -- ./tool\n\n"
      "Without a running agent, one is started; it ends with the last command that uses it.");
  auto state_dir = add_state_dir_option(*command);
  auto trust_by = std::make_shared<std::string>("env");
  command
      ->add_option("--inject", *trust_by,
                   "how it comes to trust the CA. env: variables; mount: its own view of the files with "
                   "trusted roots, for programs that no variable reaches; both")
      ->check(CLI::IsMember({"env", "mount", "both"}))
      ->capture_default_str();
  auto transparent = std::make_shared<bool>(false);
  command->add_flag(
      "--transparent", *transparent,
      "the kernel redirects its connections, and those of all that it starts, instead of variables that "
      "name the proxy; the agent must run as root");
  auto words = std::make_shared<std::vector<std::string>>();
  command->add_option("command", *words, "the command and its arguments")->required()->type_name("CMD...");
  command->positionals_at_end();
  command->callback([state_dir, trust_by, transparent, words, &action] {
    action = [state_dir, trust_by, transparent, words] {
      return run(absolute(*state_dir), injection_of(*trust_by, *transparent), *words);
    };
  });
}

}  // namespace weir::agent
