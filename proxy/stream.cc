// Socket and TLS I/O for one side. OpenSSL reads and writes the socket through a BIO of ours, which serves
// what was put back first and never raises SIGPIPE. A coroutine waits for the kernel only after the call
// itself would have blocked.
#include "proxy/stream.h"

#include <fcntl.h>
#include <openssl/err.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <boost/asio/post.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <cerrno>
#include <cstring>
#include <utility>

namespace weir::proxy {

// OpenSSL's view of a Stream's socket.
struct SocketBio {
  static int finish(BIO* bio, long result, std::size_t* moved) {
    BIO_clear_retry_flags(bio);
    if (result < 0 && (errno == EAGAIN || errno == EINTR)) BIO_set_retry_read(bio);
    *moved = result > 0 ? static_cast<std::size_t>(result) : 0;
    return result > 0 ? 1 : 0;
  }
  static int read(BIO* bio, char* data, std::size_t size, std::size_t* moved) {
    return finish(bio, static_cast<Stream*>(BIO_get_data(bio))->receive(data, size), moved);
  }
  static int write(BIO* bio, const char* data, std::size_t size, std::size_t* moved) {
    const int done = finish(bio, static_cast<Stream*>(BIO_get_data(bio))->send(data, size), moved);
    if (BIO_should_retry(bio)) {
      BIO_clear_retry_flags(bio);
      BIO_set_retry_write(bio);
    }
    return done;
  }
  static long control(BIO* bio, int command, long, void*) {
    if (command == BIO_CTRL_EOF) return static_cast<Stream*>(BIO_get_data(bio))->saw_end() ? 1 : 0;
    return command == BIO_CTRL_FLUSH ? 1 : 0;
  }
  static BIO* make(Stream* stream) {
    static BIO_METHOD* const method = [] {
      BIO_METHOD* made = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "weir socket");
      BIO_meth_set_read_ex(made, read);
      BIO_meth_set_write_ex(made, write);
      BIO_meth_set_ctrl(made, control);
      return made;
    }();
    BIO* bio = BIO_new(method);
    BIO_set_data(bio, stream);
    BIO_set_init(bio, 1);
    return bio;
  }
};

namespace {

// Reads and writes that never block would keep a thread's other connections waiting.
constexpr unsigned kGreedyStreak = 64;
constexpr std::size_t kSplice = 1024 * 1024;  // as much as the pipe takes
// OpenSSL's reasons for received alerts are this number and the alert (ssl.h, SSL_AD_REASON_OFFSET).
constexpr int kAlertReasons = SSL_AD_REASON_OFFSET;

// Else SSL_get_error() would tell an earlier error. To clear costs more than to look.
void forget_errors() {
  if (ERR_peek_error() != 0) ERR_clear_error();
}

}  // namespace

Task<Io> Stream::connect(Endpoint peer) {
  if (!socket_.is_open()) socket_ = Socket::make(peer.address.family);
  const auto endpoint = to_asio(peer);
  const bool done =
      socket_.is_open() && ::connect(socket_.descriptor(), endpoint.data(), endpoint.size()) == 0;
  last_errno_ = done ? 0 : errno;
  if (last_errno_ == EINPROGRESS) {
    last_errno_ = ECANCELED;
    socklen_t length = sizeof last_errno_;
    if (co_await readiness_.wait(socket_.descriptor(), Way::write))
      ::getsockopt(socket_.descriptor(), SOL_SOCKET, SO_ERROR, &last_errno_, &length);
  }
  if (expired_) co_return Io::timed_out;
  co_return last_errno_ == 0 ? Io::ok : Io::failed;
}

Task<Io> Stream::handshake(Ssl ssl, bool as_server) {
  ssl_ = std::move(ssl);
  BIO* bio = SocketBio::make(this);
  SSL_set_bio(ssl_.get(), bio, bio);
  as_server ? SSL_set_accept_state(ssl_.get()) : SSL_set_connect_state(ssl_.get());
  for (;;) {
    forget_errors();
    const int result = SSL_do_handshake(ssl_.get());
    if (result == 1) co_return Io::ok;
    const auto attempt = tls_failure(result, Io::end);
    if (attempt.want == Want::nothing) co_return attempt.status;
    const Io waited = co_await wait(attempt.want);
    if (waited != Io::ok) co_return waited;
  }
}

Task<ReadResult> Stream::read(std::span<std::byte> buffer) {
  // Nothing was there a moment ago.
  if (starved_ && prefix_taken_ == prefix_.size()) {
    const Io waited = co_await wait(Want::readable);
    if (waited != Io::ok) co_return ReadResult{waited, 0};
  }
  for (;;) {
    const auto attempt = try_read(buffer);
    if (attempt.want == Want::nothing) {
      if (attempt.status == Io::ok) {
        moved();
        if (is_greedy()) co_await asio::post(asio::use_awaitable);
      }
      co_return ReadResult{attempt.status, attempt.size};
    }
    const Io waited = co_await wait(attempt.want);
    if (waited != Io::ok) co_return ReadResult{waited, 0};
  }
}

Task<Io> Stream::write(std::span<const std::byte> data) {
  while (!data.empty()) {
    const auto attempt = try_write(data);
    if (attempt.want != Want::nothing) {
      const Io waited = co_await wait(attempt.want);
      if (waited != Io::ok) co_return waited;
      continue;
    }
    if (attempt.status != Io::ok) co_return attempt.status;
    data = data.subspan(attempt.size);
    moved();
    if (is_greedy()) co_await asio::post(asio::use_awaitable);
  }
  co_return Io::ok;
}

Task<Io> Stream::wait_readable() {
  // Half a record is pending, too, and nothing to read.
  const bool pending = ssl_ && !starved_ && SSL_has_pending(ssl_.get()) == 1;
  return wait(Want::readable, prefix_taken_ < prefix_.size() || pending);
}

std::optional<ReadResult> Stream::read_now(std::span<std::byte> buffer) {
  const auto attempt = try_read(buffer);
  if (attempt.want != Want::nothing) return std::nullopt;
  if (attempt.status == Io::ok) moved();
  return ReadResult{attempt.status, attempt.size};
}

std::optional<ReadResult> Stream::write_now(std::span<const std::byte> data) {
  const auto attempt = try_write(data);
  if (attempt.want != Want::nothing) return std::nullopt;
  if (attempt.status == Io::ok) moved();
  return ReadResult{attempt.status, attempt.size};
}

Stream::Attempt Stream::try_read(std::span<std::byte> buffer) {
  if (!ssl_) {
    const long count = receive(buffer.data(), buffer.size());
    if (count > 0) return {Want::nothing, Io::ok, static_cast<std::size_t>(count)};
    if (count == 0) return {Want::nothing, Io::end, 0};
    if (errno == EAGAIN || errno == EINTR) return {Want::readable, Io::ok, 0};
    last_errno_ = errno;
    return {Want::nothing, Io::failed, 0};
  }
  std::size_t total = 0;
  for (;;) {
    forget_errors();
    std::size_t got = 0;
    const int result = SSL_read_ex(ssl_.get(), buffer.data() + total, buffer.size() - total, &got);
    total += got;
    starved_ = result != 1 && SSL_get_error(ssl_.get(), result) == SSL_ERROR_WANT_READ;
    tls_over_ = result != 1 && !starved_;
    // What is already here goes along; an error after it shows at the next read.
    if (result != 1) return total > 0 ? Attempt{Want::nothing, Io::ok, total} : tls_failure(result, Io::end);
    if (total == buffer.size() || SSL_has_pending(ssl_.get()) == 0) return {Want::nothing, Io::ok, total};
  }
}

Stream::Attempt Stream::try_write(std::span<const std::byte> data) {
  if (ssl_) {
    forget_errors();
    // It may read first, and more than it needs.
    if (SSL_in_init(ssl_.get()) != 0) starved_ = false;
    std::size_t sent = 0;
    const int result = SSL_write_ex(ssl_.get(), data.data(), data.size(), &sent);
    return result == 1 ? Attempt{Want::nothing, Io::ok, sent} : tls_failure(result, Io::failed);
  }
  const long count = send(data.data(), data.size());
  if (count >= 0) return {Want::nothing, Io::ok, static_cast<std::size_t>(count)};
  if (errno == EAGAIN || errno == EINTR) return {Want::writable, Io::ok, 0};
  last_errno_ = errno;
  return {Want::nothing, Io::failed, 0};
}

Stream::Attempt Stream::tls_failure(int result, Io orderly_end) {
  switch (SSL_get_error(ssl_.get(), result)) {
    case SSL_ERROR_WANT_READ:
      return {Want::readable, Io::ok, 0};
    case SSL_ERROR_WANT_WRITE:
      return {Want::writable, Io::ok, 0};
    case SSL_ERROR_ZERO_RETURN:
      return {Want::nothing, orderly_end, 0};
    default:
      break;
  }
  const auto error = ERR_peek_error();
  const int reason = ERR_GET_REASON(error);
  if (error != 0 && reason == SSL_R_UNEXPECTED_EOF_WHILE_READING) {
    tls_error_ = "connection closed";
    return {Want::nothing, Io::truncated, 0};
  }
  if (error != 0 && reason > kAlertReasons) alert_ = static_cast<std::uint8_t>(reason - kAlertReasons);
  const char* text = error != 0 ? ERR_reason_error_string(error) : nullptr;
  tls_error_ = text != nullptr ? text : std::strerror(last_errno_);
  return {Want::nothing, Io::failed, 0};
}

Task<ReadResult> Stream::splice_into(int pipe) {
  for (;;) {
    const long count =
        ::splice(socket_.descriptor(), nullptr, pipe, nullptr, kSplice, SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
    if (count > 0) {
      moved();
      if (is_greedy()) co_await asio::post(asio::use_awaitable);
      co_return ReadResult{Io::ok, static_cast<std::size_t>(count)};
    }
    if (count == 0) {
      saw_end_ = true;
      co_return ReadResult{Io::end, 0};
    }
    last_errno_ = errno;
    if (errno != EAGAIN && errno != EINTR) co_return ReadResult{Io::failed, 0};
    if (const long by_hand = pass_by_hand(pipe); by_hand > 0)
      co_return ReadResult{Io::ok, static_cast<std::size_t>(by_hand)};
    const Io waited = co_await wait(Want::readable);
    if (waited != Io::ok) co_return ReadResult{waited, 0};
  }
}

// Urgent data is where splice() stops for good, and a read doesn't.
long Stream::pass_by_hand(int pipe) {
  if (!readiness_.urgent()) return 0;
  std::array<std::byte, 4096> piece;
  const long count = ::recv(socket_.descriptor(), piece.data(), piece.size(), MSG_DONTWAIT);
  return count > 0 ? ::write(pipe, piece.data(), static_cast<std::size_t>(count)) : 0;
}

Task<Io> Stream::splice_out_of(int pipe, std::size_t size) {
  while (size > 0) {
    const long count =
        ::splice(pipe, nullptr, socket_.descriptor(), nullptr, size, SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
    if (count > 0) {
      size -= static_cast<std::size_t>(count);
      moved();
      continue;
    }
    last_errno_ = errno;
    if (count == 0 || (errno != EAGAIN && errno != EINTR)) co_return Io::failed;
    const Io waited = co_await wait(Want::writable);
    if (waited != Io::ok) co_return waited;
  }
  co_return Io::ok;
}

// Where the kernel has nothing to be waited for, others have their turn all the same.
Task<Io> Stream::wait(Want want, bool is_there) {
  if (is_there) co_return Io::ok;
  streak_ = 0;
  if (expired_) co_return Io::timed_out;
  const Way way = want == Want::readable ? Way::read : Way::write;
  const int descriptor = socket_.descriptor();
  bool ready = readiness_.is_ready(descriptor, way);
  if (ready)
    co_await asio::post(asio::use_awaitable);
  else
    ready = co_await readiness_.wait(descriptor, way);
  if (expired_) co_return Io::timed_out;
  co_return ready ? Io::ok : Io::failed;
}

bool Stream::is_greedy() {
  return ++streak_ % kGreedyStreak == 0;
}

long Stream::receive(void* data, std::size_t size) {
  if (prefix_taken_ < prefix_.size()) {
    const std::size_t count = std::min(size, prefix_.size() - prefix_taken_);
    std::memcpy(data, prefix_.data() + prefix_taken_, count);
    prefix_taken_ += count;
    if (prefix_taken_ == prefix_.size()) {
      std::vector<std::byte>().swap(prefix_);
      prefix_taken_ = 0;
    }
    return static_cast<long>(count);
  }
  if (!readiness_.may(Way::read)) return would_block();
  const long count = ::recv(socket_.descriptor(), data, size, 0);
  if (count == 0) saw_end_ = true;
  if (count > 0 && static_cast<std::size_t>(count) < size) readiness_.read_short();
  if (count >= 0) return count;
  last_errno_ = errno;
  if (errno == EAGAIN) readiness_.exhausted(Way::read);
  return count;
}

long Stream::send(const void* data, std::size_t size) {
  if (!readiness_.may(Way::write)) return would_block();
  const long count = ::send(socket_.descriptor(), data, size, MSG_NOSIGNAL);
  if (count >= 0) return count;
  last_errno_ = errno;
  if (errno == EAGAIN) readiness_.exhausted(Way::write);
  return count;
}

long Stream::would_block() {
  last_errno_ = errno = EAGAIN;
  return -1;
}

void Stream::unread(std::span<const std::byte> data) {
  prefix_.erase(prefix_.begin(), prefix_.begin() + static_cast<std::ptrdiff_t>(prefix_taken_));
  prefix_taken_ = 0;
  prefix_.insert(prefix_.begin(), data.begin(), data.end());
}

// A session ticket that comes makes OpenSSL take a buffer for an answer that there never is, 16 KiB, which a
// write gives back (SSL_MODE_RELEASE_BUFFERS), also one of nothing.
void Stream::release_write_buffer() {
  if (!ssl_ || SSL_is_init_finished(ssl_.get()) == 0) return;
  forget_errors();
  std::size_t written = 0;
  SSL_write_ex(ssl_.get(), "", 0, &written);
}

void Stream::shutdown_write() {
  if (ssl_ && SSL_is_init_finished(ssl_.get()) == 1) {
    forget_errors();
    SSL_shutdown(ssl_.get());
  }
  ::shutdown(socket_.descriptor(), SHUT_WR);
}

Task<void> Stream::linger() {
  constexpr std::chrono::seconds kLongest{10};
  constexpr std::chrono::seconds kSilence{1};
  static thread_local std::array<std::byte, std::size_t{16} * 1024> unwanted;
  shutdown_write();
  const auto until = Clock::now() + kLongest;
  while (Clock::now() < until) {
    set_deadline(kSilence);
    const ReadResult got = co_await read(unwanted);
    if (got.status != Io::ok) co_return;
  }
}

void Stream::close() {
  readiness_.forget();
  socket_.close();
}

void Stream::abort() {
  const struct linger at_once{.l_onoff = 1, .l_linger = 0};
  ::setsockopt(socket_.descriptor(), SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
  close();
}

void Stream::set_deadline(std::chrono::milliseconds from_now) {
  idle_ = std::chrono::milliseconds(0);
  deadline_ = Clock::now() + from_now;
}

void Stream::set_idle_timeout(std::chrono::milliseconds idle) {
  idle_ = idle;
  deadline_ = idle.count() > 0 ? Clock::now() + idle : Clock::time_point::max();
}

// The clock is read by the tick, not for each piece: a deadline may come one tick late.
void Stream::moved() {
  if (idle_.count() > 0) deadline_ = Clock::time_point::max();
}

void Stream::check_deadline(Clock::time_point now) {
  if (deadline_ == Clock::time_point::max() && idle_.count() > 0) deadline_ = now + idle_;
  if (now >= deadline_) expire();
}

void Stream::expire() {
  expired_ = true;
  readiness_.call_off();
}

bool Stream::readable_now() {
  return prefix_taken_ < prefix_.size() || readiness_.ask(socket_.descriptor(), Way::read);
}

std::optional<std::byte> Stream::first_byte() {
  if (prefix_taken_ < prefix_.size()) return prefix_[prefix_taken_];
  std::byte first{};
  const long count = ::recv(socket_.descriptor(), &first, 1, MSG_PEEK | MSG_DONTWAIT);
  return count == 1 ? std::optional(first) : std::nullopt;
}

std::size_t Stream::peek_now(std::span<std::byte> buffer) {
  const std::size_t put_back = std::min(buffer.size(), prefix_.size() - prefix_taken_);
  std::copy_n(prefix_.begin() + static_cast<std::ptrdiff_t>(prefix_taken_), put_back, buffer.begin());
  if (put_back > 0) return put_back;
  const long count = ::recv(socket_.descriptor(), buffer.data(), buffer.size(), MSG_PEEK | MSG_DONTWAIT);
  return count > 0 ? static_cast<std::size_t>(count) : 0;
}

PeerState Stream::peer_state() const {
  pollfd entry{socket_.descriptor(), POLLRDHUP, 0};
  ::poll(&entry, 1, 0);
  if ((entry.revents & ~POLLRDHUP) != 0) return PeerState::reset;
  return entry.revents != 0 ? PeerState::ended : PeerState::open;
}

bool Stream::is_quiet() {
  if (!ssl_) return !readable_now();
  if (!tls_over_ && SSL_has_pending(ssl_.get()) == 0 && !readable_now()) return starved_ = true;
  forget_errors();
  std::byte next{};
  std::size_t size = 0;
  const int result = SSL_peek_ex(ssl_.get(), &next, 1, &size);
  starved_ = result != 1 && SSL_get_error(ssl_.get(), result) == SSL_ERROR_WANT_READ;
  return starved_;
}

std::optional<Endpoint> Stream::peer() const {
  if (!peer_ && socket_.is_open()) peer_ = socket_.peer();
  return socket_.is_open() ? peer_ : std::nullopt;
}

}  // namespace weir::proxy
