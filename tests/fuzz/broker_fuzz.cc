// Any sequence of requests from a worker that an attacker owns: each is answered under its own number, no
// leaf is signed for what is no name, no probe goes outside of a file, and what is handed out is an ELF file
// that some process executes.
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>

#include "agent/broker_service.h"
#include "agent/known_libraries.h"
#include "ca/leaf_name.h"
#include "tests/fuzz/fuzz.h"

namespace {

using namespace weir;
using namespace weir::agent;
using fuzz::require;

// Takes what the broker lets through and holds it against what may come through.
class Kernel final : public bpf::KernelSide {
 public:
  std::vector<bpf::ProgramState> programs() const override { return {}; }
  int ring_descriptor() const override { return -1; }
  int tuples_descriptor() const override { return -1; }
  int control_descriptor() const override { return -1; }
  int untold_descriptor() const override { return -1; }
  int redirections_descriptor() const override { return -1; }
  bpf::Redirection* redirection() override { return nullptr; }
  void set_own_processes(std::span<const std::uint32_t>) override {}
  std::expected<void, bpf::Error> set_policy(const Policy&) override { return {}; }
  void set_proxy_listeners(std::span<const Endpoint>) override {}
  std::expected<int, bpf::Error> open_task_iterator() override { return ::open("/dev/null", O_RDONLY); }
  std::expected<int, bpf::Error> open_socket_iterator(bool) override { return ::open("/dev/null", O_RDONLY); }
  std::expected<int, bpf::Error> open_mapping_iterator(std::uint32_t) override {
    return ::open("/dev/null", O_RDONLY);
  }
  std::expected<int, bpf::Error> open_mapping_events(std::uint32_t) override {
    return ::open("/dev/null", O_RDONLY);
  }
  std::expected<bpf::FileIdentity, bpf::Error> identify(int file) override {
    struct stat status{};
    require(::fstat(file, &status) == 0);
    return bpf::FileIdentity{status.st_dev, status.st_ino, 0};
  }
  std::expected<bpf::TargetHandle, bpf::Error> attach(int file,
                                                      std::span<const bpf::ProbeSite> sites) override {
    struct stat status{};
    require(::fstat(file, &status) == 0);
    require(!sites.empty() && sites.size() <= max_sites);
    for (const auto& site : sites) require(site.offset < static_cast<std::uint64_t>(status.st_size));
    attached_.push_back(++last_);
    return last_;
  }
  void detach(bpf::TargetHandle target) override { require(std::erase(attached_, target) == 1); }
  void finish_detaching() override {}
  void warm_up() override {}
  std::size_t attached() const { return attached_.size(); }

 private:
  std::vector<bpf::TargetHandle> attached_;
  bpf::TargetHandle last_ = 0;
};

class Signer final : public ca::LeafSigner {
 public:
  explicit Signer(ca::LeafSigner& authority) : authority_(authority) {}
  std::expected<std::vector<std::uint8_t>, ca::Error> sign(const ca::LeafRequest& request) override {
    auto certificate = authority_.sign(request);
    require(!certificate || ca::parse_leaf_name(request.name));
    return certificate;
  }

 private:
  ca::LeafSigner& authority_;
};

ca::LeafSigner& authority() {
  static const auto made = [] {
    std::string directory = "/tmp/weir-broker-fuzz-XXXXXX";
    require(::mkdtemp(directory.data()) != nullptr);
    auto authority = ca::Authority::load_or_create({directory});
    std::filesystem::remove_all(directory);
    require(authority.has_value());
    return std::move(*authority);
  }();
  return *made;
}

// This program's own code, which a random request would never name.
OpenMappingRequest own_code() {
  static const auto found = [] {
    std::ifstream maps("/proc/self/maps");
    for (std::string line; std::getline(maps, line);) {
      unsigned long start = 0;
      unsigned long end = 0;
      char execute = 0;
      if (std::sscanf(line.c_str(), "%lx-%lx %*c%*c%c", &start, &end, &execute) == 3 && execute == 'x')
        return OpenMappingRequest{static_cast<std::uint32_t>(::getpid()), start, end};
    }
    return OpenMappingRequest{};
  }();
  return found;
}

// The generator of P-256: a point on the curve, which no mutation meets either.
constexpr ca::PublicPoint kPoint = {
    0x04, 0x6b, 0x17, 0xd1, 0xf2, 0xe1, 0x2c, 0x42, 0x47, 0xf8, 0xbc, 0xe6, 0xe5, 0x63, 0xa4, 0x40, 0xf2,
    0x77, 0x03, 0x7d, 0x81, 0x2d, 0xeb, 0x33, 0xa0, 0xf4, 0xa1, 0x39, 0x45, 0xd8, 0x98, 0xc2, 0x96, 0x4f,
    0xe3, 0x42, 0xe2, 0xfe, 0x1a, 0x7f, 0x9b, 0x8e, 0xe7, 0xeb, 0x4a, 0x7c, 0x0f, 0x9e, 0x16, 0x2b, 0xce,
    0x33, 0x57, 0x6b, 0x31, 0x5e, 0xce, 0xcb, 0xb6, 0x40, 0x68, 0x37, 0xbf, 0x51, 0xf5};

// An operation, a number, a length and so many bytes laid over the request's fields.
Request take_request(std::span<const std::uint8_t>& input) {
  Request request;
  request.operation = static_cast<Operation>(input[0] % 24);
  request.id = input[1];
  const std::size_t length = std::min<std::size_t>({input[2], input.size() - 3, sizeof(AttachRequest)});
  std::memset(static_cast<void*>(&request.attach), input[1], sizeof request.attach);
  std::memcpy(static_cast<void*>(&request.attach), input.data() + 3, length);
  const bool sound = input[1] % 2 == 0;
  if (sound && request.operation == Operation::open_mapping) request.open_mapping = own_code();
  if (sound && request.operation == Operation::sign_leaf) request.sign_leaf.public_key = kPoint;
  input = input.subspan(3 + length);
  return request;
}

void check_opened(const BrokerService::Result& result, Operation operation) {
  if (!result.opened) return;
  require(result.reply.status == Status::ok);
  if (operation == Operation::task_iterator || operation == Operation::mapping_iterator ||
      operation == Operation::socket_iterator || operation == Operation::mapping_events) {
    return;
  }
  require(operation == Operation::open_known_library || operation == Operation::open_mapping);
  char magic[4]{};
  require(::pread(result.opened.get(), magic, 4, 0) == 4 && std::memcmp(magic, "\177ELF", 4) == 0);
  require((::fcntl(result.opened.get(), F_GETFL) & O_ACCMODE) == O_RDONLY);
}

void check(const Request& request, const BrokerService::Result& result) {
  const Reply& reply = result.reply;
  require(reply.id == request.id && reply.magic == protocol_magic);
  require(reply.data_size <= reply.data.size());
  require(std::ranges::find(reply.text, '\0') != reply.text.end());
  check_opened(result, request.operation);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  std::span input(data, size);
  Kernel kernel;
  Signer signer(authority());
  BrokerService service(signer, &kernel);
  while (input.size() >= 3) {
    const Request request = take_request(input);
    // Looks through all of /proc, whatever the number is.
    if (request.operation == Operation::find_socket_owner) continue;
    check(request, service.handle(request));
  }
  service.worker_gone();
  require(kernel.attached() == 0);
  return 0;
}
