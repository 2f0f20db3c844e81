// Targets with a broker of the test's own: what happens to a file between being searched and being probed.
#include "agent/targets.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <functional>
#include <iterator>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "bpf/wire.h"

namespace weir::agent {
namespace {

constexpr const char* kLibrary = "/usr/lib/x86_64-linux-gnu/libssl.so.3";

constexpr std::uint64_t kInode = 12;

class Notes : public EventPublisher {
 public:
  void publish(Event event) override { reasons.push_back(std::get<TlsLibraryNoted>(event).unreadable); }
  std::vector<std::string> reasons;
};

// Has one known library, in a file of the test's own, and does what the test says when it is to be probed.
class OneLibraryBroker {
 public:
  explicit OneLibraryBroker(std::function<void(int attach, int file, Reply&)> on_attach)
      : file_(::memfd_create("libssl.so.3", MFD_CLOEXEC)), on_attach_(std::move(on_attach)) {
    std::ifstream library(kLibrary, std::ios::binary);
    const std::string content{std::istreambuf_iterator<char>(library), {}};
    EXPECT_EQ(::write(file_.get(), content.data(), content.size()), static_cast<ssize_t>(content.size()));
    int pair[2] = {-1, -1};
    EXPECT_EQ(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
    ours_ = Descriptor(pair[0]);
    client.emplace(Descriptor(pair[1]));
    thread_ = std::jthread([this] { serve(); });
  }
  ~OneLibraryBroker() { client.reset(); }  // which ends the thread

  std::optional<BrokerClient> client;
  std::vector<std::uint32_t> attached;  // handles that weren't detached
  int asked = 0;

 private:
  void serve() {
    Request request;
    while (true) {
      const auto packet = receive_packet(ours_.get(), std::as_writable_bytes(std::span(&request, 1)));
      if (!packet || packet->size == 0) return;
      Reply reply;
      reply.id = request.id;
      int file = file_.get();
      const bool opens = request.operation == Operation::open_known_library && request.number == 0;
      const bool lists = request.operation == Operation::mapping_iterator;
      if (lists) file = mappings_.get();
      answer(request, reply);
      const std::span<const int> descriptors(&file, opens || lists ? 1 : 0);
      if (!send_packet(ours_.get(), std::as_bytes(std::span(&reply, 1)), descriptors)) return;
    }
  }

  void answer(const Request& request, Reply& reply) {
    switch (request.operation) {
      case Operation::open_known_library:
        reply.status = request.number == 0 ? Status::ok : Status::no_more;
        reply.inode = kInode;
        break;
      case Operation::attach:
        reply.handle = static_cast<std::uint32_t>(++asked);
        on_attach_(asked, file_.get(), reply);
        if (reply.status == Status::ok) attached.push_back(reply.handle);
        break;
      case Operation::detach:
        std::erase(attached, request.number);
        break;
      default:
        break;
    }
  }

  // One, of the library by a process.
  static Descriptor mapping() {
    wire_mapping one{};
    one.tgid = 4711;
    one.inode = kInode;
    Descriptor file(::memfd_create("mappings", MFD_CLOEXEC));
    EXPECT_EQ(::pwrite(file.get(), &one, sizeof one, 0), static_cast<ssize_t>(sizeof one));
    return file;
  }

  Descriptor file_;
  Descriptor mappings_ = mapping();
  Descriptor ours_;
  std::function<void(int, int, Reply&)> on_attach_;
  std::jthread thread_;
};

struct Scanned {
  Targets::Counts counts;
  std::vector<std::string> reasons;  // why a process that maps the library can't be read
};

Scanned scan(OneLibraryBroker& broker) {
  Notes notes;
  Targets targets(*broker.client, notes, {}, Descriptor(), -1);
  targets.scan();
  return {targets.counts(), notes.reasons};
}

// A write, as another program's.
void write_to(int file) {
  EXPECT_EQ(::pwrite(file, "\x7f", 1, 0), 1);
}

using Reasons = std::vector<std::string>;

TEST(Targets, AFileThatStaysIsProbedOnce) {
  OneLibraryBroker broker([](int, int, Reply&) {});
  const Scanned scanned = scan(broker);
  EXPECT_EQ(scanned.counts.attached, 1u);
  EXPECT_EQ(scanned.reasons, Reasons{""});
  EXPECT_EQ(broker.asked, 1);
  EXPECT_EQ(broker.attached.size(), 1u);
}

TEST(Targets, ProbesOfWhatWasWrittenToMeanwhileAreTakenAwayAndPlacedAnew) {
  OneLibraryBroker broker([](int attach, int file, Reply&) {
    if (attach == 1) write_to(file);
  });
  const Scanned scanned = scan(broker);
  EXPECT_EQ(scanned.counts.attached, 1u);
  EXPECT_EQ(scanned.reasons, Reasons{""});
  EXPECT_EQ(broker.attached, std::vector<std::uint32_t>{2});
}

TEST(Targets, AFileThatIsWrittenAllTheTimeIsNotProbed) {
  OneLibraryBroker broker([](int, int file, Reply& reply) {
    write_to(file);
    reply.status = Status::failed;
  });
  const Scanned scanned = scan(broker);
  EXPECT_EQ(scanned.counts.attached, 0u);
  EXPECT_EQ(scanned.counts.failed, 0u) << "it is nobody's fault";
  EXPECT_EQ(scanned.reasons, Reasons{"its file was being written"});
  EXPECT_TRUE(broker.attached.empty());
}

TEST(Targets, WhoRunsWhatAnotherFileHasTakenThePlaceOfIsTold) {
  OneLibraryBroker broker([](int, int file, Reply&) { EXPECT_EQ(::ftruncate(file, 0), 0); });
  const Scanned scanned = scan(broker);
  EXPECT_EQ(scanned.reasons, Reasons{"its file was being written"});
  EXPECT_TRUE(broker.attached.empty());
}

TEST(Targets, AProbeThatTheKernelRefusesIsAFailure) {
  OneLibraryBroker broker([](int, int, Reply& reply) { reply.status = Status::failed; });
  const Scanned scanned = scan(broker);
  EXPECT_EQ(scanned.counts.failed, 1u);
  EXPECT_EQ(scanned.reasons, Reasons{"probing libssl.so.3 failed"});
}

}  // namespace
}  // namespace weir::agent
