// Must never wait for the process that answers, but at its start.
#include "agent/exec_gate.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <string>

#include "agent/channel.h"
#include "agent/gate_process.h"
#include "agent/own_program.h"

namespace weir::agent {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::chrono::milliseconds longest_start{2000};
// One that ends again at once is not worth the trouble of starting it.
constexpr std::chrono::milliseconds between_starts{500};

Error errno_error(const std::string& what) {
  return {what + ": " + std::strerror(errno), ""};
}

void order(int channel, GateOrder what, std::uint32_t number = 0) {
  const GateRequest request{what, number};
  (void)send_packet(channel, std::as_bytes(std::span(&request, 1)), {}, MSG_DONTWAIT);
}

std::expected<void, Error> await_start(int channel) {
  pollfd wait{channel, POLLIN, 0};
  if (::poll(&wait, 1, static_cast<int>(longest_start.count())) <= 0)
    return std::unexpected(Error{"the process that answers does not start", ""});
  GateNotice notice;
  const auto packet = receive_packet(channel, std::as_writable_bytes(std::span(&notice, 1)));
  if (!packet || packet->size != sizeof notice)
    return std::unexpected(Error{"the process that answers could not be started", ""});
  if (notice.error != 0)
    return std::unexpected(Error{std::string(notice.what.data()) + ": " + std::strerror(notice.error), ""});
  return {};
}

}  // namespace

std::expected<std::unique_ptr<ExecGate>, Error> ExecGate::open(int executable, const WorkerUser& user) {
  std::unique_ptr<ExecGate> gate(new ExecGate);
  if (auto prepared = gate->prepare(executable, user); !prepared) return std::unexpected(prepared.error());
  if (auto started = gate->start(); !started) return std::unexpected(started.error());
  return gate;
}

ExecGate::~ExecGate() {
  end();
  if (page_ != nullptr) ::munmap(page_, sizeof(GatePage));
}

std::expected<void, Error> ExecGate::prepare(int executable, const WorkerUser& user) {
  executable_ = executable;
  event_ = Descriptor(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  page_file_ = Descriptor(::memfd_create("weir-exec-gate", MFD_CLOEXEC));
  // The worker can't open it for writing by another way.
  if (!event_ || !page_file_ || ::fchmod(page_file_.get(), 0444) != 0 ||
      ::ftruncate(page_file_.get(), sizeof(GatePage)) != 0)
    return std::unexpected(errno_error("memfd_create"));
  const std::string path = "/proc/self/fd/" + std::to_string(page_file_.get());
  read_only_page_ = Descriptor(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  void* const page =
      ::mmap(nullptr, sizeof(GatePage), PROT_READ | PROT_WRITE, MAP_SHARED, page_file_.get(), 0);
  if (!read_only_page_ || page == MAP_FAILED) return std::unexpected(errno_error("mmap"));
  page_ = static_cast<GatePage*>(page);
  page_->user = user.uid;
  page_->group = user.gid;
  return {};
}

std::expected<void, Error> ExecGate::start() {
  next_start_ = Clock::now() + between_starts;
  int pair[2];
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0)
    return std::unexpected(errno_error("socketpair"));
  channel_ = Descriptor(pair[0]);
  const Descriptor theirs(pair[1]);
  process_ = ::fork();
  if (process_ < 0) return std::unexpected(errno_error("fork"));
  if (process_ == 0) {
    const int inherited[] = {theirs.get(), event_.get(), page_file_.get()};
    execute_role(executable_, "exec-gate", inherited, {});
  }
  auto started = await_start(channel_.get());
  if (!started) {
    end();
    return started;
  }
  if (watched_) order(channel_.get(), GateOrder::watch);
  return {};
}

void ExecGate::end() {
  channel_.reset();
  if (page_ != nullptr) page_->pid = 0;
  if (process_ <= 0) return;
  ::kill(process_, SIGKILL);
  while (::waitpid(process_, nullptr, 0) < 0 && errno == EINTR) {
  }
  process_ = -1;
}

int ExecGate::time_to_start() const {
  if (channel_) return -1;
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(next_start_ - Clock::now());
  return static_cast<int>(std::max<std::int64_t>(left.count(), 0));
}

void ExecGate::revive() {
  pollfd ended = wait();
  if (channel_ && ::poll(&ended, 1, 0) >= 0 && (ended.revents & (POLLHUP | POLLERR)) != 0) end();
  if (channel_ || Clock::now() < next_start_) return;
  ++page_->restarts;
  (void)start();
}

void ExecGate::set_watched(bool watched) {
  watched_ = watched;
  order(channel_.get(), watched ? GateOrder::watch : GateOrder::unwatch);
}

std::optional<ExecGate::Held> ExecGate::take() {
  // Before the look, so that none that comes after it stays unnoticed.
  eventfd_t value = 0;
  ::eventfd_read(event_.get(), &value);
  order(channel_.get(), GateOrder::looking);
  pollfd any{channel_.get(), POLLIN, 0};
  if (!channel_ || ::poll(&any, 1, 0) <= 0 || (any.revents & POLLIN) == 0) return std::nullopt;
  GateNotice notice;
  auto packet = receive_packet(channel_.get(), std::as_writable_bytes(std::span(&notice, 1)));
  if (!packet || packet->size != sizeof notice || packet->descriptors.size() != 1) return std::nullopt;
  ::eventfd_write(event_.get(), 1);  // there may be more
  return Held{notice.number, std::move(packet->descriptors.front())};
}

void ExecGate::release(std::uint32_t number) {
  order(channel_.get(), GateOrder::release, number);
}

void ExecGate::forget_files() {
  order(channel_.get(), GateOrder::forget);
}

ExecGateStatus::ExecGateStatus(Descriptor page) {
  if (!page) return;
  void* const mapped = ::mmap(nullptr, sizeof(GatePage), PROT_READ, MAP_SHARED, page.get(), 0);
  if (mapped != MAP_FAILED) page_ = static_cast<const GatePage*>(mapped);
}

ExecGateStatus::~ExecGateStatus() {
  if (page_ != nullptr) ::munmap(const_cast<GatePage*>(page_), sizeof(GatePage));
}

ExecGateCounters ExecGateStatus::counters() const {
  if (page_ == nullptr) return {};
  return {page_->held, page_->late, page_->restarts, page_->pid};
}

}  // namespace weir::agent
