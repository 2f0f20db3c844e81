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
#include "agent/executable_links.h"
#include "agent/files.h"
#include "agent/log.h"
#include "agent/own_program.h"
#include "agent/policy_keeper.h"
#include "agent/redirector.h"
#include "agent/state.h"
#include "agent/trust_files.h"
#include "agent/users.h"

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

std::expected<std::string, Error> read_files(const std::vector<std::string>& files, const char* setting) {
  std::string content;
  for (const std::string& file : files) {
    auto text = read_file(file, largest_roots, setting);
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
// Of each "NAME=FILE" what the file holds, ended by a zero.
std::expected<std::string, Error> read_identities(const std::vector<std::string>& entries) {
  std::string all;
  for (const std::string& entry : entries) {
    auto text = read_files({entry.substr(entry.find('=') + 1)}, "proxy.client_certificates");
    if (!text) return std::unexpected(text.error());
    std::erase(*text, '\0');
    all += *text + '\0';
  }
  return all;
}

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
  explicit Broker(const Config& config) : config_(config), state_{config.state_dir}, policy_(config.policy) {}

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
      if (redirector_) redirector_->worker_gone();
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
    allow_many_descriptors();  // each probed file and each network namespace holds some
    if (auto loaded = policy_.load(); !loaded) return loaded;
    for (const std::string& line : linked_executables(config_)) log_warning(line);
    warn_of_policy_links();
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
    if (auto possible = check_fail_closed(); !possible) return possible;
    load_native();
    if (fails_closed() && !kernel_) return std::unexpected(cannot_fail_closed(native_reason_));
    if (auto done = prepare_redirector(); !done) return done;
    service_.emplace(*authority_, kernel_.get(), gate_.get(), redirector_ ? &*redirector_ : nullptr);
    auto roots = ContainerFiles::usual_roots();
    roots.insert(roots.end(), config_.container_state.begin(), config_.container_state.end());
    service_->set_container_files(ContainerFiles(roots));
    return {};
  }

  // An agent of one command's ends with it, and leaves nothing.
  bool fails_closed() const { return config_.fail_closed && config_.first_user < 0; }

  static Error cannot_fail_closed(const std::string& why) { return {"transparent.fail_closed: " + why, ""}; }

  // To go on would be to fail open.
  std::expected<void, Error> check_fail_closed() const {
    if (!fails_closed()) return {};
    if (::geteuid() != 0) return std::unexpected(cannot_fail_closed("needs root"));
    if (!config_.native) return std::unexpected(cannot_fail_closed("impossible without the native tap"));
    if (!config_.proxy) return std::unexpected(cannot_fail_closed("impossible without the proxy"));
    return {};
  }

  // As those who come after this agent have it, whatever the path to the directory.
  std::string name_of_state() const {
    struct stat status{};
    ::fstat(locked_.directory.get(), &status);
    return std::to_string(status.st_dev) + "-" + std::to_string(status.st_ino);
  }

  // Without root there is no kernel side, and nobody could be marked.
  std::expected<void, Error> prepare_redirector() {
    if (::geteuid() != 0) return {};
    Redirector::Setting setting;
    setting.kernel = config_.proxy ? kernel_.get() : nullptr;
    setting.why_not = !config_.proxy ? "the agent runs without its proxy"
                      : kernel_      ? "this kernel can't, see `weir doctor`"
                                     : "the native tap is off: " + native_reason_;
    setting.wanted = !config_.transparent_processes.empty() || steers();
    setting.socket_owner = user_.uid;
    auto opened = Redirector::open(locked_.directory, std::move(setting));
    if (opened)
      redirector_.emplace(std::move(*opened));
    else if (fails_closed())
      return std::unexpected(cannot_fail_closed(to_string(opened.error())));
    else
      log_warning("nothing is redirected: " + to_string(opened.error()));
    return {};
  }

  std::expected<void, Error> prepare_authority() {
    auto authority = ca::Authority::load_or_create(state_.ca());
    if (!authority) return std::unexpected(to_error(authority.error()));
    authority_ = std::move(*authority);
    return write_trust_files(state_, authority_->roots_pem());
  }

  std::expected<void, Error> prepare_files() {
    auto roots = read_files(config_.upstream_ca, "--upstream-ca");
    if (!roots) return std::unexpected(roots.error());
    auto roots_file = memory_file("weir-upstream-ca", *roots);
    if (!roots_file) return std::unexpected(roots_file.error());
    upstream_roots_ = std::move(*roots_file);
    auto identities = read_identities(config_.client_certificates);
    if (!identities) return std::unexpected(identities.error());
    auto identities_file = memory_file("weir-client-certificates", *identities);
    if (!identities_file) return std::unexpected(identities_file.error());
    client_identities_ = std::move(*identities_file);
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
      native_reason_ = "switched off (--no-native, or native.enabled: false)";
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
    options.ingress = config_.ingress;
    options.uprobe_multi = config_.uprobe_multi;
    options.filters = filters_of(config_);
    options.refuse_quic = config_.refuse_quic;
    options.redirect_fails_closed = fails_closed();
    if (config_.first_user < 0 && config_.proxy) options.pin_owner = name_of_state();
    options.policy = policy_.has_file();
    options.policy_steers = steers();
    auto kernel = bpf::KernelSide::load(options);
    if (!kernel) {
      native_reason_ = to_string(to_error(kernel.error()));
      if (!fails_closed()) log_error("the native tap is off: " + native_reason_);
      return;
    }
    kernel_ = std::move(*kernel);
    if (policy_.has_file()) {
      // The proxy still enforces it.
      if (auto set = kernel_->set_policy(policy_.policy()); !set)
        log_error("policy: not enforced in the kernel: " + to_string(to_error(set.error())));
    }
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
      if (gate_) waits.push_back(gate_->wait());
      const std::size_t asks_at = waits.size();
      const std::vector<pollfd> asks = redirector_ ? redirector_->waits() : std::vector<pollfd>();
      waits.insert(waits.end(), asks.begin(), asks.end());
      waits.insert(waits.end(), {{channel_.get(), POLLIN, 0}, {signals_.get(), POLLIN, 0}});
      if (::poll(waits.data(), waits.size(), time_to_wake()) < 0 && errno != EINTR) return;
      if (gate_) gate_->revive();
      if (redirector_) redirector_->beat();
      if (redirector_) redirector_->handle(std::span(waits).subspan(asks_at, asks.size()));
      const pollfd& signals = waits.back();
      const pollfd& channel = waits[waits.size() - 2];
      if ((signals.revents & POLLIN) != 0 && stop_asked()) return;
      if (std::exchange(reload_asked_, false)) reload();
      users.assign(waits.begin(), waits.begin() + static_cast<std::ptrdiff_t>(users.size()));
      if (!users_.handle(users)) {
        stopping_ = true;
        return;
      }
      if (channel.revents != 0 && !answer_one()) return;
    }
  }

  // Milliseconds; -1: no limit.
  int time_to_wake() const {
    const int start = gate_ ? gate_->time_to_start() : -1;
    const int beat = redirector_ ? redirector_->time_to_beat() : -1;
    return start < 0 || beat < 0 ? std::max(start, beat) : std::min(start, beat);
  }

  bool stop_asked() {
    signalfd_siginfo info;
    while (::read(signals_.get(), &info, sizeof info) == sizeof info) {
      if (info.ssi_signo == SIGTERM || info.ssi_signo == SIGINT) stopping_ = true;
      if (info.ssi_signo == SIGHUP) reload_asked_ = true;
    }
    return stopping_;
  }

  bool steers() const { return policy_.has_file() && config_.steer && config_.proxy; }

  // The worker then fetches what is in force, and why the file is not, if it isn't.
  void reload_policy() {
    if (!policy_.has_file()) return;
    const auto apply = [this](const Policy& policy) -> std::expected<void, Error> {
      if (!kernel_) return {};
      if (auto set = kernel_->set_policy(policy); !set) return std::unexpected(to_error(set.error()));
      return {};
    };
    if (auto loaded = policy_.load(apply)) {
      log_info("policy: " + std::to_string(policy_.policy().rules.size()) + " rules from " + policy_.file());
      warn_of_policy_links();
    } else {
      log_error("policy: the rules from before stay: " + to_string(loaded.error()));
    }
  }

  void warn_of_policy_links() const {
    for (const std::string& line : linked_executables(policy_.policy(), policy_.file())) log_warning(line);
  }

  bool tell_policy(const Request& request) {
    Reply reply;
    reply.id = request.id;
    copy_text(policy_.error(), reply.text);
    if (!policy_.has_file()) return send_reply(reply, {});
    const auto file = memory_file("weir-policy", policy_.text());
    if (!file) return false;
    const int descriptor = file->get();
    return send_reply(reply, std::span(&descriptor, 1));
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
      case Operation::authority:
        return tell_authority(request);
      case Operation::policy:
        return tell_policy(request);
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

  bool tell_authority(const Request& request) {
    Reply reply;
    reply.id = request.id;
    reply.number = authority_->in_overlap() ? 1 : 0;
    copy_text(authority_->sha256_fingerprint(), reply.text);
    return send_reply(reply, {});
  }

  // What can change while connections go on.
  void reload() {
    auto authority = ca::Authority::load_or_create(state_.ca());
    if (authority) {
      service_->set_signer(**authority);
      authority_ = std::move(*authority);
    } else {
      log_error("the CA stays as it was: " + to_string(to_error(authority.error())));
    }
    reload_policy();
    ::kill(worker_, SIGHUP);
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
    welcome.has_redirection = redirector_ && redirector_->event_descriptor() >= 0;
    welcome.for_a_command = config_.first_user >= 0;
    welcome.has_jsonl = static_cast<bool>(jsonl_);
    welcome.has_recording = static_cast<bool>(recording_);
    welcome.ring_bytes = config_.ring_bytes;
    copy_text(proxy_address_, welcome.proxy_listen);
    copy_text(api_address_, welcome.api_listen);
    copy_text(native_reason_, welcome.native_reason);
    std::vector<int> descriptors{config_file->get(), locked_.directory.get(), upstream_roots_.get(),
                                 client_identities_.get()};
    if (kernel_) {
      descriptors.insert(descriptors.end(), {kernel_->ring_descriptor(), kernel_->tuples_descriptor(),
                                             kernel_->control_descriptor(), kernel_->untold_descriptor(),
                                             kernel_->redirections_descriptor(), service_->open_changes()});
    }
    if (gate_) descriptors.insert(descriptors.end(), {gate_->event_descriptor(), gate_->page_descriptor()});
    if (welcome.has_redirection) descriptors.push_back(redirector_->event_descriptor());
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
    if (const auto proxy = parse_endpoint(proxy_address_); kernel_ && proxy)
      kernel_->set_proxy_listeners(std::span(&*proxy, 1));
    api_address_ = text_of(ready.api_address);
    if (redirector_) redirector_->worker_ready(listeners_of_worker());
    log_info("native tap: " + text_of(ready.native));
    if (!proxy_address_.empty()) log_info("proxy: http://" + proxy_address_);
    if (!api_address_.empty()) log_info("api: http://" + api_address_);
    log_info("state: " + config_.state_dir);
  }

  std::vector<Endpoint> listeners_of_worker() const {
    std::vector<Endpoint> listeners;
    for (const std::string& address : {proxy_address_, api_address_})
      if (const auto endpoint = parse_endpoint(address)) listeners.push_back(*endpoint);
    return listeners;
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
    if (redirector_) redirector_->worker_gone();
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
  PolicyKeeper policy_;
  WorkerUser user_;
  LockedState locked_;
  Users users_;
  std::unique_ptr<ca::Authority> authority_;
  std::unique_ptr<bpf::KernelSide> kernel_;
  std::unique_ptr<ExecGate> gate_;
  std::optional<Redirector> redirector_;
  std::optional<BrokerService> service_;
  std::string native_reason_;
  Descriptor signals_;
  Descriptor executable_;
  Descriptor upstream_roots_;
  Descriptor client_identities_;
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
  bool reload_asked_ = false;
  bool start_failed_ = false;
};

}  // namespace

int run_broker(const Config& config) {
  return Broker(config).run();
}

}  // namespace weir::agent
