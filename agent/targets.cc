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
    consider(*answer, bpf::library_probes().front(), true);
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
  std::set<Inode> mapped;
  for (const bpf::Mapping& mapping : candidates) {
    const Inode inode{mapping.device, mapping.inode};
    mapped.insert(inode);
    if (mappings_.contains(inode)) continue;
    Request open;
    open.operation = Operation::open_mapping;
    open.open_mapping = {mapping.pid, mapping.start, mapping.end};
    auto answer = broker_.call(open);
    // The process may be gone by now; another that maps the file will be seen next time.
    if (!answer || answer->reply.status != Status::ok) continue;
    mappings_[inode] = {answer->reply.device, answer->reply.inode};
    consider(*answer, *bpf::probes_for_file_name(mapping.name), false);
  }
  if (read) release_unmapped(mapped);
}

void Targets::consider(const BrokerClient::Answer& answer, const bpf::LibraryProbes& probes, bool known) {
  const Inode inode{answer.reply.device, answer.reply.inode};
  const auto [file, is_new] = files_.try_emplace(inode);
  file->second.known = file->second.known || known;
  if (is_new && !answer.descriptors.empty()) file->second.target = attach(answer, probes);
  Request forget;
  forget.operation = Operation::forget_file;
  forget.number = answer.reply.handle;
  (void)broker_.call(forget);
}

// A container's library must not stay probed, and its file held, when the container is gone.
void Targets::release_unmapped(const std::set<Inode>& mapped) {
  std::set<Inode> left;
  std::set<Inode> used;
  for (auto entry = mappings_.begin(); entry != mappings_.end();) {
    const bool in_use = mapped.contains(entry->first);
    (in_use ? used : left).insert(entry->second);
    entry = in_use ? std::next(entry) : mappings_.erase(entry);
  }
  for (const Inode& file : left) {
    if (!used.contains(file)) release(file);
  }
}

void Targets::release(const Inode& inode) {
  const auto file = files_.find(inode);
  if (file == files_.end() || file->second.known) return;
  if (file->second.target) {
    Request request;
    request.operation = Operation::detach;
    request.number = *file->second.target;
    (void)broker_.call(request);
    const std::lock_guard lock(mutex_);
    --counts_.attached;
  }
  files_.erase(file);
}

std::optional<std::uint32_t> Targets::attach(const BrokerClient::Answer& answer,
                                             const bpf::LibraryProbes& probes) {
  auto sites = bpf::resolve_sites(answer.descriptors.front().get(), probes);
  if (!sites) {
    failed(std::string(probes.file_name_prefix) + ": " + sites.error());
    return std::nullopt;
  }
  if (sites->size() > max_sites) {
    failed("too many probe sites");
    return std::nullopt;
  }
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
  if (!attached || attached->reply.status != Status::ok) {
    failed(attached ? attached->reply.text.data() : attached.error().what);
    return std::nullopt;
  }
  const std::lock_guard lock(mutex_);
  ++counts_.attached;
  return attached->reply.handle;
}

void Targets::failed(const std::string& why) {
  log_warning("a TLS library can't be probed: " + why);
  const std::lock_guard lock(mutex_);
  ++counts_.failed;
  counts_.last_error = why;
}

}  // namespace weir::agent
