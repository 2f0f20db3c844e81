// One side of a proxied connection: a non-blocking TCP socket, in the clear or under TLS, read and written by
// coroutines of one thread. One reader and one writer at a time. It knows nothing of HTTP and keeps no bytes
// but those put back with unread().
#pragma once

#include <openssl/ssl.h>

#include <chrono>
#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "attribution/identity.h"
#include "proxy/poller.h"
#include "proxy/socket.h"
#include "proxy/tls.h"

namespace weir::proxy {

// `ended`: it sends no more. `reset`: nor does it read; a socket that was closed answers the next write so.
enum class PeerState { open, ended, reset };

enum class Io {
  ok,
  end,        // orderly: FIN in the clear, close_notify under TLS
  truncated,  // FIN under TLS without close_notify
  timed_out,
  failed,
};

struct ReadResult {
  Io status = Io::ok;
  std::size_t size = 0;
};

class Stream {
 public:
  using Clock = std::chrono::steady_clock;

  // A socket that isn't open is made by connect().
  explicit Stream(Poller& poller, Socket socket = {}) : socket_(std::move(socket)), readiness_(poller) {}
  ~Stream() { close(); }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  Task<Io> connect(Endpoint peer);  // `last_errno` says why it failed
  // Becomes TLS; on failure `alert` and `tls_error` say why.
  Task<Io> handshake(Ssl ssl, bool as_server);

  Task<ReadResult> read(std::span<std::byte> buffer);  // at least one byte when ok
  Task<Io> write(std::span<const std::byte> data);     // all of it
  Task<Io> wait_readable();
  // Without waiting: nothing when they would have to. A write gives how much was taken; call it again with
  // the same bytes and what follows them.
  std::optional<ReadResult> read_now(std::span<std::byte> buffer);
  std::optional<ReadResult> write_now(std::span<const std::byte> data);
  bool readable_now();  // bytes, or the end
  // In the clear, without taking it; nothing when none is there.
  std::optional<std::byte> first_byte();
  std::size_t peek_now(std::span<std::byte> buffer);  // 〃, how many are there
  // In the clear and with nothing put back: what comes goes into a pipe, and what a pipe holds is sent,
  // without passing through this process. The thread must have SIGPIPE blocked.
  bool can_splice() const { return !ssl_ && prefix_.empty(); }
  Task<ReadResult> splice_into(int pipe);
  Task<Io> splice_out_of(int pipe, std::size_t size);  // all of it
  // While nothing is being written: what TLS keeps for that is given back until it is.
  void release_write_buffer();
  void shutdown_write();  // close_notify, FIN
  // That, and takes what the peer still sends, for some seconds: a close with unread bytes would reset the
  // connection, and the peer could lose what was sent last, as the answer to an upload that it hasn't ended.
  Task<void> linger();
  void unread(std::span<const std::byte> data);
  void close();
  void abort();  // as close(), but the peer sees a reset: what it got is not whole

  // From now until the next call: fails with timed_out at `at`, or when nothing moved for `idle` (0: no
  // limit).
  void set_deadline(std::chrono::milliseconds from_now);
  void set_idle_timeout(std::chrono::milliseconds idle);
  void check_deadline(Clock::time_point now);
  void touch() { moved(); }  // something moved on the other side that keeps this one alive, too
  // Makes everything that waits, now or later, give timed_out.
  void expire();

  bool is_open() const { return socket_.is_open(); }
  // The kernel's answer of now. Consumes nothing.
  PeerState peer_state() const;
  // It is taken for gone: reset or, under TLS, FIN; in the clear a FIN may be a half-close.
  bool peer_left() const { return ssl_ ? peer_state() != PeerState::open : peer_state() == PeerState::reset; }
  // No byte of a message and no end has come. Takes in what TLS itself has sent, as session tickets.
  bool is_quiet();
  bool expired() const { return expired_; }
  SSL* ssl() const { return ssl_.get(); }
  int last_errno() const { return last_errno_; }
  std::optional<std::uint8_t> alert() const { return alert_; }  // received from the peer
  const std::string& tls_error() const { return tls_error_; }
  bool saw_end() const { return saw_end_; }
  std::optional<Endpoint> local() const { return socket_.local(); }
  std::optional<Endpoint> peer() const;

 private:
  friend struct SocketBio;
  enum class Want { nothing, readable, writable };
  struct Attempt {
    Want want = Want::nothing;
    Io status = Io::ok;
    std::size_t size = 0;
  };

  Attempt try_read(std::span<std::byte> buffer);
  Attempt try_write(std::span<const std::byte> data);
  Attempt tls_failure(int result, Io orderly_end);
  Task<Io> wait(Want want, bool is_there = false);
  bool is_greedy();
  void moved();
  // Socket calls; -1 and errno as the kernel gives them.
  long receive(void* data, std::size_t size);
  long send(const void* data, std::size_t size);
  long would_block();
  long pass_by_hand(int pipe);

  Socket socket_;
  Readiness readiness_;
  std::vector<std::byte> prefix_;  // read before and put back
  std::size_t prefix_taken_ = 0;
  Clock::time_point deadline_ = Clock::time_point::max();
  std::chrono::milliseconds idle_{0};
  int last_errno_ = 0;
  unsigned streak_ = 0;
  bool expired_ = false;
  bool saw_end_ = false;
  bool starved_ = false;   // TLS has no whole record: what it holds is the beginning of one
  bool tls_over_ = false;  // its end, or a failure, came behind what was read
  std::optional<std::uint8_t> alert_;
  std::string tls_error_;
  mutable std::optional<Endpoint> peer_;  // once asked for
  Ssl ssl_;                               // refers to this stream
};

}  // namespace weir::proxy
