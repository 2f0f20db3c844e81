// The tests' origin, clients and collector. Loopback only; every port is chosen by the kernel.
#include "tests/kernel/support.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <signal.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <condition_variable>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <stdexcept>
#include <utility>

#include "bpf/probes/tls_probes.h"

namespace weir::test {
namespace {

constexpr std::chrono::seconds kPatience{10};
constexpr const char* kLibssl = "/usr/lib/x86_64-linux-gnu/libssl.so.3";

void require(bool condition, const char* what) {
  if (!condition) throw std::runtime_error(what);
}

}  // namespace

TemporaryDirectory::TemporaryDirectory() {
  std::string name = (std::filesystem::temp_directory_path() / "weir-test-XXXXXX").string();
  require(::mkdtemp(name.data()) != nullptr, "mkdtemp");
  path_ = name;
}

TemporaryDirectory::~TemporaryDirectory() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

Child::Child(std::vector<std::string> arguments, const std::vector<std::string>& environment) {
  int to_child[2], from_child[2];
  require(::pipe2(to_child, O_CLOEXEC) == 0 && ::pipe2(from_child, O_CLOEXEC) == 0, "pipe");
  std::vector<char*> argv, envp;
  for (auto& argument : arguments) argv.push_back(argument.data());
  argv.push_back(nullptr);
  for (char** each = environ; *each != nullptr; ++each) envp.push_back(*each);
  for (const auto& each : environment) envp.push_back(const_cast<char*>(each.c_str()));
  envp.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, to_child[0], 0);
  posix_spawn_file_actions_adddup2(&actions, from_child[1], 1);
  const int failed = ::posix_spawnp(&pid_, argv[0], &actions, nullptr, argv.data(), envp.data());
  posix_spawn_file_actions_destroy(&actions);
  ::close(to_child[0]);
  ::close(from_child[1]);
  input_ = to_child[1];
  output_ = from_child[0];
  require(failed == 0, "cannot start a child process");
}

Child::~Child() {
  if (pid_ > 0) {
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }
  if (input_ >= 0) ::close(input_);
  ::close(output_);
}

std::string Child::read_line() {
  std::string line;
  for (char c; ::read(output_, &c, 1) == 1 && c != '\n';) line += c;
  return line;
}

void Child::write_line(const std::string& line) {
  const std::string text = line + "\n";
  if (::write(input_, text.data(), text.size()) != static_cast<ssize_t>(text.size()))
    throw std::runtime_error(std::string("writing to a child: ") + std::strerror(errno));
}

std::string Child::finish() {
  ::close(std::exchange(input_, -1));
  std::string output;
  char buffer[4096];
  for (ssize_t got; (got = ::read(output_, buffer, sizeof buffer)) > 0;)
    output.append(buffer, static_cast<std::size_t>(got));
  ::waitpid(std::exchange(pid_, -1), nullptr, 0);
  return output;
}

std::vector<const ConnectionOpened*> Collector::opened_by(std::uint32_t pid) const {
  return all<ConnectionOpened>([pid](const auto& event) { return event.owner.pid == pid; });
}

std::vector<const ConnectionClosed*> Collector::closed(SocketCookie cookie) const {
  return all<ConnectionClosed>([cookie](const auto& event) { return event.cookie == cookie; });
}

std::string Collector::stream(SocketCookie cookie, Direction direction) const {
  std::string stream;
  for (const auto* bytes : all<Bytes>(
           [&](const auto& event) { return event.cookie == cookie && event.direction == direction; })) {
    if (bytes->offset != stream.size()) return stream + "[hole or overlap]";
    stream.append(reinterpret_cast<const char*>(bytes->data.data()), bytes->data.size());
  }
  return stream;
}

bpf::LoadOptions default_options() {
  const char* without = std::getenv("WEIR_TEST_WITHOUT");
  const std::string_view names = without == nullptr ? "" : without;
  bpf::LoadOptions options;
  options.socket_events = names.find("socket_events") == names.npos;
  options.uprobe_multi = names.find("uprobe_multi") == names.npos;
  options.state_tracepoint = names.find("state_tracepoint") == names.npos;
  return options;
}

Tap::Tap(bpf::LoadOptions options) {
  auto kernel = bpf::KernelSide::load(options);
  if (!kernel) throw std::runtime_error(kernel.error().what + " (" + kernel.error().remedy + ")");
  kernel_ = *std::move(kernel);
  auto source =
      bpf::EventSource::create({::fcntl(kernel_->ring_descriptor(), F_DUPFD_CLOEXEC, 0), options.ring_bytes,
                                ::fcntl(kernel_->control_descriptor(), F_DUPFD_CLOEXEC, 0),
                                ::fcntl(kernel_->untold_descriptor(), F_DUPFD_CLOEXEC, 0)},
                               collector_, [](std::uint32_t) { return std::string("0::/test"); });
  if (!source) throw std::runtime_error(source.error().what);
  source_ = *std::move(source);
}

bool Tap::wait_for(const std::function<bool()>& condition) {
  const auto deadline = std::chrono::steady_clock::now() + kPatience;
  while (!condition()) {
    if (std::chrono::steady_clock::now() > deadline) return false;
    source_->poll(std::chrono::milliseconds(100));
  }
  return true;
}

PrivateLibssl::PrivateLibssl() : file_(directory_.path() / "libssl.so.3") {
  std::filesystem::copy_file(kLibssl, file_);
}

int PrivateLibssl::open() const {
  return ::open(file_.c_str(), O_RDONLY | O_CLOEXEC);
}

std::vector<bpf::ProbeSite> PrivateLibssl::sites() const {
  const int file = open();
  auto found = bpf::find_tls_libraries(file);
  ::close(file);
  if (!found || found->size() != 1) throw std::runtime_error("no library in libssl.so.3");
  return std::move(found->front().sites);
}

std::string body(std::size_t bytes) {
  std::string text(bytes, '\0');
  std::uint32_t state = 1;
  for (auto& c : text) {
    state = state * 1664525 + 1013904223;
    c = static_cast<char>(state >> 24);
  }
  return text;
}

struct TlsOrigin::State {
  SSL_CTX* context = nullptr;
  int listener = -1;
  std::thread acceptor;
  std::mutex mutex;
  std::condition_variable served_one;
  std::vector<std::thread> workers;
  std::map<std::uint16_t, Served> served;

  void serve(int socket, std::uint16_t client_port);
};

namespace {

SSL_CTX* make_context() {
  EVP_PKEY* key = EVP_EC_gen("P-256");
  X509* certificate = X509_new();
  X509_set_version(certificate, 2);
  ASN1_INTEGER_set(X509_get_serialNumber(certificate), 1);
  X509_gmtime_adj(X509_getm_notBefore(certificate), -3600);
  X509_gmtime_adj(X509_getm_notAfter(certificate), 3600);
  X509_NAME_add_entry_by_txt(X509_get_subject_name(certificate), "CN", MBSTRING_ASC,
                             reinterpret_cast<const unsigned char*>("localhost"), -1, -1, 0);
  X509_set_issuer_name(certificate, X509_get_subject_name(certificate));
  X509_set_pubkey(certificate, key);
  X509_sign(certificate, key, EVP_sha256());
  SSL_CTX* context = SSL_CTX_new(TLS_server_method());
  SSL_CTX_use_certificate(context, certificate);
  SSL_CTX_use_PrivateKey(context, key);
  X509_free(certificate);
  EVP_PKEY_free(key);
  return context;
}

bool read_some(SSL* tls, std::string& text) {
  char buffer[16384];
  const int got = SSL_read(tls, buffer, sizeof buffer);
  if (got > 0) text.append(buffer, static_cast<std::size_t>(got));
  return got > 0;
}

// The head, then as much as Content-Length says.
std::string read_request(SSL* tls) {
  std::string text;
  while (text.find("\r\n\r\n") == std::string::npos)
    if (!read_some(tls, text)) return text;
  const auto mark = text.find("Content-Length: ");
  const std::size_t length = mark == std::string::npos ? 0 : std::stoul(text.substr(mark + 16));
  const std::size_t whole = text.find("\r\n\r\n") + 4 + length;
  while (text.size() < whole && read_some(tls, text)) {
  }
  return text;
}

}  // namespace

void TlsOrigin::State::serve(int socket, std::uint16_t client_port) {
  Served result;
  result.client_port = client_port;
  SSL* tls = SSL_new(context);
  SSL_set_fd(tls, socket);
  if (SSL_accept(tls) == 1) {
    result.request = read_request(tls);
    const std::size_t size =
        result.request.starts_with("GET /") ? std::strtoul(&result.request[5], nullptr, 10) : 2;
    result.response = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: " + std::to_string(size) +
                      "\r\n\r\n" + body(size);
    SSL_write(tls, result.response.data(), static_cast<int>(result.response.size()));
    SSL_shutdown(tls);
    std::string rest;
    while (read_some(tls, rest)) {
    }
  }
  ERR_clear_error();
  result.raw_received = BIO_number_read(SSL_get_rbio(tls));
  result.raw_sent = BIO_number_written(SSL_get_wbio(tls));
  SSL_free(tls);
  ::close(socket);
  std::lock_guard lock(mutex);
  served[client_port] = std::move(result);
  served_one.notify_all();
}

TlsOrigin::TlsOrigin() : state_(std::make_unique<State>()) {
  ::signal(SIGPIPE, SIG_IGN);
  state_->context = make_context();
  state_->listener = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof address;
  require(::bind(state_->listener, reinterpret_cast<sockaddr*>(&address), length) == 0, "bind");
  require(::listen(state_->listener, 64) == 0, "listen");
  ::getsockname(state_->listener, reinterpret_cast<sockaddr*>(&address), &length);
  port_ = ntohs(address.sin_port);
  state_->acceptor = std::thread([state = state_.get()] {
    for (;;) {
      sockaddr_in peer{};
      socklen_t peer_length = sizeof peer;
      const int socket =
          ::accept4(state->listener, reinterpret_cast<sockaddr*>(&peer), &peer_length, SOCK_CLOEXEC);
      if (socket < 0) return;
      std::lock_guard lock(state->mutex);
      state->workers.emplace_back([=] { state->serve(socket, ntohs(peer.sin_port)); });
    }
  });
}

TlsOrigin::~TlsOrigin() {
  ::shutdown(state_->listener, SHUT_RDWR);
  state_->acceptor.join();
  for (auto& worker : state_->workers) worker.join();
  ::close(state_->listener);
  SSL_CTX_free(state_->context);
}

TlsOrigin::Served TlsOrigin::served_to(std::uint16_t client_port) {
  std::unique_lock lock(state_->mutex);
  state_->served_one.wait_for(lock, kPatience, [&] { return state_->served.contains(client_port); });
  return state_->served[client_port];
}

}  // namespace weir::test
