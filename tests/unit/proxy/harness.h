// What the proxy's tests stand on: certificates made in the process, an origin and a client that read and
// write exact bytes over blocking sockets, and fakes for the rooms around the proxy.
#pragma once

#include <openssl/ssl.h>

#include <atomic>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "proxy/proxy.h"
#include "proxy/tls.h"

namespace weir::proxy::test {

// A CA of the tests' own; issues leaves, for origins with a key of its own and for the proxy as its
// LeafSigner.
class TestCa : public ca::LeafSigner {
 public:
  explicit TestCa(const std::string& common_name);
  std::expected<std::vector<std::uint8_t>, ca::Error> sign(const ca::LeafRequest& request) override {
    return sign(request, 3600);
  }
  std::expected<std::vector<std::uint8_t>, ca::Error> sign(const ca::LeafRequest& request, long not_after);
  std::string pem() const;
  // A certificate for that name and its key.
  std::string identity_pem(const std::string& name) const;

  struct Leaf {
    std::string name;
    long not_after = 3600;  // seconds from now
    bool self_signed = false;
    bool http2 = false;  // the server speaks HTTP/2 alone
  };
  SslContext server_context(const Leaf& leaf) const;

 private:
  Certificate make(const std::string& name, EVP_PKEY* key, long not_after, bool self_signed) const;
  PrivateKey key_;
  Certificate certificate_;
};

// A blocking connection; every call fails the test rather than wait longer than ten seconds.
class Wire {
 public:
  explicit Wire(int fd) : fd_(fd) {}
  Wire(Wire&& other) noexcept;
  Wire& operator=(Wire&&) = delete;
  ~Wire();
  bool start_tls(SSL_CTX* context, bool as_server, const std::string& name = "",
                 SSL_SESSION* resumed = nullptr);

  void write(const std::string& bytes);
  std::string read_some(std::size_t most = 64 * 1024);  // "" at the end
  std::string read_until(const std::string& mark);      // up to and with the mark
  std::string read_exactly(std::size_t count);
  std::string read_to_end();
  void half_close();
  void close();
  void reset();  // the peer sees RST

  SSL* ssl() const { return ssl_.get(); }
  std::string sent;      // since the last start_tls
  std::string received;  // taken by the reader or still buffered
  bool clean_end = false;

 private:
  bool write_failed_ = false;
  int fd_;
  Ssl ssl_;
  std::string buffer_;
};

// What OpenSSL's client sends first, for that name; "": for none.
std::string client_hello(const std::string& name);
// What a client whose TLS is refused reads.
inline const std::string kAccessDeniedAlert("\x15\x03\x03\x00\x02\x02\x31", 7);

// Looks again for five seconds.
bool wait_for(const std::function<bool()>& holds);

// Listens on loopback and runs `script` for each connection on a thread of its own.
class Origin {
 public:
  using Script = std::function<void(Wire&)>;
  Origin(SslContext context, Script script);
  ~Origin();
  std::uint16_t port() const { return port_; }
  int connections() const { return connections_; }
  std::string received();  // all plaintext of finished connections, in order of their ends

 private:
  void run();
  SslContext context_;
  Script script_;
  std::uint16_t port_ = 0;
  int listener_;
  std::atomic<int> connections_ = 0;
  std::mutex mutex_;
  std::string received_;
  std::vector<std::thread> threads_;
  std::thread acceptor_;
};

class Events : public EventPublisher {
 public:
  void publish(Event event) override;
  void keep_nothing() { keeps_ = false; }  // for a test that moves much
  bool wait_until(const std::function<bool(const std::vector<Event>&)>& holds);
  bool wait_for_end() {
    return wait_until([](const auto& all) { return count<StreamEnded>(all) == 2; });
  }
  // The published plaintext of one direction; offsets must be contiguous.
  std::string bytes(Direction direction);
  template <typename T>
  std::vector<T> all() {
    const std::lock_guard lock(mutex_);
    std::vector<T> found;
    for (const auto& event : events_) {
      if (const auto* wanted = std::get_if<T>(&event)) found.push_back(*wanted);
    }
    return found;
  }
  template <typename T>
  static std::size_t count(const std::vector<Event>& events) {
    std::size_t found = 0;
    for (const auto& event : events) found += std::holds_alternative<T>(event) ? 1 : 0;
    return found;
  }
  std::vector<std::string> order();  // the events' kinds, repeats of Bytes joined

 private:
  bool keeps_ = true;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<Event> events_;
};

class Resolver : public ClientResolver {
 public:
  std::expected<Client, std::string> resolve(const Tuple& tuple) override;
  std::atomic<bool> known = true;
  std::shared_ptr<const ClientFacts> facts;  // change it between connections only
  Tuple last() {
    const std::lock_guard lock(mutex_);
    return last_;
  }

 private:
  std::mutex mutex_;
  Tuple last_;
};

class Decider : public PolicyDecider {
 public:
  Verdict decide(const Client&, const weir::Destination& destination, const RequestSummary* request) override;
  std::string refused_name;
  std::string inspected_name;
  std::string refused_target;
  std::string refused_authority;
  std::string refused_cookie;
  std::function<bool(const HelloFacts&)> refuses_hello;
};

// A running proxy and all that is around it.
struct World {
  World();
  void start(Config config = {});
  Wire connect();                                      // to the proxy
  Wire connect_through(const std::string& authority);  // CONNECT answered 200
  // CONNECT to the origin on loopback, then TLS for `name`, trusting the proxy's CA.
  Wire open(const Origin& origin, const std::string& name, bool http2 = false);
  SslContext client_context(const TestCa& trusted, bool http2 = false) const;

  TestCa weir_ca{"weir test CA"};
  TestCa origin_ca{"origin test CA"};
  std::filesystem::path origin_ca_file;
  Events events;
  Resolver resolver;
  Decider decider;
  std::unique_ptr<Proxy> proxy;

  ~World();
};

}  // namespace weir::proxy::test
