// What a Poller tells of sockets, on real ones: also where an edge alone would not be enough.
#include "proxy/poller.h"

#include <gtest/gtest.h>
#include <sys/socket.h>

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

  static Task<std::string> read(Stream& stream, std::size_t most = 64) {
    std::vector<std::byte> buffer(most);
    const ReadResult got = co_await stream.read(buffer);
    if (got.status == Io::end) co_return "the end";
    if (got.status != Io::ok) co_return "failed";
    co_return std::string(reinterpret_cast<const char*>(buffer.data()), got.size);
  }

  // From then on the Poller is all that it has to go by.
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
  run([](Poller& poller) -> Task<void> {
    const Pair pair(poller);
    co_await greet(pair);
    pair.say("abcdef");
    EXPECT_EQ(co_await read(*pair.ours, 4), "abcd");
    EXPECT_EQ(co_await pair.ours->wait_readable(), Io::ok);
    EXPECT_EQ(co_await read(*pair.ours, 4), "ef");
  }(poller_));
}

// All of it was taken by a read that it just filled: nothing is there, though nothing said so.
TEST_F(PollerTest, AFilledBufferMayHaveBeenAll) {
  run([](Poller& poller) -> Task<void> {
    const Pair pair(poller);
    co_await greet(pair);
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
    for (int i = 0; i < 10; ++i) co_await asio::post(asio::use_awaitable);
    EXPECT_FALSE(told);
    pair.say("e");
    EXPECT_EQ(co_await read(*pair.ours), "e");
  }(poller_));
}

TEST_F(PollerTest, TheEndThatCameWithTheLastBytes) {
  run([](Poller& poller) -> Task<void> {
    const Pair pair(poller);
    co_await greet(pair);
    EXPECT_EQ(pair.ours->peer_state(), PeerState::open);
    pair.say("last");
    ::shutdown(pair.peer.descriptor(), SHUT_WR);
    EXPECT_EQ(co_await read(*pair.ours), "last");
    EXPECT_EQ(co_await read(*pair.ours), "the end");
    EXPECT_EQ(pair.ours->peer_state(), PeerState::ended);
  }(poller_));
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
  run([](Poller& poller) -> Task<void> {
    const Pair pair(poller);
    co_await greet(pair);
    pair.say("before");
    pair.say("!", MSG_OOB);
    pair.say("after");
    std::string all;
    while (all.size() < 11) all += co_await read(*pair.ours);
    EXPECT_EQ(all, "beforeafter");
  }(poller_));
}

TEST_F(PollerTest, RoomToWriteComesWhenThePeerReads) {
  run([](Poller& poller) -> Task<void> {
    const Pair pair(poller);
    co_await greet(pair);
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
  }(poller_));
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
