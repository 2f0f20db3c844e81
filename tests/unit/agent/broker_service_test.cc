#include "agent/broker_service.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <random>

namespace weir::agent {
namespace {

// Signs nothing, but tells what it was asked.
class EchoSigner : public ca::LeafSigner {
 public:
  std::expected<std::vector<std::uint8_t>, ca::Error> sign(const ca::LeafRequest& request) override {
    asked.push_back(request.name);
    return std::vector<std::uint8_t>{1, 2, 3};
  }
  std::vector<std::string> asked;
};

Request leaf_request(std::uint16_t length) {
  Request request;
  request.operation = Operation::sign_leaf;
  request.sign_leaf = {};
  request.sign_leaf.name_length = length;
  std::memcpy(request.sign_leaf.name.data(), "origin.test", 11);
  return request;
}

TEST(BrokerService, SignsWhatItIsAsked) {
  EchoSigner signer;
  BrokerService service(signer, nullptr);
  const auto result = service.handle(leaf_request(11));
  EXPECT_EQ(result.reply.status, Status::ok);
  EXPECT_EQ(result.reply.data_size, 3u);
  EXPECT_EQ(signer.asked, std::vector<std::string>{"origin.test"});
}

TEST(BrokerService, RefusesNameLengthsOutsideTheField) {
  EchoSigner signer;
  BrokerService service(signer, nullptr);
  EXPECT_EQ(service.handle(leaf_request(0)).reply.status, Status::refused);
  EXPECT_EQ(service.handle(leaf_request(255)).reply.status, Status::refused);
  EXPECT_EQ(service.handle(leaf_request(65535)).reply.status, Status::refused);
  EXPECT_TRUE(signer.asked.empty());
}

TEST(BrokerService, RefusesWhatNeedsTheNativeTapWhenThereIsNone) {
  EchoSigner signer;
  BrokerService service(signer, nullptr);
  for (const auto operation :
       {Operation::open_known_library, Operation::open_mapping, Operation::attach, Operation::detach,
        Operation::task_iterator, Operation::mapping_iterator, Operation::socket_iterator,
        Operation::mapping_events, Operation::next_exec, Operation::exec_done}) {
    Request request;
    request.operation = operation;
    EXPECT_EQ(service.handle(request).reply.status, Status::refused) << static_cast<int>(operation);
  }
}

TEST(BrokerService, FindsTheProcessThatHoldsASocket) {
  EchoSigner signer;
  BrokerService service(signer, nullptr);
  int pair[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    ::close(pair[0]);
    char byte = 0;
    ::_exit(::read(pair[1], &byte, 1) < 0 ? 1 : 0);
  }
  struct stat status{};
  ASSERT_EQ(::fstat(pair[1], &status), 0);
  ::close(pair[1]);
  Request request;
  request.operation = Operation::find_socket_owner;
  request.number = static_cast<std::uint32_t>(status.st_ino);
  EXPECT_EQ(service.handle(request).reply.handle, static_cast<std::uint32_t>(child));
  ::close(pair[0]);
  ASSERT_EQ(::waitpid(child, nullptr, 0), child);
  EXPECT_EQ(service.handle(request).reply.status, Status::not_there);
}

TEST(BrokerService, AnswersRandomMessagesWithoutOpeningAnything) {
  EchoSigner signer;
  BrokerService service(signer, nullptr);
  std::mt19937_64 random(20);
  for (int i = 0; i < 100'000; ++i) {
    Request request;
    auto* bytes = reinterpret_cast<unsigned char*>(&request);
    for (std::size_t at = 0; at + 8 <= sizeof request; at += 8) {
      const std::uint64_t word = random();
      std::memcpy(bytes + at, &word, 8);
    }
    // All operations, and some that are none.
    request.operation = static_cast<Operation>(random() % 18);
    // A walk over /proc for each would take minutes.
    if (request.operation == Operation::find_socket_owner && i % 1000 != 0) continue;
    const auto result = service.handle(request);
    EXPECT_FALSE(result.opened);
    EXPECT_EQ(result.reply.id, request.id);
    if (request.operation != Operation::sign_leaf && request.operation != Operation::find_socket_owner) {
      EXPECT_EQ(result.reply.status, Status::refused);
    }
  }
}

}  // namespace
}  // namespace weir::agent
