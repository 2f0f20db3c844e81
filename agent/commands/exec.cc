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

[[noreturn]] void become_command(std::vector<std::string>& words) {
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
  std::expected<int, Error> run(std::vector<std::string>& words) {
    const pid_t child = ::fork();
    if (child < 0) return std::unexpected(Error{std::string("fork: ") + std::strerror(errno), ""});
    if (child == 0) {
      ::sigprocmask(SIG_SETMASK, &before_, nullptr);
      become_command(words);
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

int run_with_command_agent(const StateDir& state, std::vector<std::string>& words) {
  Foreground foreground;
  int status = 0;
  {
    CommandAgent agent(state);
    auto started = agent.start();
    if (!started) return report(started.error());
    if (auto set = set_child_environment(state, started->proxy_address); !set) return report(set.error());
    auto ended = foreground.run(words);
    if (!ended) return report(ended.error());
    status = *ended;
  }
  foreground.restore();
  std::cerr << "weir: records: weir ls --state-dir " << state.path.string() << '\n';
  return end_like(status);
}

int run(const StateDir& state, std::vector<std::string>& words) {
  const auto agent = find_agent(state);
  if (agent ? agent->for_a_command : agent.error().not_running) return run_with_command_agent(state, words);
  if (!agent) return report(agent.error().error);
  if (agent->proxy_address.empty()) {
    return report(
        {"the agent on " + state.path.string() + " runs without its proxy", "start it without --no-proxy"});
  }
  if (auto set = set_child_environment(state, agent->proxy_address); !set) return report(set.error());
  become_command(words);
}

}  // namespace

void add_exec_command(CLI::App& app, Action& action) {
  CLI::App* command = app.add_subcommand("exec", "Run a command through the egress proxy");
  command->footer(
      "Example:\n  weir exec -- java -jar app.jar\n\n"
      "Without a running agent, one is started; it ends with the last command that uses it.");
  auto state_dir = add_state_dir_option(*command);
  auto words = std::make_shared<std::vector<std::string>>();
  command->add_option("command", *words, "the command and its arguments")->required()->type_name("CMD...");
  command->positionals_at_end();
  command->callback([state_dir, words, &action] {
    action = [state_dir, words] { return run(StateDir{std::filesystem::absolute(state_dir->path)}, *words); };
  });
}

}  // namespace weir::agent
