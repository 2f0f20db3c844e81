// Entries of the redirecting programs' tables, and the two heartbeats in the control page.
#include "bpf/redirection.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <ctime>
#include <utility>

#include "bpf/kernel_list.h"
#include "bpf/wire.h"

namespace weir::bpf {
namespace {

std::size_t page_bytes() {
  return static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
}

std::expected<void*, Error> map_control(int descriptor) {
  void* const page = ::mmap(nullptr, page_bytes(), PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
  if (page == MAP_FAILED)
    return std::unexpected(Error{std::string("cannot map the control page: ") + std::strerror(errno), ""});
  return page;
}

void unmap(void* page) {
  if (page != nullptr) ::munmap(page, page_bytes());
}

wire_control& control_of(void* page) {
  return *static_cast<wire_control*>(page);
}

std::uint64_t boot_ns() {
  timespec now{};
  ::clock_gettime(CLOCK_BOOTTIME, &now);
  return static_cast<std::uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<std::uint64_t>(now.tv_nsec);
}

template <class Key, class Value>
std::expected<void, Error> put(int table, const Key& key, const Value& value, const char* what) {
  if (bpf_map_update_elem(table, &key, &value, BPF_ANY) == 0) return {};
  const bool full = errno == E2BIG || errno == ENOMEM;
  return std::unexpected(Error{std::string("cannot redirect ") + what + ": " +
                                   (full ? "the kernel's table is full" : std::strerror(errno)),
                               full ? "redirect by executable or by cgroup (transparent.processes)" : ""});
}

}  // namespace

std::expected<Redirection, Error> Redirection::open(Descriptors descriptors, std::uint32_t* marks_used) {
  auto control = map_control(descriptors.control);
  if (!control) return std::unexpected(control.error());
  Redirection made(descriptors, marks_used, *control);
  if (auto opened = made.open_unserved(); !opened) return std::unexpected(opened.error());
  return made;
}

Redirection::Redirection(Redirection&& other) noexcept
    : descriptors_(other.descriptors_),
      marks_used_(other.marks_used_),
      control_(std::exchange(other.control_, nullptr)),
      told_(std::move(other.told_)),
      unserved_(std::move(other.unserved_)) {}

Redirection::~Redirection() {
  unmap(control_);
}

std::expected<void, Error> Redirection::mark(std::uint32_t pid) {
  __atomic_store_n(marks_used_, 1, __ATOMIC_SEQ_CST);
  return put(descriptors_.marked_processes, pid, std::uint32_t{1}, "the process");
}

void Redirection::unmark(std::uint32_t pid) {
  bpf_map_delete_elem(descriptors_.marked_processes, &pid);
}

std::expected<void, Error> Redirection::start(std::uint64_t netns_cookie,
                                              const RedirectListeners& listeners) {
  beat();
  const wire_listeners ports{listeners.v4, listeners.v6, {listeners.ours[0], listeners.ours[1]}};
  return put(descriptors_.listeners, netns_cookie, ports, "in a network namespace");
}

void Redirection::stop(std::uint64_t netns_cookie) {
  bpf_map_delete_elem(descriptors_.listeners, &netns_cookie);
}

void Redirection::RingDeleter::operator()(ring_buffer* ring) const {
  ring_buffer__free(ring);
}

std::expected<void, Error> Redirection::open_unserved() {
  const auto take = [](void* told, void* data, std::size_t size) {
    wire_unserved question{};
    if (size < sizeof question) return 0;
    std::memcpy(&question, data, sizeof question);
    static_cast<std::vector<std::uint32_t>*>(told)->push_back(question.tgid);
    return 0;
  };
  unserved_.reset(ring_buffer__new(descriptors_.unserved, take, told_.get(), nullptr));
  if (unserved_) return {};
  return std::unexpected(
      Error{std::string("cannot be told of network namespaces: ") + std::strerror(errno), ""});
}

int Redirection::unserved_descriptor() const {
  return ring_buffer__epoll_fd(unserved_.get());
}

std::vector<std::uint32_t> Redirection::take_unserved() {
  (void)ring_buffer__consume(unserved_.get());
  return std::exchange(*told_, {});
}

void Redirection::beat() {
  __atomic_store_n(&control_of(control_).broker_heartbeat_boot_ns, boot_ns(), __ATOMIC_RELEASE);
}

std::expected<std::set<std::uint64_t>, Error> network_namespaces_of(int task_iterator) {
  std::set<std::uint64_t> found;
  const auto read = read_all<wire_task>(
      task_iterator, [&](const wire_task& task) { found.insert(task.process.netns_cookie); });
  ::close(task_iterator);
  if (!read) return std::unexpected(Error{read.error().what, read.error().remedy});
  return found;
}

std::expected<ProxyHeartbeat, Error> ProxyHeartbeat::open(int control_descriptor) {
  auto control = map_control(control_descriptor);
  if (!control) return std::unexpected(control.error());
  return ProxyHeartbeat(*control);
}

ProxyHeartbeat::ProxyHeartbeat(ProxyHeartbeat&& other) noexcept
    : control_(std::exchange(other.control_, nullptr)) {}

ProxyHeartbeat::~ProxyHeartbeat() {
  unmap(control_);
}

void ProxyHeartbeat::beat() {
  __atomic_store_n(&control_of(control_).proxy_heartbeat_boot_ns, boot_ns(), __ATOMIC_RELEASE);
}

}  // namespace weir::bpf
