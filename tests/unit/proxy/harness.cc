// The tests' certificates, sockets and fakes.
#include "harness.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/tcp.h>
#include <openssl/core_names.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/x509v3.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <fstream>

namespace weir::proxy::test {
namespace {

#ifdef __SANITIZE_THREAD__
constexpr auto kPatience = std::chrono::seconds(60);  // which takes ten times as long
#else
constexpr auto kPatience = std::chrono::seconds(10);
#endif
constexpr unsigned char kHttp2[] = {2, 'h', '2'};

int take_http2(SSL*, const unsigned char** out, unsigned char* size, const unsigned char* offered,
               unsigned offered_size, void*) {
  const int found = SSL_select_next_proto(const_cast<unsigned char**>(out), size, kHttp2, sizeof kHttp2,
                                          offered, offered_size);
  return found == OPENSSL_NPN_NEGOTIATED ? SSL_TLSEXT_ERR_OK : SSL_TLSEXT_ERR_ALERT_FATAL;
}

void add_extension(X509* certificate, X509* issuer, int nid, const std::string& value) {
  X509V3_CTX context;
  X509V3_set_ctx(&context, issuer, certificate, nullptr, nullptr, 0);
  X509_EXTENSION* extension = X509V3_EXT_conf_nid(nullptr, &context, nid, value.c_str());
  X509_add_ext(certificate, extension, -1);
  X509_EXTENSION_free(extension);
}

Certificate blank(const std::string& name, EVP_PKEY* key, long not_after) {
  Certificate certificate(X509_new());
  X509_set_version(certificate.get(), 2);
  std::uint64_t serial = 0;
  RAND_bytes(reinterpret_cast<unsigned char*>(&serial), sizeof serial);
  ASN1_INTEGER_set_uint64(X509_get_serialNumber(certificate.get()), serial >> 1);
  X509_gmtime_adj(X509_getm_notBefore(certificate.get()), -7200);
  X509_gmtime_adj(X509_getm_notAfter(certificate.get()), not_after);
  X509_NAME_add_entry_by_txt(X509_get_subject_name(certificate.get()), "CN", MBSTRING_UTF8,
                             reinterpret_cast<const unsigned char*>(name.c_str()), -1, -1, 0);
  X509_set_pubkey(certificate.get(), key);
  return certificate;
}

int listen_on_loopback(std::uint16_t* port) {
  const int fd = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof address;
  EXPECT_EQ(::bind(fd, reinterpret_cast<sockaddr*>(&address), length), 0);
  EXPECT_EQ(::listen(fd, 64), 0);
  ::getsockname(fd, reinterpret_cast<sockaddr*>(&address), &length);
  *port = ntohs(address.sin_port);
  return fd;
}

// Small frames do not wait for what was sent before.
void set_up(int fd) {
  const int on = 1;
  ::setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  const timeval patience{kPatience.count(), 0};
  ::setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  ::setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
}

// The tests' own sockets may raise it; the proxy's threads keep it deadly, so that a raise there is seen.
void block_broken_pipe(bool block) {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGPIPE);
  pthread_sigmask(block ? SIG_BLOCK : SIG_UNBLOCK, &signals, nullptr);
}

}  // namespace

TestCa::TestCa(const std::string& common_name) : key_(EVP_EC_gen("P-256")) {
  certificate_ = blank(common_name, key_.get(), 3600);
  X509_set_issuer_name(certificate_.get(), X509_get_subject_name(certificate_.get()));
  add_extension(certificate_.get(), certificate_.get(), NID_basic_constraints, "critical,CA:TRUE");
  X509_sign(certificate_.get(), key_.get(), EVP_sha256());
}

Certificate TestCa::make(const std::string& name, EVP_PKEY* key, long not_after, bool self_signed) const {
  auto leaf = blank(name, key, not_after);
  X509* issuer = self_signed ? leaf.get() : certificate_.get();
  X509_set_issuer_name(leaf.get(), X509_get_subject_name(issuer));
  const bool literal = parse_ip_address(name).family != IpAddress::Family::unknown;
  add_extension(leaf.get(), issuer, NID_subject_alt_name, (literal ? "IP:" : "DNS:") + name);
  X509_sign(leaf.get(), self_signed ? key : key_.get(), EVP_sha256());
  return leaf;
}

std::expected<std::vector<std::uint8_t>, ca::Error> TestCa::sign(const ca::LeafRequest& request,
                                                                 long not_after) {
  char group[] = "P-256";
  auto point = request.public_key;
  OSSL_PARAM parameters[] = {
      OSSL_PARAM_construct_utf8_string(OSSL_PKEY_PARAM_GROUP_NAME, group, 0),
      OSSL_PARAM_construct_octet_string(OSSL_PKEY_PARAM_PUB_KEY, point.data(), point.size()),
      OSSL_PARAM_construct_end()};
  EVP_PKEY* raw = nullptr;
  EVP_PKEY_CTX* context = EVP_PKEY_CTX_new_from_name(nullptr, "EC", nullptr);
  EVP_PKEY_fromdata_init(context);
  EVP_PKEY_fromdata(context, &raw, EVP_PKEY_PUBLIC_KEY, parameters);
  EVP_PKEY_CTX_free(context);
  const PrivateKey key(raw);
  const auto leaf = make(request.name, key.get(), not_after, false);
  std::vector<std::uint8_t> der(static_cast<std::size_t>(i2d_X509(leaf.get(), nullptr)));
  unsigned char* cursor = der.data();
  i2d_X509(leaf.get(), &cursor);
  return der;
}

std::string TestCa::pem() const {
  BIO* bio = BIO_new(BIO_s_mem());
  PEM_write_bio_X509(bio, certificate_.get());
  char* data = nullptr;
  const long size = BIO_get_mem_data(bio, &data);
  std::string text(data, static_cast<std::size_t>(size));
  BIO_free(bio);
  return text;
}

std::string TestCa::identity_pem(const std::string& name) const {
  const PrivateKey key(EVP_EC_gen("P-256"));
  const Certificate certificate = make(name, key.get(), 3600, false);
  BIO* bio = BIO_new(BIO_s_mem());
  PEM_write_bio_X509(bio, certificate.get());
  PEM_write_bio_PrivateKey(bio, key.get(), nullptr, nullptr, 0, nullptr, nullptr);
  char* data = nullptr;
  const long size = BIO_get_mem_data(bio, &data);
  std::string text(data, static_cast<std::size_t>(size));
  BIO_free(bio);
  return text;
}

SslContext TestCa::server_context(const Leaf& leaf) const {
  const PrivateKey key(EVP_EC_gen("P-256"));
  const auto certificate = make(leaf.name, key.get(), leaf.not_after, leaf.self_signed);
  SslContext context(SSL_CTX_new(TLS_server_method()));
  SSL_CTX_use_certificate(context.get(), certificate.get());
  SSL_CTX_use_PrivateKey(context.get(), key.get());
  if (leaf.http2) SSL_CTX_set_alpn_select_cb(context.get(), take_http2, nullptr);
  return context;
}

Wire::Wire(Wire&& other) noexcept
    : sent(std::move(other.sent)),
      received(std::move(other.received)),
      clean_end(other.clean_end),
      write_failed_(other.write_failed_),
      fd_(std::exchange(other.fd_, -1)),
      ssl_(std::move(other.ssl_)),
      buffer_(std::move(other.buffer_)) {}

Wire::~Wire() {
  close();
}

bool Wire::start_tls(SSL_CTX* context, bool as_server, const std::string& name, SSL_SESSION* resumed) {
  ssl_.reset(SSL_new(context));
  SSL_set_fd(ssl_.get(), fd_);
  if (!name.empty()) {
    SSL_set_tlsext_host_name(ssl_.get(), name.c_str());
    SSL_set1_host(ssl_.get(), name.c_str());
  }
  if (resumed != nullptr) SSL_set_session(ssl_.get(), resumed);
  sent.clear();
  received.clear();
  return (as_server ? SSL_accept(ssl_.get()) : SSL_connect(ssl_.get())) == 1;
}

void Wire::write(const std::string& bytes) {
  std::size_t done = 0;
  while (done < bytes.size()) {
    const auto count = ssl_
                           ? SSL_write(ssl_.get(), bytes.data() + done, static_cast<int>(bytes.size() - done))
                           : ::send(fd_, bytes.data() + done, bytes.size() - done, MSG_NOSIGNAL);
    if (count <= 0) {
      write_failed_ = true;
      return;
    }
    sent.append(bytes, done, static_cast<std::size_t>(count));
    done += static_cast<std::size_t>(count);
  }
}

std::string Wire::read_some(std::size_t most) {
  if (!buffer_.empty()) {
    auto taken = buffer_.substr(0, most);
    buffer_.erase(0, taken.size());
    return taken;
  }
  std::string data(most, '\0');
  const auto count =
      ssl_ ? SSL_read(ssl_.get(), data.data(), static_cast<int>(most)) : ::recv(fd_, data.data(), most, 0);
  if (count <= 0) {
    // The kernel tells of a reset once: a write may have had it.
    clean_end = ssl_ ? SSL_get_error(ssl_.get(), static_cast<int>(count)) == SSL_ERROR_ZERO_RETURN
                     : count == 0 && !write_failed_;
    return "";
  }
  data.resize(static_cast<std::size_t>(count));
  received += data;
  return data;
}

std::string Wire::read_until(const std::string& mark) {
  std::string data;
  std::size_t found = 0;
  while ((found = data.find(mark)) == std::string::npos) {
    auto piece = read_some();
    if (piece.empty()) return data;
    data += piece;
  }
  buffer_.insert(0, data.substr(found + mark.size()));
  data.resize(found + mark.size());
  return data;
}

std::string Wire::read_exactly(std::size_t count) {
  std::string data;
  while (data.size() < count) {
    auto piece = read_some(count - data.size());
    if (piece.empty()) break;
    data += piece;
  }
  return data;
}

std::string Wire::read_to_end() {
  std::string data;
  for (auto piece = read_some(); !piece.empty(); piece = read_some()) data += piece;
  return data;
}

void Wire::half_close() {
  if (ssl_) SSL_shutdown(ssl_.get());
  ::shutdown(fd_, SHUT_WR);
}

void Wire::close() {
  if (fd_ < 0) return;
  if (ssl_ && SSL_is_init_finished(ssl_.get()) == 1) SSL_shutdown(ssl_.get());
  ::close(std::exchange(fd_, -1));
}

void Wire::reset() {
  const linger at_once{1, 0};
  ::setsockopt(fd_, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
  ::close(std::exchange(fd_, -1));
}

std::string client_hello(const std::string& name) {
  const SslContext context(SSL_CTX_new(TLS_client_method()));
  const Ssl ssl(SSL_new(context.get()));
  if (!name.empty()) SSL_set_tlsext_host_name(ssl.get(), name.c_str());
  BIO* out = BIO_new(BIO_s_mem());
  SSL_set_bio(ssl.get(), BIO_new(BIO_s_mem()), out);
  SSL_connect(ssl.get());
  char* data = nullptr;
  const long size = BIO_get_mem_data(out, &data);
  return {data, static_cast<std::size_t>(size)};
}

bool wait_for(const std::function<bool()>& holds) {
  for (int i = 0; i < 1'000; ++i, std::this_thread::sleep_for(std::chrono::milliseconds(5)))
    if (holds()) return true;
  return false;
}

Origin::Origin(SslContext context, Script script)
    : context_(std::move(context)), script_(std::move(script)), listener_(listen_on_loopback(&port_)) {
  acceptor_ = std::thread([this] { run(); });
}

Origin::~Origin() {
  ::shutdown(listener_, SHUT_RDWR);
  acceptor_.join();
  for (auto& thread : threads_) thread.join();
  ::close(listener_);
}

void Origin::run() {
  block_broken_pipe(true);
  for (;;) {
    const int fd = ::accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
    if (fd < 0) return;
    set_up(fd);
    ++connections_;
    threads_.emplace_back([this, fd] {
      Wire wire(fd);
      if (!context_ || wire.start_tls(context_.get(), true)) script_(wire);
      const std::lock_guard lock(mutex_);
      received_ += wire.received;
    });
  }
}

std::string Origin::received() {
  const std::lock_guard lock(mutex_);
  return received_;
}

void Events::publish(Event event) {
  if (!keeps_) return;
  const std::lock_guard lock(mutex_);
  events_.push_back(std::move(event));
  changed_.notify_all();
}

bool Events::wait_until(const std::function<bool(const std::vector<Event>&)>& holds) {
  std::unique_lock lock(mutex_);
  return changed_.wait_for(lock, kPatience, [&] { return holds(events_); });
}

std::string Events::bytes(Direction direction) {
  std::string joined;
  for (const auto& event : all<Bytes>()) {
    if (event.direction != direction) continue;
    EXPECT_EQ(event.offset, joined.size());
    EXPECT_LE(event.data.size(), 64u * 1024);
    EXPECT_EQ(event.tap, Tap::proxy);
    joined.append(reinterpret_cast<const char*>(event.data.data()), event.data.size());
  }
  return joined;
}

std::vector<std::string> Events::order() {
  struct Namer {
    std::string operator()(const ConnectionOpened&) const { return "opened"; }
    std::string operator()(const DecisionMade&) const { return "decision"; }
    std::string operator()(const Handshake&) const { return "handshake"; }
    std::string operator()(const Bytes&) const { return "bytes"; }
    std::string operator()(const StreamEnded&) const { return "ended"; }
    std::string operator()(const ProcessEvent&) const { return "process"; }
    std::string operator()(const ConnectionClosed&) const { return "closed"; }
    std::string operator()(const OwnershipChanged&) const { return "owner"; }
    std::string operator()(const Gap&) const { return "gap"; }
    std::string operator()(const Dns&) const { return "dns"; }
    std::string operator()(const TlsLibraryNoted&) const { return "library"; }
    std::string operator()(const PolicyDecided&) const { return "policy"; }
  };
  const std::lock_guard lock(mutex_);
  std::vector<std::string> names;
  for (const auto& event : events_) {
    auto name = std::visit(Namer{}, event);
    if (names.empty() || names.back() != name || name != "bytes") names.push_back(std::move(name));
  }
  return names;
}

std::expected<Client, std::string> Resolver::resolve(const Tuple& tuple) {
  const std::lock_guard lock(mutex_);
  last_ = tuple;
  if (!known) return std::unexpected("nobody");
  Client client{SocketCookie{4711}, ProcessKey{42, 7}, 1};
  client.facts = facts;
  return client;
}

Verdict Decider::decide(const Client& client, const weir::Destination& destination,
                        const RequestSummary* request) {
  if (client.hello && refuses_hello && refuses_hello(*client.hello))
    return {.allowed = false, .rule = "no such hello"};
  const bool asks_name = !refused_name.empty() || !inspected_name.empty();
  if (destination.name.empty() && asks_name) return {.undecided = true};
  if (!refused_name.empty() && destination.name == refused_name)
    return {.allowed = false, .rule = "no " + refused_name};
  if (request != nullptr && !refused_target.empty() && request->target == refused_target)
    return {.allowed = false, .rule = "no target"};
  const auto* cookie = request == nullptr ? nullptr : http::find_field(*request->fields, "cookie");
  if (cookie != nullptr && cookie->value == refused_cookie) return {.allowed = false, .rule = "no cookie"};
  if (request != nullptr && !refused_authority.empty() && request->authority == refused_authority)
    return {.allowed = false, .rule = "no authority"};
  if (!inspected_name.empty() && destination.name == inspected_name) return {.inspect = true};
  return {};
}

World::World() {
  std::string file = testing::TempDir() + "weir-origin-ca-XXXXXX";
  ::close(::mkstemp(file.data()));
  origin_ca_file = file;
  std::ofstream(origin_ca_file) << origin_ca.pem();
}

World::~World() {
  if (proxy) proxy->stop(std::chrono::milliseconds(0));
  std::filesystem::remove(origin_ca_file);
}

void World::start(Config config) {
  const std::uint8_t loopback[] = {127, 0, 0, 1};
  config.listen = {IpAddress::v4(loopback), 0};
  config.threads = config.threads != 0 ? config.threads : 1;
  config.upstream_ca.push_back(origin_ca_file);
  auto made = Proxy::create(std::move(config), weir_ca, resolver, decider,
                            [this]() -> EventPublisher& { return events; });
  ASSERT_TRUE(made) << made.error().what;
  proxy = std::move(*made);
  block_broken_pipe(true);
  std::thread([this] {
    block_broken_pipe(false);
    proxy->start();
  }).join();
}

Wire World::connect() {
  const int fd = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  set_up(fd);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = htons(proxy->address().port);
  EXPECT_EQ(::connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  return Wire(fd);
}

Wire World::connect_through(const std::string& authority) {
  auto wire = connect();
  wire.write("CONNECT " + authority + " HTTP/1.1\r\nHost: " + authority + "\r\n\r\n");
  EXPECT_EQ(wire.read_until("\r\n\r\n"), "HTTP/1.1 200 Connection established\r\n\r\n");
  return wire;
}

Wire World::open(const Origin& origin, const std::string& name, bool http2) {
  auto wire = connect_through("127.0.0.1:" + std::to_string(origin.port()));
  const auto context = client_context(weir_ca, http2);
  EXPECT_TRUE(wire.start_tls(context.get(), false, name));
  return wire;
}

SslContext World::client_context(const TestCa& trusted, bool http2) const {
  SslContext context(SSL_CTX_new(TLS_client_method()));
  const auto pem = trusted.pem();
  BIO* bio = BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size()));
  const Certificate certificate(PEM_read_bio_X509(bio, nullptr, nullptr, nullptr));
  BIO_free(bio);
  X509_STORE_add_cert(SSL_CTX_get_cert_store(context.get()), certificate.get());
  SSL_CTX_set_verify(context.get(), SSL_VERIFY_PEER, nullptr);
  if (http2) SSL_CTX_set_alpn_protos(context.get(), kHttp2, sizeof kHttp2);
  return context;
}

}  // namespace weir::proxy::test
