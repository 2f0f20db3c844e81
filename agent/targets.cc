// Target discovery. Must never attach one file twice: each call would then be counted twice.
#include "agent/targets.h"

#include "agent/log.h"
#include "bpf/event_source.h"

namespace weir::agent {

void Targets::scan() {
  scan_known_libraries();
  scan_mappings();
}

Targets::Counts Targets::counts() const {
  const std::lock_guard lock(mutex_);
  return counts_;
}

void Targets::scan_known_libraries() {
  for (std::uint32_t number = 0;; ++number) {
    Request request;
    request.operation = Operation::open_known_library;
    request.number = number;
    auto answer = broker_.call(request);
    if (!answer || answer->reply.status == Status::no_more || answer->reply.status == Status::refused) return;
    if (answer->reply.status != Status::ok) continue;
    // The candidates are the files that the first library's name stands for.
    consider(std::move(*answer), bpf::library_probes().front());
  }
}

void Targets::scan_mappings() {
  Request request;
  request.operation = Operation::mapping_iterator;
  auto iterator = broker_.call(request);
  if (!iterator || iterator->reply.status != Status::ok || iterator->descriptors.empty()) return;
  std::vector<bpf::Mapping> candidates;
  auto read = bpf::read_mappings(iterator->descriptors.front().get(), [&](const bpf::Mapping& mapping) {
    if (bpf::probes_for_file_name(mapping.name) != nullptr) candidates.push_back(mapping);
  });
  if (!read) failed(read.error().what);
  for (const bpf::Mapping& mapping : candidates) {
    const Inode inode{mapping.device, mapping.inode};
    if (seen_mappings_.contains(inode)) continue;
    Request open;
    open.operation = Operation::open_mapping;
    open.open_mapping = {mapping.pid, mapping.start, mapping.end};
    auto answer = broker_.call(open);
    // The process may be gone by now; another that maps the file will be seen next time.
    if (!answer || answer->reply.status != Status::ok) continue;
    seen_mappings_.emplace(inode, true);
    consider(std::move(*answer), *bpf::probes_for_file_name(mapping.name));
  }
}

void Targets::consider(BrokerClient::Answer answer, const bpf::LibraryProbes& probes) {
  const Inode inode{answer.reply.device, answer.reply.inode};
  if (!answer.descriptors.empty() && seen_.emplace(inode, false).second) attach(answer, probes);
  Request forget;
  forget.operation = Operation::forget_file;
  forget.number = answer.reply.handle;
  (void)broker_.call(forget);
}

void Targets::attach(const BrokerClient::Answer& answer, const bpf::LibraryProbes& probes) {
  auto sites = bpf::resolve_sites(answer.descriptors.front().get(), probes);
  if (!sites) return failed(std::string(probes.file_name_prefix) + ": " + sites.error());
  if (sites->size() > max_sites) return failed("too many probe sites");
  Request request;
  request.operation = Operation::attach;
  request.attach = {};
  request.attach.file = answer.reply.handle;
  request.attach.site_count = static_cast<std::uint32_t>(sites->size());
  for (std::size_t i = 0; i < sites->size(); ++i) {
    const bpf::ProbeSite& site = (*sites)[i];
    request.attach.sites[i] = {site.program, site.offset, site.cookie};
  }
  auto attached = broker_.call(request);
  if (!attached) return failed(attached.error().what);
  if (attached->reply.status != Status::ok) return failed(attached->reply.text.data());
  seen_[{answer.reply.device, answer.reply.inode}] = true;
  const std::lock_guard lock(mutex_);
  ++counts_.attached;
}

void Targets::failed(const std::string& why) {
  log_warning("a TLS library can't be probed: " + why);
  const std::lock_guard lock(mutex_);
  ++counts_.failed;
  counts_.last_error = why;
}

}  // namespace weir::agent
