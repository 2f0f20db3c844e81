// The broker's life: prepare, load, start a worker, answer it, start the next when it dies, take all down.
// Must never hold the worker's input in anything but the fixed messages of protocol.h.
#include "agent/broker.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <cstring>

#include "agent/broker_service.h"
#include "agent/channel.h"
#include "agent/exec_gate.h"
#include "agent/files.h"
#include "agent/log.h"
#include "agent/own_program.h"
#include "agent/state.h"
#include "agent/users.h"
#include "ca/truststore.h"

namespace weir::agent {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::size_t largest_roots = std::size_t{16} << 20;
constexpr std::chrono::seconds drain_limit{30};
constexpr std::chrono::milliseconds first_restart_delay{50};
constexpr std::chrono::milliseconds longest_restart_delay{5000};
// A worker that lived this long was healthy: the next restart is immediate again.
constexpr std::chrono::seconds healthy_life{10};

Error errno_error(const std::string& what, const std::string& remedy = "") {
  return {what + ": " + std::strerror(errno), remedy};
}

// A memory file that the worker can map and open, whatever user it is.
std::expected<Descriptor, Error> memory_file(const char* name, const std::string& content) {
  Descriptor file(::memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!file) return std::unexpected(errno_error("memfd_create"));
  std::size_t written = 0;
  while (written < content.size()) {
    const ssize_t size = ::write(file.get(), content.data() + written, content.size() - written);
    if (size < 0) return std::unexpected(errno_error("writing a memory file"));
    written += static_cast<std::size_t>(size);
  }
  ::fcntl(file.get(), F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL);
  return file;
}

std::expected<std::string, Error> read_files(const std::vector<std::string>& files) {
  std::string content;
  for (const std::string& file : files) {
    auto text = read_file(file, largest_roots, "--upstream-ca");
    if (!text) return std::unexpected(text.error());
    content += *text + "\n";
  }
  return content;
}

std::expected<Descriptor, Error> open_output(const std::string& file, const char* option) {
  const std::string remedy = std::string("check the path given to ") + option;
  if (file == "-") {
    Descriptor copy(::fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 3));
    if (!copy) return std::unexpected(errno_error("standard output", remedy));
    return copy;
  }
  // A FIFO without a reader is an error, not a wait.
  Descriptor opened(::open(file.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NONBLOCK, 0600));
  if (!opened) return std::unexpected(errno_error(file, remedy));
  ::fcntl(opened.get(), F_SETFL, O_APPEND);
  return opened;
}

std::uint64_t network_namespace_cookie() {
  const Descriptor socket(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  std::uint64_t cookie = 0;
  socklen_t size = sizeof cookie;
  ::getsockopt(socket.get(), SOL_SOCKET, SO_NETNS_COOKIE, &cookie, &size);
  return cookie;
}

void copy_text(const std::string& text, std::span<char> place) {
  const std::size_t size = std::min(text.size(), place.size() - 1);
  std::memcpy(place.data(), text.data(), size);
  place[size] = '\0';
}

template <std::size_t N>
std::string text_of(const std::array<char, N>& text) {
  return std::string(text.data(), ::strnlen(text.data(), N));
}

// What the worker may inherit of the environment: nothing that could hold a secret of root's.
std::vector<std::string> worker_environment() {
  std::vector<std::string> kept;
  for (const char* name :
       {"PATH", "TZ", "LANG", "ASAN_OPTIONS", "UBSAN_OPTIONS", "TSAN_OPTIONS", "LSAN_OPTIONS"}) {
    if (const char* value = ::getenv(name)) kept.push_back(std::string(name) + "=" + value);
  }
  return kept;
}

class Broker {
 public:
  explicit Broker(const Config& config) : config_(config), state_{config.state_dir} {}

  int run() {
    block_signals();
    if (auto prepared = prepare(); !prepared) return report(prepared.error());
    if (stop_asked()) return 0;
    while (true) {
      if (auto started = start_worker(); !started) return report(started.error());
      const auto started_at = Clock::now();
      serve();
      if (stopping_) return stop_worker();
      if (gate_) gate_->set_watched(false);
      reap_worker();
      if (service_) service_->worker_gone();
      if (start_failed_) return 1;
      if (!greeted_) {
        return report({"the worker could not be started (" + ending_ + ")",
                       "may every user execute the file weir? see chmod 755"});
      }
      if (Clock::now() - started_at > healthy_life) restart_delay_ = first_restart_delay;
      log_warning("the worker ended (" + ending_ + "): starting the next");
      if (wait_for_stop(restart_delay_)) return 0;
      restart_delay_ = std::min(restart_delay_ * 2, longest_restart_delay);
      ++restarts_;
    }
  }

 private:
  void block_signals() {
    sigset_t signals;
    sigemptyset(&signals);
    for (const int signal : {SIGTERM, SIGINT, SIGHUP, SIGCHLD}) sigaddset(&signals, signal);
    ::sigprocmask(SIG_BLOCK, &signals, nullptr);
    ::signal(SIGPIPE, SIG_IGN);
    signals_ = Descriptor(::signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK));
  }

  std::expected<void, Error> prepare() {
    auto user = choose_worker_user();
    if (!user) return std::unexpected(user.error());
    user_ = *user;
    auto locked = open_state(state_, user_);
    if (!locked) return std::unexpected(locked.error());
    locked_ = std::move(*locked);
    auto users =
        config_.first_user < 0 ? Users::none(state_) : Users::open(state_, Descriptor(config_.first_user));
    if (!users) return std::unexpected(users.error());
    users_ = std::move(*users);
    if (auto done = prepare_authority(); !done) return done;
    if (auto done = prepare_files(); !done) return done;
    executable_ = Descriptor(::open("/proc/self/exe", O_RDONLY | O_CLOEXEC));
    if (!executable_) return std::unexpected(errno_error("/proc/self/exe"));
    load_native();
    service_.emplace(*authority_, kernel_.get(), gate_.get());
    return {};
  }

  std::expected<void, Error> prepare_authority() {
    const ca::Paths paths = state_.ca();
    auto authority = ca::Authority::load_or_create(paths);
    if (!authority) return std::unexpected(to_error(authority.error()));
    authority_ = std::move(*authority);
    const std::string root = authority_->certificate_pem();
    if (auto written = ca::write_bundle(paths.bundle(), root); !written) {
      return std::unexpected(to_error(written.error()));
    }
    if (auto written = ca::write_pkcs12(paths.pkcs12(), root); !written) {
      return std::unexpected(to_error(written.error()));
    }
    return {};
  }

  std::expected<void, Error> prepare_files() {
    auto roots = read_files(config_.upstream_ca);
    if (!roots) return std::unexpected(roots.error());
    auto roots_file = memory_file("weir-upstream-ca", *roots);
    if (!roots_file) return std::unexpected(roots_file.error());
    upstream_roots_ = std::move(*roots_file);
    if (!config_.jsonl.empty()) {
      auto file = open_output(config_.jsonl, "--jsonl");
      if (!file) return std::unexpected(file.error());
      jsonl_ = std::move(*file);
    }
    if (!config_.record.empty()) {
      auto file = open_output(config_.record, "--record");
      if (!file) return std::unexpected(file.error());
      recording_ = std::move(*file);
    }
    return {};
  }

  void load_native() {
    if (!config_.native) {
      native_reason_ = "off (--no-native)";
      return;
    }
    if (::geteuid() != 0) {
      native_reason_ = "needs root";
      log_info("not root: the native tap is off, the proxy serves your own processes");
      return;
    }
    bpf::LoadOptions options;
    options.ring_bytes = config_.ring_bytes;
    options.socket_events = config_.socket_events;
    options.uprobe_multi = config_.uprobe_multi;
    options.filters = filters_of(config_);
    auto kernel = bpf::KernelSide::load(options);
    if (!kernel) {
      native_reason_ = to_string(to_error(kernel.error()));
      log_error("the native tap is off: " + native_reason_);
      return;
    }
    kernel_ = std::move(*kernel);
    if (!config_.hold_execs) return;
    auto gate = ExecGate::open(executable_.get(), user_);
    if (gate)
      gate_ = std::move(*gate);
    else
      log_warning("programs that start for the first time may be read late: " + to_string(gate.error()));
  }

  std::expected<void, Error> start_worker() {
    int pair[2];
    if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0) {
      return std::unexpected(errno_error("socketpair"));
    }
    channel_ = Descriptor(pair[0]);
    Descriptor theirs(pair[1]);
    const auto environment = worker_environment();
    worker_ = ::fork();
    if (worker_ < 0) return std::unexpected(errno_error("fork"));
    if (worker_ == 0) {
      // Signals stay blocked: one that comes before the worker has its own handling must not end it by
      // default.
      give_up_privileges(user_);
      const int inherited[] = {theirs.get()};
      static_assert(worker_channel_descriptor == 3);
      execute_role(executable_.get(), "worker", inherited, environment);
    }
    if (kernel_) {
      const std::uint32_t own[] = {static_cast<std::uint32_t>(::getpid()),
                                   static_cast<std::uint32_t>(worker_)};
      kernel_->set_own_processes(own);
    }
    return {};
  }

  // Until the worker is gone, a signal asks to stop, or nobody uses the agent any more.
  void serve() {
    while (true) {
      std::vector<pollfd> users = users_.waits();
      std::vector<pollfd> waits = users;
      waits.insert(waits.end(), {{channel_.get(), POLLIN, 0}, {signals_.get(), POLLIN, 0}});
      if (gate_) waits.insert(waits.begin() + static_cast<std::ptrdiff_t>(users.size()), gate_->wait());
      if (::poll(waits.data(), waits.size(), gate_ ? gate_->time_to_start() : -1) < 0 && errno != EINTR)
        return;
      if (gate_) gate_->revive();
      const pollfd& signals = waits.back();
      const pollfd& channel = waits[waits.size() - 2];
      if ((signals.revents & POLLIN) != 0 && stop_asked()) return;
      users.assign(waits.begin(), waits.begin() + static_cast<std::ptrdiff_t>(users.size()));
      if (!users_.handle(users)) {
        stopping_ = true;
        return;
      }
      if (channel.revents != 0 && !answer_one()) return;
    }
  }

  bool stop_asked() {
    signalfd_siginfo info;
    while (::read(signals_.get(), &info, sizeof info) == sizeof info) {
      if (info.ssi_signo == SIGTERM || info.ssi_signo == SIGINT) stopping_ = true;
    }
    return stopping_;
  }

  // False when the worker is gone.
  bool answer_one() {
    Request request;
    auto packet = receive_packet(channel_.get(), std::as_writable_bytes(std::span(&request, 1)));
    if (!packet || packet->size == 0) return false;
    if (packet->size != sizeof request || request.magic != protocol_magic) {
      log_error("the worker sent a malformed message: ending it");
      ::kill(worker_, SIGKILL);
      return false;
    }
    switch (request.operation) {
      case Operation::hello:
        return welcome(request);
      case Operation::ready:
        worker_ready(request.ready);
        return true;
      case Operation::start_failed:
        worker_cannot_start(text_of(request.start_failed.text));
        return true;
      default:
        break;
    }
    const auto result = service_->handle(request);
    const int opened[] = {result.opened.get()};
    return send_reply(result.reply, std::span(opened, result.opened ? 1 : 0));
  }

  bool send_reply(const Reply& reply, std::span<const int> descriptors) {
    // Never waits: a worker that asks and doesn't listen is ended.
    return send_packet(channel_.get(), std::as_bytes(std::span(&reply, 1)), descriptors, MSG_DONTWAIT)
        .has_value();
  }

  bool welcome(const Request& request) {
    greeted_ = true;
    auto config_file = memory_file("weir-config", to_yaml(config_));
    if (!config_file) return false;
    Welcome welcome;
    welcome.broker_pid = static_cast<std::uint32_t>(::getpid());
    welcome.restarts = restarts_;
    welcome.network_namespace_cookie = network_namespace_cookie();
    welcome.native_wanted = config_.native && ::geteuid() == 0;
    welcome.has_native = kernel_ != nullptr;
    welcome.has_exec_gate = gate_ != nullptr;
    welcome.for_a_command = config_.first_user >= 0;
    welcome.has_jsonl = static_cast<bool>(jsonl_);
    welcome.has_recording = static_cast<bool>(recording_);
    welcome.ring_bytes = config_.ring_bytes;
    copy_text(proxy_address_, welcome.proxy_listen);
    copy_text(api_address_, welcome.api_listen);
    copy_text(native_reason_, welcome.native_reason);
    std::vector<int> descriptors{config_file->get(), locked_.directory.get(), upstream_roots_.get()};
    if (kernel_) {
      descriptors.insert(descriptors.end(), {kernel_->ring_descriptor(), kernel_->tuples_descriptor(),
                                             kernel_->control_descriptor(), kernel_->untold_descriptor(),
                                             service_->open_changes()});
    }
    if (gate_) descriptors.insert(descriptors.end(), {gate_->event_descriptor(), gate_->page_descriptor()});
    if (jsonl_) descriptors.push_back(jsonl_.get());
    if (recording_) descriptors.push_back(recording_.get());
    Reply reply;
    reply.id = request.id;
    reply.data_size = sizeof welcome;
    std::memcpy(reply.data.data(), &welcome, sizeof welcome);
    return send_reply(reply, descriptors);
  }

  void worker_ready(const ReadyRequest& ready) {
    if (gate_) gate_->set_watched(true);
    proxy_address_ = text_of(ready.proxy_address);
    api_address_ = text_of(ready.api_address);
    log_info("native tap: " + text_of(ready.native));
    if (!proxy_address_.empty()) log_info("proxy: http://" + proxy_address_);
    if (!api_address_.empty()) log_info("api: http://" + api_address_);
    log_info("state: " + config_.state_dir);
  }

  void worker_cannot_start(const std::string& why) {
    report({why, ""});
    // A restarted worker tries again: what stopped it (a port still held) may pass.
    start_failed_ = restarts_ == 0;
  }

  void reap_worker() {
    int status = 0;
    ::kill(worker_, SIGKILL);
    while (::waitpid(worker_, &status, 0) < 0 && errno == EINTR) {
    }
    ending_ = WIFSIGNALED(status) ? "signal " + std::to_string(WTERMSIG(status))
                                  : "status " + std::to_string(WEXITSTATUS(status));
    worker_ = -1;
    channel_.reset();
  }

  // The worker drains on SIGTERM and still asks for leaves meanwhile.
  int stop_worker() {
    ::kill(worker_, SIGTERM);
    const auto limit = Clock::now() + drain_limit;
    while (Clock::now() < limit) {
      pollfd wait{channel_.get(), POLLIN, 0};
      ::poll(&wait, 1, 100);
      if (wait.revents != 0 && !answer_one()) break;
    }
    int status = 0;
    while (Clock::now() < limit) {
      const pid_t ended = ::waitpid(worker_, &status, WNOHANG);
      if (ended == worker_) return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
      pollfd wait{signals_.get(), POLLIN, 0};
      ::poll(&wait, 1, 20);
      (void)stop_asked();
    }
    log_error("the worker did not end within " + std::to_string(drain_limit.count()) + " s: killed");
    reap_worker();
    return 1;
  }

  // Waits that long; true when a signal asks to stop meanwhile.
  bool wait_for_stop(std::chrono::milliseconds time) {
    const auto limit = Clock::now() + time;
    while (Clock::now() < limit) {
      pollfd wait{signals_.get(), POLLIN, 0};
      const auto rest = std::chrono::duration_cast<std::chrono::milliseconds>(limit - Clock::now());
      ::poll(&wait, 1, static_cast<int>(std::max<std::int64_t>(rest.count(), 1)));
      if (stop_asked()) return true;
    }
    return false;
  }

  const Config& config_;
  StateDir state_;
  WorkerUser user_;
  LockedState locked_;
  Users users_;
  std::unique_ptr<ca::Authority> authority_;
  std::unique_ptr<bpf::KernelSide> kernel_;
  std::unique_ptr<ExecGate> gate_;
  std::optional<BrokerService> service_;
  std::string native_reason_;
  Descriptor signals_;
  Descriptor executable_;
  Descriptor upstream_roots_;
  Descriptor jsonl_;
  Descriptor recording_;
  Descriptor channel_;
  pid_t worker_ = -1;
  std::string proxy_address_;
  std::string api_address_;
  std::string ending_;
  std::uint32_t restarts_ = 0;
  std::chrono::milliseconds restart_delay_ = first_restart_delay;
  bool greeted_ = false;  // a worker has spoken, at least once
  bool stopping_ = false;
  bool start_failed_ = false;
};

}  // namespace

int run_broker(const Config& config) {
  return Broker(config).run();
}

}  // namespace weir::agent
