// What a Poller tells of sockets, on real ones: also where an edge alone would not be enough.
#include "proxy/poller.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <openssl/x509.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/experimental/awaitable_operators.hpp>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "proxy/stream.h"

namespace weir::proxy {
namespace {

using namespace asio::experimental::awaitable_operators;

// A connection over loopback: ours, which a Stream reads, and the peer's.
struct Pair {
  explicit Pair(Poller& poller) {
    const int listener = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    tcp::endpoint at(asio::ip::address_v4::loopback(), 0);
    auto length = static_cast<socklen_t>(at.capacity());
    EXPECT_EQ(::bind(listener, at.data(), static_cast<socklen_t>(at.size())), 0);
    EXPECT_EQ(::listen(listener, 1), 0);
    EXPECT_EQ(::getsockname(listener, at.data(), &length), 0);
    peer = Socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    ::connect(peer.descriptor(), at.data(), static_cast<socklen_t>(at.size()));
    ours = std::make_unique<Stream>(poller, Socket(::accept(listener, nullptr, nullptr)));
    ::close(listener);
  }
  void say(std::string_view text, int flags = 0) const {
    EXPECT_EQ(::send(peer.descriptor(), text.data(), text.size(), flags), static_cast<ssize_t>(text.size()));
  }
  Socket peer;
  std::unique_ptr<Stream> ours;
};

// A server's side of TLS, which is asked for its bytes instead of sending them.
class TlsPeer {
 public:
  explicit TlsPeer(const Pair& pair) : pair_(pair), context_(SSL_CTX_new(TLS_server_method())) {
    EVP_PKEY* key = EVP_EC_gen("P-256");
    X509* leaf = X509_new();
    X509_gmtime_adj(X509_getm_notBefore(leaf), -100);
    X509_gmtime_adj(X509_getm_notAfter(leaf), 10'000);
    X509_set_pubkey(leaf, key);
    X509_sign(leaf, key, EVP_sha256());
    SSL_CTX_use_certificate(context_.get(), leaf);
    SSL_CTX_use_PrivateKey(context_.get(), key);
    X509_free(leaf);
    EVP_PKEY_free(key);
    SSL_CTX_set_num_tickets(context_.get(), 0);
    // A ticket of several records.
    const auto fill = [](SSL* ssl, void*) {
      const std::array<char, 1'500> data{};
      return SSL_SESSION_set1_ticket_appdata(SSL_get_session(ssl), data.data(), data.size());
    };
    SSL_CTX_set_session_ticket_cb(context_.get(), fill, nullptr, nullptr);
    ssl_.reset(SSL_new(context_.get()));
    SSL_set_max_send_fragment(ssl(), 512);
    SSL_set_bio(ssl(), in_, out_);
    SSL_set_accept_state(ssl());
  }
  SSL* ssl() const { return ssl_.get(); }
  void write(std::string_view text) const { SSL_write(ssl(), text.data(), static_cast<int>(text.size())); }
  std::string take_output() const {
    char* data = nullptr;
    const long size = BIO_get_mem_data(out_, &data);
    std::string all(data, static_cast<std::size_t>(size));
    EXPECT_EQ(BIO_reset(out_), 1);
    return all;
  }
  Task<void> shake_hands() const {
    bool done = false;
    asio::co_spawn(
        co_await asio::this_coro::executor,
        [](Stream& stream, bool& over) -> Task<void> {
          const SslContext context(SSL_CTX_new(TLS_client_method()));
          SSL_CTX_set_read_ahead(context.get(), 1);
          EXPECT_EQ(co_await stream.handshake(Ssl(SSL_new(context.get())), false), Io::ok);
          over = true;
        }(*pair_.ours, done),
        asio::detached);
    while (!done || SSL_is_init_finished(ssl()) == 0) {
      std::array<char, 16'384> buffer{};
      const auto got = ::recv(pair_.peer.descriptor(), buffer.data(), buffer.size(), 0);
      if (got > 0) BIO_write(in_, buffer.data(), static_cast<int>(got));
      SSL_do_handshake(ssl());
      if (const auto output = take_output(); !output.empty()) pair_.say(output);
      co_await asio::post(asio::use_awaitable);
    }
  }

 private:
  const Pair& pair_;
  SslContext context_;
  BIO* in_ = BIO_new(BIO_s_mem());
  BIO* out_ = BIO_new(BIO_s_mem());
  Ssl ssl_;
};

Task<void> turns(int count) {
  for (int i = 0; i < count; ++i) co_await asio::post(asio::use_awaitable);
}

class PollerTest : public testing::Test {
 protected:
  PollerTest() { asio::co_spawn(context_, poller_.run(), asio::detached); }
  ~PollerTest() override { poller_.abandon(); }

  void run(Task<void> test) {
    bool over = false;
    asio::co_spawn(context_, std::move(test), [&](const std::exception_ptr& failure) {
      over = true;
      if (failure) std::rethrow_exception(failure);
    });
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    while (!over && std::chrono::steady_clock::now() < deadline)
      context_.run_one_for(std::chrono::milliseconds(100));
    EXPECT_TRUE(over) << "it waits for something that nobody tells of";
  }

  // With a connection whose stream the Poller watches: from then on that is all that it has to go by.
  void run_watched(Task<void> (*test)(const Pair&)) {
    run([](Poller& poller, Task<void> (*then)(const Pair&)) -> Task<void> {
      const Pair pair(poller);
      co_await greet(pair);
      co_await then(pair);
    }(poller_, test));
  }
  // And under TLS.
  void run_under_tls(Task<void> (*test)(const Pair&, const TlsPeer&)) {
    run([](Poller& poller, Task<void> (*then)(const Pair&, const TlsPeer&)) -> Task<void> {
      const Pair pair(poller);
      const TlsPeer peer(pair);
      co_await peer.shake_hands();
      co_await then(pair, peer);
    }(poller_, test));
  }

  static Task<std::string> read(Stream& stream, std::size_t most = 64) {
    std::vector<std::byte> buffer(most);
    const ReadResult got = co_await stream.read(buffer);
    if (got.status == Io::end) co_return "the end";
    if (got.status != Io::ok) co_return "failed";
    co_return std::string(reinterpret_cast<const char*>(buffer.data()), got.size);
  }

  static Task<void> greet(const Pair& pair) {
    pair.say("hello");
    EXPECT_EQ(co_await pair.ours->wait_readable(), Io::ok);
    EXPECT_EQ(co_await read(*pair.ours), "hello");
  }

  Poller poller_{context_};
  asio::io_context context_{1};
};

TEST_F(PollerTest, WhatComesBeforeAndAfterAWait) {
  run([](Poller& poller) -> Task<void> {
    const Pair pair(poller);
    pair.say("one");
    EXPECT_EQ(co_await read(*pair.ours), "one");
    pair.say("two");
    EXPECT_EQ(co_await read(*pair.ours), "two");
    std::array<std::byte, 8> buffer{};
    EXPECT_FALSE(pair.ours->read_now(buffer));
    pair.say("three");
    EXPECT_EQ(co_await pair.ours->wait_readable(), Io::ok);
    EXPECT_EQ(co_await read(*pair.ours), "three");
  }(poller_));
}

TEST_F(PollerTest, APartThatIsLeftIsThereAtOnce) {
  run_watched([](const Pair& pair) -> Task<void> {
    pair.say("abcdef");
    EXPECT_EQ(co_await read(*pair.ours, 4), "abcd");
    EXPECT_EQ(co_await pair.ours->wait_readable(), Io::ok);
    EXPECT_EQ(co_await read(*pair.ours, 4), "ef");
  });
}

// All of it was taken by a read that it just filled: nothing is there, though nothing said so.
TEST_F(PollerTest, AFilledBufferMayHaveBeenAll) {
  run_watched([](const Pair& pair) -> Task<void> {
    pair.say("abcd");
    EXPECT_EQ(co_await read(*pair.ours, 4), "abcd");
    bool told = false;
    asio::co_spawn(
        co_await asio::this_coro::executor,
        [](Stream& stream, bool& readable) -> Task<void> {
          co_await stream.wait_readable();
          readable = true;
        }(*pair.ours, told),
        asio::detached);
    co_await turns(10);
    EXPECT_FALSE(told);
    pair.say("e");
    EXPECT_EQ(co_await read(*pair.ours), "e");
  });
}

TEST_F(PollerTest, TheEndThatCameWithTheLastBytes) {
  run_watched([](const Pair& pair) -> Task<void> {
    EXPECT_EQ(pair.ours->peer_state(), PeerState::open);
    pair.say("last");
    ::shutdown(pair.peer.descriptor(), SHUT_WR);
    EXPECT_EQ(co_await read(*pair.ours), "last");
    EXPECT_EQ(co_await read(*pair.ours), "the end");
    EXPECT_EQ(pair.ours->peer_state(), PeerState::ended);
  });
}

TEST_F(PollerTest, AReset) {
  run([](Poller& poller) -> Task<void> {
    Pair pair(poller);
    co_await greet(pair);
    const linger at_once{.l_onoff = 1, .l_linger = 0};
    ::setsockopt(pair.peer.descriptor(), SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
    pair.peer.close();
    EXPECT_EQ(co_await read(*pair.ours), "failed");
    EXPECT_EQ(pair.ours->peer_state(), PeerState::reset);
  }(poller_));
}

// A read ends where urgent data is, whatever follows, and what follows was told of before.
TEST_F(PollerTest, ReadsThatUrgentDataCutsShort) {
  run_watched([](const Pair& pair) -> Task<void> {
    pair.say("before");
    pair.say("!", MSG_OOB);
    pair.say("after");
    std::string all;
    while (all.size() < 11) all += co_await read(*pair.ours);
    EXPECT_EQ(all, "beforeafter");
  });
}

TEST_F(PollerTest, RoomToWriteComesWhenThePeerReads) {
  run_watched([](const Pair& pair) -> Task<void> {
    const std::vector<std::byte> piece(1 << 20);
    while (pair.ours->write_now(piece)) {
    }
    bool written = false;
    asio::co_spawn(
        co_await asio::this_coro::executor,
        [](Stream& stream, const std::vector<std::byte>& data, bool& done) -> Task<void> {
          done = co_await stream.write(data) == Io::ok;
        }(*pair.ours, piece, written),
        asio::detached);
    std::vector<std::byte> sink(1 << 20);
    while (!written) {
      while (::recv(pair.peer.descriptor(), sink.data(), sink.size(), 0) > 0) {
      }
      co_await asio::post(asio::use_awaitable);
    }
  });
}

TEST_F(PollerTest, AWaitThatIsCalledOffLeavesNothingBehind) {
  run([](Poller& poller) -> Task<void> {
    const Pair one(poller);
    const Pair other(poller);
    co_await greet(one);
    co_await greet(other);
    for (int i = 0; i < 3; ++i) {
      other.say("x");
      // The operator calls off the wait that lost.
      co_await (one.ours->wait_readable() || other.ours->wait_readable());
      EXPECT_EQ(co_await read(*other.ours), "x");
    }
    one.say("still there");
    EXPECT_EQ(co_await read(*one.ours), "still there");
  }(poller_));
}

TEST_F(PollerTest, ClosingAndExpiringEndAWait) {
  run([](Poller& poller) -> Task<void> {
    const Pair closed(poller);
    const Pair expired(poller);
    auto executor = co_await asio::this_coro::executor;
    asio::post(executor, [&] {
      closed.ours->close();
      expired.ours->expire();
    });
    const auto [first, second] = co_await (closed.ours->wait_readable() && expired.ours->wait_readable());
    EXPECT_EQ(first, Io::failed);
    EXPECT_EQ(second, Io::timed_out);
  }(poller_));
}

// More than are told of at once, one of which ends the others while these have been told already.
TEST_F(PollerTest, ManyAtOnceAndTheirEnds) {
  constexpr int kMany = 400;
  run([](Poller& poller) -> Task<void> {
    std::vector<std::unique_ptr<Pair>> pairs;
    for (int i = 0; i < kMany; ++i) pairs.push_back(std::make_unique<Pair>(poller));
    int told = 0;
    int ended = 0;
    const auto follow = [](Stream& stream, int& readable, int& over, auto& all) -> Task<void> {
      const Io status = co_await stream.wait_readable();
      readable += status == Io::ok ? 1 : 0;
      if (readable == 1)
        for (const auto& pair : all) pair->ours->close();
      ++over;
    };
    const auto executor = co_await asio::this_coro::executor;
    for (const auto& pair : pairs)
      asio::co_spawn(executor, follow(*pair->ours, told, ended, pairs), asio::detached);
    for (const auto& pair : pairs) pair->say("x");
    while (ended < kMany) co_await asio::post(asio::use_awaitable);
    EXPECT_GE(told, 1);
  }(poller_));
}

// splice() doesn't get past it.
TEST_F(PollerTest, UrgentDataDoesNotStopASplice) {
  run_watched([](const Pair& pair) -> Task<void> {
    std::array<int, 2> ends{};
    EXPECT_EQ(::pipe2(ends.data(), O_NONBLOCK | O_CLOEXEC), 0);
    pair.say("!", MSG_OOB);
    pair.say("after");
    const ReadResult got = co_await pair.ours->splice_into(ends[1]);
    EXPECT_EQ(got.status, Io::ok);
    EXPECT_EQ(got.size, 5u);
    for (const int end : ends) ::close(end);
  });
}

// Who writes may have to wait for bytes, too: a message of TLS's own has come in part.
TEST_F(PollerTest, ReaderAndWriterBothWaitForTheRestOfATicket) {
  run_under_tls([](const Pair& pair, const TlsPeer& peer) -> Task<void> {
    SSL_new_session_ticket(peer.ssl());
    SSL_do_handshake(peer.ssl());
    peer.write("answer");
    const std::string all = peer.take_output();
    const std::size_t first =
        5 + static_cast<unsigned char>(all[3]) * 256u + static_cast<unsigned char>(all[4]);
    EXPECT_LT(first, all.size());
    std::string was_read;
    Io was_written = Io::failed;
    int over = 0;
    const auto executor = co_await asio::this_coro::executor;
    asio::co_spawn(
        executor,
        [](Stream& stream, std::string& text, int& count) -> Task<void> {
          text = co_await read(stream);
          ++count;
        }(*pair.ours, was_read, over),
        asio::detached);
    pair.say(std::string_view(all).substr(0, first));
    co_await turns(30);
    asio::co_spawn(
        executor,
        [](Stream& stream, Io& status, int& count) -> Task<void> {
          const std::array<std::byte, 4> data{};
          status = co_await stream.write(data);
          ++count;
        }(*pair.ours, was_written, over),
        asio::detached);
    co_await turns(30);
    EXPECT_EQ(over, 0);
    pair.say(std::string_view(all).substr(first));
    while (over < 2) co_await asio::post(asio::use_awaitable);
    EXPECT_EQ(was_read, "answer");
    EXPECT_EQ(was_written, Io::ok);
  });
}

TEST_F(PollerTest, TheEndOfTlsThatCameWithTheAnswerIsNotQuiet) {
  run_under_tls([](const Pair& pair, const TlsPeer& peer) -> Task<void> {
    peer.write("answer");
    SSL_shutdown(peer.ssl());
    pair.say(peer.take_output());  // and no FIN
    EXPECT_EQ(co_await pair.ours->wait_readable(), Io::ok);
    EXPECT_EQ(co_await read(*pair.ours), "answer");
    EXPECT_FALSE(pair.ours->is_quiet());
    EXPECT_EQ(co_await read(*pair.ours), "the end");
  });
}

TEST_F(PollerTest, ABrokenRecordThatCameWithTheAnswerIsNotQuiet) {
  run_under_tls([](const Pair& pair, const TlsPeer& peer) -> Task<void> {
    peer.write("answer");
    pair.say(peer.take_output() + std::string("\x17\x03\x03\x00\x20", 5) + std::string(32, 'x'));
    EXPECT_EQ(co_await pair.ours->wait_readable(), Io::ok);
    EXPECT_EQ(co_await read(*pair.ours), "answer");
    EXPECT_FALSE(pair.ours->is_quiet());
  });
}

// What came since the set was looked at.
TEST_F(PollerTest, WhetherAStreamIsQuietIsAskedOfTheKernel) {
  run_under_tls([](const Pair& pair, const TlsPeer& peer) -> Task<void> {
    peer.write("answer");
    pair.say(peer.take_output());
    EXPECT_EQ(co_await pair.ours->wait_readable(), Io::ok);
    EXPECT_EQ(co_await read(*pair.ours), "answer");
    EXPECT_TRUE(pair.ours->is_quiet());
    peer.write("unasked");
    pair.say(peer.take_output());
    while (!pair.ours->readable_now()) {
    }
    EXPECT_FALSE(pair.ours->is_quiet());
    EXPECT_EQ(co_await read(*pair.ours), "unasked");
  });
}

// The sanitizer tells if its coroutine is lost.
TEST_F(PollerTest, OneThatStillWaitsAtTheEnd) {
  auto pair = std::make_shared<Pair>(poller_);
  asio::co_spawn(
      context_,
      [](std::shared_ptr<Pair> held) -> Task<void> { co_await held->ours->wait_readable(); }(std::move(pair)),
      asio::detached);
  context_.poll();
}

}  // namespace
}  // namespace weir::proxy
