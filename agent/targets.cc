// Target discovery. Must never attach one file twice: each call would then be counted twice.
#include "agent/targets.h"

#include <poll.h>

#include <algorithm>
#include <chrono>
#include <iterator>
#include <string_view>

#include "agent/file_changes.h"
#include "agent/log.h"
#include "agent/tls_files.h"
#include "bpf/probes/file_version.h"

namespace weir::agent {
namespace {

constexpr std::chrono::seconds kept_unused{20};
// Of what is told of a process within this time, some was before its file was probed.
constexpr std::chrono::seconds fresh{2};
constexpr std::size_t most_aliases = 16'384;
// Of one that is being written, so often.
constexpr int most_looks = 3;

Time now() {
  return std::chrono::time_point_cast<std::chrono::nanoseconds>(std::chrono::system_clock::now());
}

bpf::FileIdentity identity_of(const Reply& reply) {
  return {reply.device, reply.inode, reply.inode_generation};
}

bool is_named_like_tls(std::string_view name) {
  return name.find("ssl") != name.npos || name.find("tls") != name.npos;
}

}  // namespace

void Targets::scan() {
  scan_known_libraries();
  std::set<bpf::FileIdentity> mapped;
  if (!look_at(0, mapped)) return;
  // A container's library must not stay probed, and its file held, when the container is gone; a program that
  // is run again and again need not be probed anew each time.
  for (auto entry = files_.begin(); entry != files_.end();) {
    File& file = entry->second;
    if (mapped.contains(entry->first)) file.used = now();
    const bool in_use = file.known || file.used + kept_unused > now();
    entry = in_use ? std::next(entry) : forget(entry);
  }
  if (aliases_.size() > most_aliases) aliases_.clear();
}

void Targets::look(const bpf::Mapped& mapped) {
  if (const auto file = files_.find(mapped.file); file != files_.end()) {
    publish(file->second, mapped.pid);
    return;
  }
  if (const auto alias = aliases_.find(mapped.file); alias != aliases_.end() && !alias->second) return;
  std::set<bpf::FileIdentity> files;
  if (!look_at(mapped.pid, files)) return;
  // It is gone, and with it the file that nobody had looked at.
  if (files.empty()) publisher_.publish(TlsLibraryNoted{.time = now(), .process = {.pid = mapped.pid}});
  if (files.empty() || files_.contains(mapped.file)) return;
  aliases_[mapped.file] = std::ranges::any_of(
      files, [&](const auto& id) { return files_.contains(id) && files_[id].unreadable; });
}

bool Targets::look_at_changes() {
  bool mapped = false;
  bool appeared = false;
  const bool all = read_file_changes(changes_.get(), [&](const FileChange& change) {
    const auto watched = watched_.find(change.watch);
    if (watched == watched_.end()) {
      appeared = appeared || !change.ended;
      return;
    }
    const auto file = files_.find(watched->second);
    if (file == files_.end() || (change.ended && !change.content)) {
      if (file != files_.end()) file->second.watch = 0;  // there is no file any more, or soon
      watched_.erase(watched);
      return;
    }
    // Its probes stand where other code is now.
    mapped = true;
    forget(file);
  });
  if (appeared) scan_known_libraries();
  return mapped || !all;
}

std::map<bpf::FileIdentity, Targets::File>::iterator Targets::forget(
    std::map<bpf::FileIdentity, File>::iterator entry) {
  release(entry->second);
  watched_.erase(entry->second.watch);
  forget_watch(changes_.get(), entry->second.watch);
  return files_.erase(entry);
}

void Targets::look_at_execs() {
  pollfd waits{exec_event_, POLLIN, 0};
  if (exec_event_ < 0 || ::poll(&waits, 1, 0) <= 0) return;
  while (true) {
    Request next;
    next.operation = Operation::next_exec;
    auto answer = broker_.call(next);
    if (!answer || answer->reply.status == Status::not_there || answer->reply.status == Status::refused)
      return;
    if (answer->reply.status != Status::ok) continue;
    consider(*answer, "", false);
    if (!answer->descriptors.empty() && bpf::brings_libraries(answer->descriptors.front().get())) warm_up();
    Request done;
    done.operation = Operation::exec_done;
    done.number = answer->reply.number;
    (void)broker_.call(done);
  }
}

void Targets::warm_up() {
  Request request;
  request.operation = Operation::warm_up;
  (void)broker_.call(request);
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
    if (answer->reply.status == Status::ok) consider(*answer, "", true);
  }
}

bool Targets::look_at(std::uint32_t pid, std::set<bpf::FileIdentity>& mapped) {
  Request request;
  request.operation = Operation::mapping_iterator;
  request.number = pid;
  auto iterator = broker_.call(request);
  if (!iterator || iterator->reply.status != Status::ok || iterator->descriptors.empty()) return false;
  std::vector<bpf::Mapping> mappings;
  auto read = bpf::read_mappings(iterator->descriptors.front().get(),
                                 [&](const bpf::Mapping& mapping) { mappings.push_back(mapping); });
  if (!read) failed(read.error().what);
  // A process waits for nobody here: the likeliest first.
  std::ranges::stable_partition(mappings,
                                [](const bpf::Mapping& mapping) { return is_named_like_tls(mapping.name); });
  std::set<bpf::FileIdentity> before;
  for (const auto& [id, file] : files_) before.insert(id);
  for (const bpf::Mapping& mapping : mappings) {
    mapped.insert(mapping.file);
    if (!files_.contains(mapping.file)) {
      look_at_execs();
      look_at(mapping);
    }
    const auto file = files_.find(mapping.file);
    if (file == files_.end()) continue;
    const bool is_new = !before.contains(mapping.file) || is_fresh(file->second);
    if (is_new || (pid != 0 && file->second.unreadable)) publish(file->second, mapping.pid);
  }
  return read.has_value();
}

void Targets::look_at(const bpf::Mapping& mapping) {
  Request open;
  open.operation = Operation::open_mapping;
  open.open_mapping = {mapping.pid, mapping.start, mapping.end};
  auto answer = broker_.call(open);
  // The process may be gone by now; another that maps the file will be seen then.
  if (answer && answer->reply.status == Status::ok) consider(*answer, mapping.name, false);
}

void Targets::consider(const BrokerClient::Answer& answer, const std::string& name, bool known) {
  const auto [entry, is_new] = files_.try_emplace(identity_of(answer.reply));
  File& file = entry->second;
  file.used = now();
  file.known = file.known || known;
  if (answer.reply.watch > 0) {
    file.watch = answer.reply.watch;
    watched_[file.watch] = entry->first;
  }
  if (is_new && !answer.descriptors.empty())
    search(answer.descriptors.front().get(), name, answer.reply.handle, file);
  Request forget;
  forget.operation = Operation::forget_file;
  forget.number = answer.reply.handle;
  (void)broker_.call(forget);
}

// Probes stand where instructions began in what was searched. In a file that was written to meanwhile they
// would break the code of who runs it.
void Targets::search(int descriptor, const std::string& name, std::uint32_t handle, File& into) {
  for (int look = 0; look < most_looks; ++look) {
    const bpf::FileVersion before = bpf::version_of(descriptor);
    const auto found = find_tls_libraries(cache_, descriptor, name);
    if (!found || found->empty()) {
      if (look == 0) return;
      break;
    }
    std::string error;
    for (const bpf::FoundLibrary& library : *found) attach(handle, library, into, error);
    if (bpf::version_of(descriptor) == before) {
      if (!error.empty()) failed(error);
      return count(into);
    }
    release(into);
    into.targets.clear();
    into.notes.clear();
    into.unreadable = false;
  }
  note({.time = now(), .unreadable = "its file was being written"}, into);
}

void Targets::attach(std::uint32_t file, const bpf::FoundLibrary& library, File& into, std::string& error) {
  TlsLibraryNoted found{.library = library.library, .unreadable = library.unreadable};
  if (found.unreadable.empty() && !filters_.wants(library.library))
    found.unreadable = "left out by the configuration";
  for (std::size_t first = 0; first < library.sites.size() && found.unreadable.empty(); first += max_sites) {
    Request request;
    request.operation = Operation::attach;
    request.attach = {};
    request.attach.file = file;
    const std::size_t count = std::min<std::size_t>(library.sites.size() - first, max_sites);
    request.attach.site_count = static_cast<std::uint32_t>(count);
    for (std::size_t i = 0; i < count; ++i) {
      const bpf::ProbeSite& site = library.sites[first + i];
      request.attach.sites[i] = {site.program, site.offset, site.cookie};
    }
    auto attached = broker_.call(request);
    if (attached && attached->reply.status == Status::ok) {
      into.targets.push_back(attached->reply.handle);
    } else {
      found.unreadable = "probing " + library.name + " failed";
      error = library.name + ": " + (attached ? attached->reply.text.data() : attached.error().what);
    }
  }
  found.time = now();
  note(std::move(found), into);
}

void Targets::note(TlsLibraryNoted found, File& into) {
  into.unreadable = into.unreadable || !found.unreadable.empty();
  into.notes.push_back(std::move(found));
}

void Targets::count(File& file) {
  if (file.targets.empty()) return;
  file.counted = true;
  const std::lock_guard lock(mutex_);
  ++counts_.attached;
}

bool Targets::is_fresh(const File& file) {
  return !file.notes.empty() && file.notes.front().time + fresh > now();
}

void Targets::publish(const File& file, std::uint32_t pid) {
  for (TlsLibraryNoted note : file.notes) {
    note.process.pid = pid;
    if (!note.unreadable.empty())
      note.time = now();
    else if (!is_fresh(file))
      note.time = Time{};
    publisher_.publish(std::move(note));
  }
}

void Targets::release(const File& file) {
  for (const std::uint32_t target : file.targets) {
    Request request;
    request.operation = Operation::detach;
    request.number = target;
    (void)broker_.call(request);
  }
  if (!file.counted) return;
  const std::lock_guard lock(mutex_);
  --counts_.attached;
}

void Targets::failed(const std::string& why) {
  log_warning("a TLS library can't be probed: " + why);
  const std::lock_guard lock(mutex_);
  ++counts_.failed;
  counts_.last_error = why;
}

}  // namespace weir::agent
