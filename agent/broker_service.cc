// One function for each operation, each checking all of its fields first. Must never open by a name that the
// worker chose, and never follow a link.
#include "agent/broker_service.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <string>
#include <string_view>

#include "agent/file_changes.h"
#include "agent/known_libraries.h"
#include "attribution/container.h"

namespace weir::agent {
namespace {

constexpr std::size_t max_files = 4096;
constexpr std::size_t max_targets = 4096;

void say(Reply& reply, Status status, const std::string& text) {
  reply.status = status;
  const std::size_t size = std::min(text.size(), reply.text.size() - 1);
  std::memcpy(reply.text.data(), text.data(), size);
  reply.text[size] = '\0';
}

// Code only: a descriptor of another process's data or shared memory is nothing to hand out.
bool is_executable_mapping(const OpenMappingRequest& wanted) {
  std::ifstream maps("/proc/" + std::to_string(wanted.pid) + "/maps");
  for (std::string line; std::getline(maps, line);) {
    unsigned long start = 0;
    unsigned long end = 0;
    std::array<char, 5> permissions{};
    if (std::sscanf(line.c_str(), "%lx-%lx %4s", &start, &end, permissions.data()) != 3) return false;
    if (start == wanted.start) return end == wanted.end && permissions[2] == 'x';
  }
  return false;
}

bool is_elf(int file) {
  std::array<char, 4> magic{};
  return ::pread(file, magic.data(), magic.size(), 0) == 4 && std::memcmp(magic.data(), "\177ELF", 4) == 0;
}

}  // namespace

BrokerService::Result BrokerService::handle(const Request& request) {
  Result result;
  result.reply.id = request.id;
  switch (request.operation) {
    case Operation::sign_leaf:
      sign_leaf(request.sign_leaf, result.reply);
      return result;
    case Operation::open_known_library:
      open_known_library(request.number, result);
      return result;
    case Operation::open_mapping:
      open_mapping(request.open_mapping, result);
      return result;
    case Operation::attach:
      attach(request.attach, result.reply);
      return result;
    case Operation::detach:
      detach(request.number, result.reply);
      return result;
    case Operation::forget_file:
      if (files_.erase(request.number) == 0) say(result.reply, Status::refused, "no such file handle");
      return result;
    case Operation::find_socket_owner:
      find_socket_owner(request.number, result.reply);
      return result;
    case Operation::find_executable:
      find_executable(request.number, result.reply);
      return result;
    case Operation::task_iterator:
    case Operation::mapping_iterator:
    case Operation::socket_iterator:
      open_iterator(request, result);
      return result;
    case Operation::mapping_events:
      open_mapping_events(request.number, result);
      return result;
    case Operation::next_exec:
      next_exec(result);
      return result;
    case Operation::exec_done:
      if (gate_ == nullptr) say(result.reply, Status::refused, "execs don't wait");
      if (gate_ != nullptr) gate_->release(request.number);
      return result;
    case Operation::warm_up:
      if (kernel_ == nullptr) say(result.reply, Status::refused, "no native tap");
      if (kernel_ != nullptr) kernel_->warm_up();
      return result;
    case Operation::upstream_socket:
      upstream_socket(request.upstream_socket, result);
      return result;
    case Operation::next_listener:
      next_listener(result);
      return result;
    case Operation::container_state:
      container_state(request.container_state, result);
      return result;
    case Operation::hello:
    case Operation::ready:
    case Operation::start_failed:
    case Operation::authority:
    case Operation::policy:
      break;
  }
  say(result.reply, Status::refused, "unknown operation");
  return result;
}

void BrokerService::worker_gone() {
  for (const bpf::TargetHandle target : targets_) kernel_->detach(target);
  if (kernel_ != nullptr) kernel_->finish_detaching();
  targets_.clear();
  files_.clear();
  had_worker_ = true;
}

int BrokerService::open_changes() {
  changes_ = open_file_changes();
  return changes_.get();
}

// A link's text, which is never followed. One that doesn't fit is not told rather than cut.
void BrokerService::find_executable(std::uint32_t pid, Reply& reply) {
  const std::string link = "/proc/" + std::to_string(pid) + "/exe";
  const ssize_t size = ::readlink(link.c_str(), reply.text.data(), reply.text.size() - 1);
  if (size < 0) return say(reply, Status::not_there, "");
  reply.text[static_cast<std::size_t>(size) + 1 < reply.text.size() ? static_cast<std::size_t>(size) : 0] =
      '\0';
}

void BrokerService::sign_leaf(const SignLeafRequest& request, Reply& reply) {
  if (request.name_length == 0 || request.name_length > request.name.size()) {
    return say(reply, Status::refused, "bad name length");
  }
  ca::LeafRequest leaf{std::string(request.name.data(), request.name_length), request.public_key};
  auto certificate = signer_->sign(leaf);
  if (!certificate) return say(reply, Status::failed, certificate.error().what);
  if (certificate->size() > reply.data.size()) return say(reply, Status::failed, "certificate too large");
  std::copy(certificate->begin(), certificate->end(), reply.data.begin());
  reply.data_size = static_cast<std::uint32_t>(certificate->size());
}

void BrokerService::find_socket_owner(std::uint32_t inode, Reply& reply) {
  const auto owner = owners_.find(inode);
  if (!owner) return say(reply, Status::not_there, "no process holds this socket");
  say(reply, Status::ok, owner->executable);
  reply.handle = owner->pid;
}

void BrokerService::open_known_library(std::uint32_t number, Result& result) {
  if (kernel_ == nullptr) return say(result.reply, Status::refused, "no native tap");
  const auto path = known_library(number);
  if (!path) return say(result.reply, Status::no_more, "");
  // The link from libssl.so.3 to a versioned name is the package's own; the directories are root's.
  Descriptor file(::open(path->c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!file) return say(result.reply, Status::not_there, "");
  keep_file(std::move(file), result);
}

void BrokerService::open_mapping(const OpenMappingRequest& request, Result& result) {
  if (kernel_ == nullptr) return say(result.reply, Status::refused, "no native tap");
  if (request.pid == 0 || request.pid > INT32_MAX || request.start >= request.end) {
    return say(result.reply, Status::refused, "bad mapping");
  }
  if (!is_executable_mapping(request)) return say(result.reply, Status::not_there, "no such code");
  std::array<char, 96> path{};
  std::snprintf(path.data(), path.size(), "/proc/%u/map_files/%llx-%llx", request.pid,
                static_cast<unsigned long long>(request.start), static_cast<unsigned long long>(request.end));
  // map_files leads to the very file that is mapped, whatever its name means by now.
  Descriptor file(::open(path.data(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!file) return say(result.reply, Status::not_there, std::strerror(errno));
  keep_file(std::move(file), result);
}

void BrokerService::next_exec(Result& result) {
  if (kernel_ == nullptr || gate_ == nullptr) return say(result.reply, Status::refused, "execs don't wait");
  auto held = gate_->take();
  if (!held) return say(result.reply, Status::not_there, "");
  result.reply.number = held->number;
  keep_file(std::move(held->file), result);
  // A script, a file of another machine: nothing to be looked at.
  if (result.reply.status != Status::ok) gate_->release(held->number);
}

void BrokerService::next_listener(Result& result) {
  auto listener = redirector_ == nullptr ? std::nullopt : redirector_->next_listener();
  if (!listener) return say(result.reply, Status::no_more, "");
  result.reply.number = listener->network_namespace;
  result.reply.netns_cookie = listener->network_namespace_cookie;
  result.opened = std::move(listener->descriptor);
}

void BrokerService::upstream_socket(const UpstreamSocketRequest& request, Result& result) {
  if (redirector_ == nullptr) return say(result.reply, Status::refused, "nothing is redirected");
  auto socket = redirector_->upstream_socket(request.network_namespace, request.v6 != 0);
  if (!socket) return say(result.reply, Status::failed, socket.error().what);
  result.opened = std::move(*socket);
}

void BrokerService::container_state(const ContainerStateRequest& request, Result& result) {
  if (const std::string_view id(request.id.data(), request.id.size()); !begins_container_id(id))
    return say(result.reply, Status::refused, "bad container id");
  auto found = container_files_.open({request.id.data(), request.id.size()}, request.number);
  if (!found) return say(result.reply, Status::no_more, "");
  result.reply.number = found->number;
  result.opened = std::move(found->file);
}

void BrokerService::keep_file(Descriptor file, Result& result) {
  struct stat status{};
  if (::fstat(file.get(), &status) != 0 || !S_ISREG(status.st_mode)) {
    return say(result.reply, Status::refused, "not a regular file");
  }
  if (!is_elf(file.get())) return say(result.reply, Status::refused, "not an ELF file");
  if (files_.size() >= max_files) return say(result.reply, Status::refused, "too many open files");
  const auto identity = kernel_->identify(file.get());
  if (!identity) return say(result.reply, Status::failed, identity.error().what);
  if (is_weir_itself(*identity)) return say(result.reply, Status::refused, "weir itself");
  result.opened = Descriptor(::fcntl(file.get(), F_DUPFD_CLOEXEC, 0));
  if (!result.opened) return say(result.reply, Status::failed, std::strerror(errno));
  // Before anybody looks at the content.
  if (changes_) result.reply.watch = watch_content(changes_.get(), file.get());
  result.reply.handle = next_file_++;
  result.reply.device = identity->device;
  result.reply.inode = identity->inode;
  result.reply.inode_generation = identity->generation;
  files_.emplace(result.reply.handle, File{std::move(file), static_cast<std::uint64_t>(status.st_size)});
}

// A probe there would trap on each of the proxy's own TLS calls.
bool BrokerService::is_weir_itself(const bpf::FileIdentity& file) {
  if (!own_file_) {
    const Descriptor own(::open("/proc/self/exe", O_RDONLY | O_CLOEXEC));
    if (auto identity = kernel_->identify(own.get())) own_file_ = *identity;
  }
  return own_file_ == file;
}

void BrokerService::attach(const AttachRequest& request, Reply& reply) {
  if (kernel_ == nullptr) return say(reply, Status::refused, "no native tap");
  const auto file = files_.find(request.file);
  if (file == files_.end()) return say(reply, Status::refused, "no such file handle");
  if (request.site_count == 0 || request.site_count > request.sites.size()) {
    return say(reply, Status::refused, "bad number of probe sites");
  }
  if (targets_.size() >= max_targets) return say(reply, Status::refused, "too many probed files");
  std::vector<bpf::ProbeSite> sites;
  for (std::uint32_t i = 0; i < request.site_count; ++i) {
    const WireProbeSite& site = request.sites[i];
    if (site.offset >= file->second.size)
      return say(reply, Status::refused, "offset past the end of the file");
    sites.push_back({site.program, site.offset, site.cookie});
  }
  auto target = kernel_->attach(file->second.descriptor.get(), sites);
  if (!target) return say(reply, Status::failed, target.error().what);
  targets_.push_back(*target);
  reply.handle = *target;
}

void BrokerService::detach(std::uint32_t target, Reply& reply) {
  const auto found = std::find(targets_.begin(), targets_.end(), target);
  if (found == targets_.end()) return say(reply, Status::refused, "no such target");
  kernel_->detach(target);
  targets_.erase(found);
  if (gate_ != nullptr) gate_->forget_files();  // its file is to be looked at when it is started again
}

void BrokerService::open_iterator(const Request& request, Result& result) {
  if (kernel_ == nullptr) return say(result.reply, Status::refused, "no native tap");
  if (request.operation == Operation::mapping_iterator && request.number > INT32_MAX)
    return say(result.reply, Status::refused, "bad pid");
  auto opened = request.operation == Operation::task_iterator ? kernel_->open_task_iterator()
                : request.operation == Operation::socket_iterator
                    ? kernel_->open_socket_iterator(had_worker_)
                    : kernel_->open_mapping_iterator(request.number);
  if (!opened) return say(result.reply, Status::failed, opened.error().what);
  result.opened = Descriptor(*opened);
}

void BrokerService::open_mapping_events(std::uint32_t processor, Result& result) {
  if (kernel_ == nullptr) return say(result.reply, Status::refused, "no native tap");
  const long processors = ::sysconf(_SC_NPROCESSORS_CONF);
  if (processors < 0 || processor >= static_cast<std::uint32_t>(processors))
    return say(result.reply, Status::no_more, "");
  auto opened = kernel_->open_mapping_events(processor);
  if (!opened) return say(result.reply, Status::not_there, opened.error().what);  // one that is off
  result.opened = Descriptor(*opened);
}

}  // namespace weir::agent
