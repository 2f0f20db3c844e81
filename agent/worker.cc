// The worker's life: greet the broker, build sinks, engine, API, proxy and native tap, run until told to
// stop, drain in the opposite order.
#include "agent/worker.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <boost/json.hpp>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <mutex>
#include <optional>
#include <random>

#include "agent/api.h"
#include "agent/broker_signer.h"
#include "agent/channel.h"
#include "agent/client_facts.h"
#include "agent/config.h"
#include "agent/container_names.h"
#include "agent/diag_resolver.h"
#include "agent/exec_gate.h"
#include "agent/live_policy.h"
#include "agent/log.h"
#include "agent/memory.h"
#include "agent/native_tap.h"
#include "agent/policy_file.h"
#include "agent/process_info.h"
#include "agent/status_json.h"
#include "attribution/idle_hook.h"
#include "attribution/recording.h"
#include "attribution/runner.h"
#include "bpf/redirection.h"
#include "proxy/proxy.h"
#include "sinks/jsonl.h"
#include "sinks/sqlite.h"

namespace weir::agent {
namespace {

constexpr std::chrono::milliseconds proxy_grace{2000};
constexpr std::chrono::milliseconds longest_wait = IdleHook::kAfter;  // of the main loop, when nothing comes

// Names in the state directory, which is the worker's current directory: its parents may be closed to it.
constexpr const char* database_name = "weir.db";
constexpr const char* socket_name = "agent.sock";
constexpr const char* token_name = "api.token";

std::string first_line(const char* file) {
  std::ifstream in(file);
  std::string line;
  std::getline(in, line);
  return line;
}

std::string host_id() {
  const std::string machine = first_line("/etc/machine-id");
  return machine.empty() ? first_line("/proc/sys/kernel/hostname") : machine;
}

std::string read_descriptor(int descriptor) {
  std::string text;
  std::array<char, 65536> part{};
  off_t at = 0;
  while (true) {
    const ssize_t size = ::pread(descriptor, part.data(), part.size(), at);
    if (size <= 0) return text;
    text.append(part.data(), static_cast<std::size_t>(size));
    at += size;
  }
}

std::expected<std::string, Error> make_token() {
  std::random_device random;
  std::string token;
  for (int i = 0; i < 8; ++i) {
    std::array<char, 9> word{};
    std::snprintf(word.data(), word.size(), "%08x", random());
    token += word.data();
  }
  // Readers open the file by its name at any time, so it is complete before it has that name.
  const std::string fresh = std::string(token_name) + ".new";
  ::unlink(fresh.c_str());
  const Descriptor file(::open(fresh.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
  if (!file || ::write(file.get(), token.data(), token.size()) != static_cast<ssize_t>(token.size()) ||
      ::rename(fresh.c_str(), token_name) != 0) {
    return std::unexpected(Error{std::string(token_name) + ": " + std::strerror(errno), ""});
  }
  return token;
}

void log_failing_sink(const std::string& sink, const sinks::Error& error) {
  log_error("sink " + sink + ": " + sinks::to_string(error) + "; records for it are dropped and counted");
}

// What the broker handed over, in protocol.h's order.
struct Inheritance {
  Welcome welcome;
  std::string config_text;
  Descriptor state_directory;
  Descriptor upstream_roots;
  Descriptor client_identities;
  Descriptor ring;
  Descriptor tuples;
  Descriptor control;
  Descriptor untold;
  Descriptor redirections;
  Descriptor file_changes;
  Descriptor exec_event;
  Descriptor exec_page;
  Descriptor listener_event;
  Descriptor jsonl;
  Descriptor recording;
};

std::expected<Inheritance, Error> greet(BrokerClient& broker) {
  Request request;
  request.operation = Operation::hello;
  auto answer = broker.call(request);
  if (!answer) return std::unexpected(answer.error());
  Inheritance inheritance;
  if (answer->reply.data_size != sizeof(Welcome))
    return std::unexpected(Error{"the broker's welcome is malformed", ""});
  std::memcpy(&inheritance.welcome, answer->reply.data.data(), sizeof(Welcome));
  auto next = answer->descriptors.begin();
  const auto take = [&] { return next == answer->descriptors.end() ? Descriptor() : std::move(*next++); };
  const Descriptor config = take();
  inheritance.config_text = read_descriptor(config.get());
  inheritance.state_directory = take();
  inheritance.upstream_roots = take();
  inheritance.client_identities = take();
  if (inheritance.welcome.has_native) {
    inheritance.ring = take();
    inheritance.tuples = take();
    inheritance.control = take();
    inheritance.untold = take();
    inheritance.redirections = take();
    inheritance.file_changes = take();
  }
  if (inheritance.welcome.has_exec_gate) {
    inheritance.exec_event = take();
    inheritance.exec_page = take();
  }
  if (inheritance.welcome.has_redirection) inheritance.listener_event = take();
  if (inheritance.welcome.has_jsonl) inheritance.jsonl = take();
  if (inheritance.welcome.has_recording) inheritance.recording = take();
  return inheritance;
}

class Worker {
 public:
  explicit Worker(BrokerClient& broker) : broker_(broker), signer_(broker) {}

  std::expected<void, Error> start() {
    auto inheritance = greet(broker_);
    if (!inheritance) return std::unexpected(inheritance.error());
    inheritance_ = std::move(*inheritance);
    config_ = default_config();
    if (auto read = read_config_text(inheritance_.config_text, "configuration", config_); !read) return read;
    if (::fchdir(inheritance_.state_directory.get()) != 0) {
      return std::unexpected(Error{"state directory: " + std::string(std::strerror(errno)), ""});
    }
    if (auto loaded = load_policy(); !loaded) return loaded;
    keep_earlier_ports();
    if (auto started = start_sinks(); !started) return started;
    if (auto started = start_api(); !started) return started;
    make_engine();
    if (auto started = start_proxy(); !started) return started;
    if (auto started = start_recording(); !started) return started;
    engine_->start();
    if (proxy_) proxy_->start();
    start_native();
    say_ready();
    // Answered after the broker has made of "ready" what follows from it: who asks us whether the agent is
    // ready may rely on redirection and on the policy's exemptions.
    ask_authority();
    api_->start();
    return {};
  }

  // Until a signal asks to stop, or the broker is gone.
  void run(int signals) {
    IdleHook idle(return_thread_memory);
    while (true) {
      pollfd waits[] = {{signals, POLLIN, 0},
                        {broker_.socket(), POLLRDHUP, 0},
                        {inheritance_.listener_event.get(), POLLIN, 0}};  // -1: not waited for
      const int ready = ::poll(waits, std::size(waits), longest_wait.count());
      idle.turn(ready > 0);
      if (ready < 0) continue;
      if ((waits[2].revents & POLLIN) != 0 && proxy_) take_redirect_listeners();
      if ((waits[1].revents & (POLLHUP | POLLRDHUP | POLLERR)) != 0) return;
      signalfd_siginfo info{};
      if ((waits[0].revents & POLLIN) == 0 || ::read(signals, &info, sizeof info) != sizeof info) continue;
      if (info.ssi_signo == SIGTERM) return;
      if (info.ssi_signo != SIGHUP) continue;
      ask_authority();
      if (auto loaded = load_policy(); !loaded) log_error("policy: " + to_string(loaded.error()));
    }
  }

  void stop() {
    if (proxy_) proxy_->stop(proxy_grace);
    if (native_) native_->stop();
    engine_->stop();
    if (recorder_) recorder_->flush();
    for (auto& sink : sinks_) sink->stop();
    api_->stop();
  }

 private:
  // Who signs leaves now; those of another are signed anew.
  void ask_authority() {
    Request request;
    request.operation = Operation::authority;
    const auto answer = broker_.call(request);
    if (!answer || answer->reply.status != Status::ok) return;
    const AuthorityStatus told{answer->reply.text.data(), answer->reply.number == 1};
    if (proxy_) proxy_->forget_leaves();
    const std::lock_guard lock(authority_mutex_);
    authority_ = told;
  }

  // A restarted worker listens where the earlier one did: clients have the address in their environment.
  void keep_earlier_ports() {
    const auto earlier = [](const auto& text, Endpoint& endpoint) {
      if (auto parsed = parse_endpoint(text.data())) endpoint = *parsed;
    };
    earlier(inheritance_.welcome.proxy_listen, config_.proxy_listen);
    earlier(inheritance_.welcome.api_listen, config_.api_listen);
  }

  // What the broker has in force; it has read the same text without an error.
  std::expected<void, Error> load_policy() {
    Request request;
    request.operation = Operation::policy;
    auto answer = broker_.call(request);
    if (!answer) return std::unexpected(answer.error());
    {
      const std::lock_guard lock(policy_mutex_);
      policy_error_ = answer->reply.text.data();
    }
    if (answer->descriptors.empty()) return {};
    auto policy =
        read_policy_text(read_descriptor(answer->descriptors.front().get()), config_.policy, user_id);
    if (!policy) return std::unexpected(policy.error());
    policy_.set(std::make_shared<const CompiledPolicy>(*std::move(policy)));
    return {};
  }

  std::string find_executable(std::uint32_t pid) {
    Request request;
    request.operation = Operation::find_executable;
    request.number = pid;
    const auto answer = broker_.call(request);
    return answer && answer->reply.status == Status::ok ? answer->reply.text.data() : std::string();
  }

  std::expected<void, Error> start_sinks() {
    if (inheritance_.jsonl) {
      sinks_.push_back(std::make_unique<sinks::SinkThread>(
          sinks::make_jsonl_sink(inheritance_.jsonl.release(), config_.jsonl), sinks::QueueLimits{},
          log_failing_sink, return_thread_memory));
    }
    if (config_.store) {
      // Whoever starts the agent is told that the store can't be used; later, capture comes first.
      auto store = sinks::make_sqlite_sink({.path = database_name,
                                            .max_bytes = config_.store_max_bytes,
                                            .max_age = std::chrono::hours(config_.store_max_age_hours),
                                            .required = inheritance_.welcome.restarts == 0});
      if (!store) return std::unexpected(to_error(store.error()));
      sinks_.push_back(std::make_unique<sinks::SinkThread>(std::move(*store), sinks::QueueLimits{},
                                                           log_failing_sink, return_thread_memory));
    }
    return {};
  }

  std::expected<void, Error> start_api() {
    auto token = make_token();
    if (!token) return std::unexpected(token.error());
    ApiConfig api;
    api.unix_socket = socket_name;
    api.tcp = config_.api_listen;
    api.token = *token;
    ApiBackend backend;
    backend.status_json = [this] { return status_json(status()); };
    backend.coverage_json = [this] { return coverage_json(engine_->coverage()); };
    backend.database = database_name;
    auto server = ApiServer::create(api, backend);
    if (!server) return std::unexpected(to_error(server.error()));
    api_ = std::move(*server);
    return {};
  }

  void make_engine() {
    RunnerConfig runner;
    runner.shards = std::max(config_.shards, 1u);
    runner.queue_events = config_.queue_events;
    runner.queue_bytes = config_.queue_bytes;
    runner.when_idle = return_thread_memory;
    runner.engine.host_id = host_id();
    runner.engine.boot_id = first_line("/proc/sys/kernel/random/boot_id");
    runner.engine.boot_time = boot_time();
    runner.engine.user_name = UserNames();
    runner.engine.capture_bodies = config_.bodies;
    runner.engine.redact = config_.redact;
    runner.engine.ingress = config_.ingress;
    runner.engine.limits.connections = config_.connections;
    runner.engine.limits.body_bytes = config_.body_bytes;
    runner.engine.own_pids = {inheritance_.welcome.broker_pid, static_cast<std::uint32_t>(::getpid())};
    engine_ = std::make_unique<EngineRunner>(runner, [this](const RecordPtr& record) {
      for (auto& sink : sinks_) sink->submit(record);
      api_->publish(record);
    });
  }

  std::expected<void, Error> start_proxy() {
    if (!config_.proxy) return {};
    resolver_ = make_resolver(inheritance_.welcome.network_namespace_cookie);
    proxy::Config proxy;
    proxy.listen = config_.proxy_listen;
    proxy.threads = config_.proxy_threads;
    proxy.passthrough = config_.passthrough;
    proxy.rejections.most = config_.passthrough_after;
    proxy.rejections.passed_for = std::chrono::seconds(config_.passthrough_seconds);
    proxy.open_mutual_tls = config_.open_mutual_tls;
    if (!config_.upstream_proxy.empty())
      if (auto above = proxy::parse_upstream_proxy(config_.upstream_proxy))
        proxy.upstream_proxy = *std::move(above);
    proxy.limits.connections = config_.proxy_connections;
    proxy.limits.memory = config_.proxy_memory_bytes;
    proxy.memory_in_use = private_memory;
    proxy.when_idle = return_thread_memory;
    if (!config_.upstream_ca.empty()) {
      proxy.upstream_ca.emplace_back("/proc/self/fd/" + std::to_string(inheritance_.upstream_roots.get()));
    }
    proxy.client_certificates = client_certificates();
    if (auto address = api_->address()) proxy.refused_destinations.push_back(*address);
    if (inheritance_.welcome.has_native) {
      auto heartbeat = bpf::ProxyHeartbeat::open(inheritance_.control.get());
      if (!heartbeat) return std::unexpected(to_error(heartbeat.error()));
      heartbeat_.emplace(std::move(*heartbeat));
      proxy.heartbeat = [this] { heartbeat_->beat(); };
    }
    auto made = proxy::Proxy::create(proxy, signer_, *resolver_, policy_,
                                     [this]() -> EventPublisher& { return engine_->add_source(); });
    if (!made) return std::unexpected(named(to_error(made.error())));
    proxy_ = std::move(*made);
    engine_->set_proxy_listeners({proxy_->address()});
    take_redirect_listeners();
    return {};
  }

  std::unique_ptr<ClientResolver> make_resolver(std::uint64_t network_namespace_cookie) {
    auto resolver = inheritance_.welcome.has_native
                        ? bpf::make_kernel_resolver(inheritance_.tuples.get(),
                                                    inheritance_.redirections.get(), network_namespace_cookie)
                        : make_diag_resolver(
                              engine_->add_source(),
                              [this](std::uint32_t inode) { return find_socket_owner(inode); }, containers_);
    if (config_.policy.empty() && config_.passthrough_after == 0) return resolver;
    return make_facts_resolver(
        std::move(resolver), [this](std::uint32_t pid) { return find_executable(pid); }, containers_);
  }

  std::expected<std::optional<ContainerTable::File>, Error> open_container_file(const std::string& id,
                                                                                std::uint32_t number) {
    Request request;
    request.operation = Operation::container_state;
    request.container_state = {{}, number};
    if (id.size() != request.container_state.id.size()) return std::nullopt;
    std::ranges::copy(id, request.container_state.id.begin());
    auto answer = broker_.call(request);
    if (!answer) return std::unexpected(answer.error());
    if (answer->reply.status == Status::no_more) return std::nullopt;
    if (answer->reply.status != Status::ok || answer->descriptors.empty())
      return std::unexpected(Error{answer->reply.text.data(), ""});
    return ContainerTable::File{answer->reply.number, std::move(answer->descriptors.front())};
  }

  void take_redirect_listeners() {
    Request request;
    request.operation = Operation::next_listener;
    while (true) {
      auto answer = broker_.call(request);
      if (!answer || answer->reply.status != Status::ok || answer->descriptors.empty()) return;
      proxy::RedirectListener listener;
      listener.descriptor = answer->descriptors.front().release();
      listener.resolver = resolver_;
      if (const std::uint32_t elsewhere = answer->reply.number; elsewhere != 0) {
        listener.resolver = make_resolver(answer->reply.netns_cookie);
        listener.make_socket = [this, elsewhere](IpAddress::Family family) {
          return make_socket(elsewhere, family == IpAddress::Family::v6);
        };
      }
      proxy_->add_redirect_listener(std::move(listener));
    }
  }

  // In another network namespace; only the broker may.
  int make_socket(std::uint32_t network_namespace, bool v6) {
    Request request;
    request.operation = Operation::upstream_socket;
    request.upstream_socket = {network_namespace, v6 ? 1u : 0u};
    auto answer = broker_.call(request);
    const bool made = answer && answer->reply.status == Status::ok && !answer->descriptors.empty();
    return made ? answer->descriptors.front().release() : -1;
  }

  std::vector<proxy::ClientCertificate> client_certificates() const {
    std::vector<proxy::ClientCertificate> certificates;
    const std::string all = read_descriptor(inheritance_.client_identities.get());
    std::string_view left = all;
    for (const std::string& entry : config_.client_certificates) {
      const auto at = entry.find('=');
      const auto end = std::min(left.find('\0'), left.size());
      certificates.push_back({entry.substr(0, at), std::string(left.substr(0, end)), entry.substr(at + 1)});
      left.remove_prefix(std::min(end + 1, left.size()));
    }
    return certificates;
  }

  // The roots come as one file, which has no name of its own.
  Error named(Error error) const {
    const std::string ours = "/proc/self/fd/" + std::to_string(inheritance_.upstream_roots.get());
    const auto at = error.what.find(ours);
    if (at == std::string::npos) return error;
    std::string names;
    for (const std::string& file : config_.upstream_ca) names += (names.empty() ? "" : ", ") + file;
    error.what.replace(at, ours.size(), names);
    return error;
  }

  // The broker looks, as it may see other users' processes when it is root.
  std::optional<SocketOwner> find_socket_owner(std::uint32_t inode) {
    Request request;
    request.operation = Operation::find_socket_owner;
    request.number = inode;
    auto answer = broker_.call(request);
    if (!answer || answer->reply.status != Status::ok) return std::nullopt;
    return SocketOwner{answer->reply.handle, answer->reply.text.data()};
  }

  std::expected<void, Error> start_recording() {
    if (!inheritance_.recording) return {};
    RecordingSession session;
    session.host_id = host_id();
    session.boot_id = first_line("/proc/sys/kernel/random/boot_id");
    session.boot_time = boot_time();
    session.own_pids = {inheritance_.welcome.broker_pid, static_cast<std::uint32_t>(::getpid())};
    if (proxy_) session.proxy_listeners = {proxy_->address()};
    auto recorder = EventRecorder::open(inheritance_.recording.release(), session);
    if (!recorder) return std::unexpected(Error{recorder.error(), ""});
    recorder_ = std::move(*recorder);
    engine_->set_observer([this](const Event& event) { recorder_->record(event); });
    return {};
  }

  void start_native() {
    if (!inheritance_.welcome.has_native) {
      native_reason_ = inheritance_.welcome.native_reason.data();
      return;
    }
    exec_gate_.emplace(std::move(inheritance_.exec_page));
    naming_source_ = with_container_names(engine_->add_source(), containers_);
    auto native = NativeTap::start(broker_,
                                   {std::move(inheritance_.ring), std::move(inheritance_.control),
                                    std::move(inheritance_.untold), std::move(inheritance_.file_changes),
                                    std::move(inheritance_.exec_event), inheritance_.welcome.ring_bytes},
                                   *naming_source_, filters_of(config_));
    if (native) {
      native_ = std::move(*native);
    } else {
      native_reason_ = to_string(native.error());
      log_error("the native tap is off: " + native_reason_);
    }
  }

  AgentStatus status() const {
    AgentStatus status;
    status.broker_pid = inheritance_.welcome.broker_pid;
    status.worker_pid = static_cast<std::uint32_t>(::getpid());
    status.restarts = inheritance_.welcome.restarts;
    status.state_dir = config_.state_dir;
    status.for_a_command = inheritance_.welcome.for_a_command;
    status.native_wanted = inheritance_.welcome.native_wanted;
    status.native_reason = native_reason_;
    status.holds_execs = inheritance_.welcome.has_exec_gate;
    if (exec_gate_) status.exec_gate = exec_gate_->counters();
    status.native_only = config_.native_only;
    status.native_except = config_.native_except;
    if (native_) {
      status.native = native_->counters();
      status.targets = native_->targets();
    }
    status.proxy_wanted = config_.proxy;
    if (proxy_) {
      status.proxy = proxy_->counters();
      status.passed_through = proxy_->passed_through();
      status.proxy_address = proxy_->address().to_string();
    }
    if (auto address = api_->address()) status.api_address = address->to_string();
    {
      const std::lock_guard lock(authority_mutex_);
      status.authority = authority_;
    }
    status.engine = engine_->counters();
    status.policy_file = config_.policy;
    if (const auto policy = policy_.current()) {
      status.policy_rules = policy->policy().rules.size();
      status.policy_default = name_of(policy->policy().fallback);
    }
    status.policy = policy_.counters();
    {
      const std::lock_guard lock(policy_mutex_);
      status.policy_error = policy_error_;
    }
    for (const auto& sink : sinks_) status.sinks.push_back(sink->counters());
    return status;
  }

  void say_ready() {
    const AgentStatus now = status();
    Request request;
    request.operation = Operation::ready;
    request.ready = {};
    const auto put = [](const std::string& text, auto& place) {
      std::memcpy(place.data(), text.data(), std::min(text.size(), place.size() - 1));
    };
    put(now.proxy_address, request.ready.proxy_address);
    put(now.api_address, request.ready.api_address);
    put(native_line(now), request.ready.native);
    (void)broker_.tell(request);
  }

  BrokerClient& broker_;
  BrokerSigner signer_;
  LivePolicy policy_;
  mutable std::mutex policy_mutex_;
  std::string policy_error_;
  Inheritance inheritance_;
  Config config_;
  std::string native_reason_;
  std::vector<std::unique_ptr<sinks::SinkThread>> sinks_;
  std::unique_ptr<ApiServer> api_;
  std::unique_ptr<EventRecorder> recorder_;
  std::unique_ptr<EngineRunner> engine_;
  ContainerTable containers_{
      [this](const std::string& id, std::uint32_t number) { return open_container_file(id, number); }};
  std::unique_ptr<EventPublisher> naming_source_;  // used by the native tap
  std::shared_ptr<ClientResolver> resolver_;
  std::optional<bpf::ProxyHeartbeat> heartbeat_;  // used by the proxy
  std::unique_ptr<proxy::Proxy> proxy_;
  std::unique_ptr<NativeTap> native_;
  std::optional<ExecGateStatus> exec_gate_;
  mutable std::mutex authority_mutex_;  // over authority_: the API's thread tells it
  AuthorityStatus authority_;
};

Descriptor block_signals() {
  sigset_t signals;
  sigemptyset(&signals);
  // The terminal's Ctrl-C reaches the whole group; the broker decides when the worker ends.
  for (const int signal : {SIGTERM, SIGINT, SIGHUP}) sigaddset(&signals, signal);
  ::sigprocmask(SIG_BLOCK, &signals, nullptr);
  ::signal(SIGPIPE, SIG_IGN);
  return Descriptor(::signalfd(-1, &signals, SFD_CLOEXEC));
}

}  // namespace

int run_worker() {
  const Descriptor signals = block_signals();
  ::fcntl(worker_channel_descriptor, F_SETFD, FD_CLOEXEC);
  // Without the broker nothing would watch over this process: end with it, however it ends.
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  ::umask(0077);
  allow_many_descriptors();
  return_memory_when_idle();
  keep_tls_memory_apart();
  BrokerClient broker{Descriptor(worker_channel_descriptor)};
  Worker worker(broker);
  if (auto started = worker.start(); !started) {
    Request request;
    request.operation = Operation::start_failed;
    request.start_failed = {};
    const std::string text = to_string(started.error());
    std::memcpy(request.start_failed.text.data(), text.data(),
                std::min(text.size(), request.start_failed.text.size() - 1));
    (void)broker.tell(request);
    return 1;
  }
  worker.run(signals.get());
  worker.stop();
  return 0;
}

}  // namespace weir::agent
