// Loading and attaching by libbpf's skeleton. Everything is held by descriptors of this process, so the
// kernel takes it down with the process, but for what an agent that fails closed pins. Never reads the files
// it attaches to.
#include "bpf/kernel_side.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <fcntl.h>
#include <linux/mount.h>
#include <linux/perf_event.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <ctime>
#include <fstream>
#include <iterator>
#include <map>
#include <optional>
#include <string_view>
#include <utility>

#include "bpf/descriptor.h"
#include "bpf/detacher.h"
#include "bpf/features.h"
#include "bpf/filter_table.h"
#include "bpf/libbpf_log.h"
#include "bpf/mappings.h"
#include "bpf/pins.h"
#include "bpf/policy_switch.h"
#include "bpf/policy_table.h"
#include "bpf/program_table.h"
#include "bpf/redirection.h"
#include "bpf/self_test.h"
#include "bpf/wire.h"
#include "weir_bpf.skel.h"

namespace weir::bpf {
namespace {

constexpr std::uint32_t kVerdicts = 16'384;  // processes that the filters have judged
constexpr std::uint32_t kPolicyClients = 16'384;
constexpr std::uint32_t kThreads = 256;  // whose own storage could not be made at once

// With fail_closed a child that can't be marked would slip through.
constexpr std::uint32_t kFewestMarks = 65'536;
constexpr std::uint32_t kMostMarks = 1'048'576;

// As many as there can be processes.
std::uint32_t room_for_marks() {
  std::uint32_t room = kMostMarks;
  for (const char* name : {"/proc/sys/kernel/pid_max", "/proc/sys/kernel/threads-max"}) {
    std::uint32_t limit = kMostMarks;
    if (std::ifstream(name) >> limit) room = std::min(room, limit);
  }
  return std::max(room, kFewestMarks);
}

// About half a grace period.
constexpr std::chrono::milliseconds kWarm{5};

Error system_error(const std::string& what, int error) {
  const bool denied = error == EPERM || error == EACCES;
  return {what + ": " + std::strerror(error), denied
                                                  ? "run as root, with CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN"
                                                  : "see what `weir doctor` says of this kernel"};
}

struct LinkDeleter {
  void operator()(bpf_link* link) const { bpf_link__destroy(link); }
};
using Link = std::unique_ptr<bpf_link, LinkDeleter>;

struct SkeletonDeleter {
  void operator()(weir_bpf* skeleton) const { weir_bpf::destroy(skeleton); }
};
using Skeleton = std::unique_ptr<weir_bpf, SkeletonDeleter>;

// The root of the cgroup v2 hierarchy as a mount of our own that stands nowhere: it does not matter whether
// and where the host (or a chroot) has it mounted.
std::expected<Descriptor, Error> open_cgroup_root() {
  Descriptor context(static_cast<int>(::syscall(SYS_fsopen, "cgroup2", FSOPEN_CLOEXEC)));
  if (context.get() < 0) return std::unexpected(system_error("cannot open the cgroup v2 hierarchy", errno));
  if (::syscall(SYS_fsconfig, context.get(), FSCONFIG_CMD_CREATE, nullptr, nullptr, 0) != 0)
    return std::unexpected(system_error("cannot open the cgroup v2 hierarchy", errno));
  Descriptor mount(static_cast<int>(::syscall(SYS_fsmount, context.get(), FSMOUNT_CLOEXEC, 0)));
  if (mount.get() < 0) return std::unexpected(system_error("cannot mount the cgroup v2 hierarchy", errno));
  // The mount's descriptor is O_PATH-like; attaching wants an opened directory.
  Descriptor root(::openat(mount.get(), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (root.get() < 0) return std::unexpected(system_error("cannot open the cgroup v2 root", errno));
  return root;
}

// What is kept free of payload: an eighth of the ring, but room for a thousand processes' lives, and never
// more than half.
std::uint64_t payload_limit(std::size_t ring_bytes) {
  const std::size_t wanted = std::clamp<std::size_t>(ring_bytes / 8, 512u << 10, 8u << 20);
  return ring_bytes - std::min(wanted, ring_bytes / 2);
}

class LibbpfKernelSide final : public KernelSide {
 public:
  static std::expected<std::unique_ptr<KernelSide>, Error> load(const LoadOptions& options);

  std::vector<ProgramState> programs() const override { return states_; }
  int ring_descriptor() const override { return bpf_map__fd(skeleton_->maps.ring); }
  int tuples_descriptor() const override { return bpf_map__fd(skeleton_->maps.tuples); }
  int control_descriptor() const override { return bpf_map__fd(skeleton_->maps.control); }
  int untold_descriptor() const override { return bpf_map__fd(skeleton_->maps.untold); }
  int redirections_descriptor() const override { return bpf_map__fd(skeleton_->maps.redirections); }
  Redirection* redirection() override { return redirection_ ? &*redirection_ : nullptr; }
  void set_own_processes(std::span<const std::uint32_t> tgids) override;
  std::expected<void, Error> set_policy(const Policy& policy) override;
  void set_proxy_listeners(std::span<const Endpoint> listeners) override;
  std::expected<int, Error> open_task_iterator() override { return open_iterator("each_task"); }
  std::expected<int, Error> open_mapping_iterator(std::uint32_t pid) override;
  std::expected<int, Error> open_socket_iterator(bool again) override;
  std::expected<int, Error> open_mapping_events(std::uint32_t processor) override;
  std::expected<FileIdentity, Error> identify(int file_descriptor) override;
  std::expected<TargetHandle, Error> attach(int file_descriptor, std::span<const ProbeSite> sites) override;
  void detach(TargetHandle target) override;
  void finish_detaching() override { detacher_.wait_for_all(); }
  void warm_up() override;

 private:
  void choose_ways(const LoadOptions& options);
  std::expected<void, Error> load_programs(const LoadOptions& options);
  void prepare_policy(bool wanted);
  void prepare_filters(const Filters& filters, const FilterTable& table);
  std::expected<void, Error> fill_filters(const FilterTable& table);
  std::expected<void, Error> attach_programs();
  std::expected<void, Error> open_redirection();
  std::expected<void, Error> take_pins(const LoadOptions& options);
  void reuse_marks();
  std::expected<void, Error> pin_redirection(const LoadOptions& options);
  std::expected<void, std::string> test_probes();
  std::expected<void, Error> attach_program(const ProgramEntry& entry, bpf_program* program, int cgroup);
  std::expected<int, Error> open_iterator(const char* name);
  std::expected<std::vector<Link>, Error> attach_links(int file_descriptor, std::span<const ProbeSite> sites);
  void detach_links(const FileIdentity& file, std::vector<Link>& links);
  std::expected<std::vector<Link>, Error> attach_multi(bpf_program* program, const std::string& path,
                                                       std::span<const ProbeSite> sites);
  std::expected<std::vector<Link>, Error> attach_singly(bpf_program* program, const std::string& path,
                                                        std::span<const ProbeSite> sites);
  bpf_program* find(const char* name) const { return bpf_object__find_program_by_name(skeleton_->obj, name); }

  Skeleton skeleton_;
  std::vector<ProgramState> states_;
  std::vector<std::string_view> left_out_;  // the other way's programs, and what nobody asked for
  PolicySwitch policy_;
  bool newer_ = true;  // Linux 6.3 or later
  bool uprobe_multi_ = true;
  std::map<std::string, std::string> refused_;  // optional programs that the kernel did not take
  std::map<std::string, Link> links_;
  std::optional<Redirection> redirection_;
  std::optional<Pins> pins_;
  struct Target {
    FileIdentity file;
    std::vector<Link> links;
  };
  std::map<TargetHandle, Target> targets_;
  Detacher detacher_;
  Descriptor idle_file_{::memfd_create("weir-idle", MFD_CLOEXEC)};  // that nobody runs
  std::chrono::steady_clock::time_point warm_until_;
  TargetHandle next_target_ = 1;
};

std::expected<std::unique_ptr<KernelSide>, Error> LibbpfKernelSide::load(const LoadOptions& options) {
  auto side = std::make_unique<LibbpfKernelSide>();
  (void)::ftruncate(side->idle_file_.get(), ::sysconf(_SC_PAGESIZE));
  side->choose_ways(options);
  if (auto taken = side->take_pins(options); !taken) return std::unexpected(taken.error());
  if (auto loaded = side->load_programs(options); !loaded) return std::unexpected(loaded.error());
  if (auto attached = side->attach_programs(); !attached) return std::unexpected(attached.error());
  if (auto opened = side->open_redirection(); !opened) return std::unexpected(opened.error());
  if (auto tested = side->test_probes(); !tested) {
    if (!side->uprobe_multi_)
      return std::unexpected(Error{"this kernel's probes are not safe to use: " + tested.error(),
                                   "update the kernel; the proxy works without them"});
    LoadOptions older = options;
    older.uprobe_multi = false;
    side.reset();
    return load(older);
  }
  if (auto pinned = side->pin_redirection(options); !pinned) return std::unexpected(pinned.error());
  return side;
}

// An agent that doesn't fail closed takes over, too, what one that did has left.
std::expected<void, Error> LibbpfKernelSide::take_pins(const LoadOptions& options) {
  if (options.pin_owner.empty()) return {};
  if (!options.redirect_fails_closed && !Pins::are_there(options.pin_owner)) return {};
  auto taken = Pins::take(options.pin_owner);
  if (!taken) return std::unexpected(taken.error());
  pins_.emplace(std::move(*taken));
  return {};
}

// Processes that were marked before stay so.
void LibbpfKernelSide::reuse_marks() {
  if (!pins_) return;
  const auto table = pins_->earlier_table("marked_processes", sizeof(std::uint32_t), sizeof(std::uint32_t));
  if (table.get() < 0 || bpf_map__reuse_fd(skeleton_->maps.marked_processes, table.get()) != 0) return;
  skeleton_->bss->marks_used = 1;
}

// The earlier agent's programs refuse until these here do, so nothing slips through.
std::expected<void, Error> LibbpfKernelSide::pin_redirection(const LoadOptions& options) {
  if (!pins_) return {};
  if (options.redirect_fails_closed) {
    if (!redirection_)
      return std::unexpected(
          Error{"this kernel can't redirect", "see what `weir doctor` says of this kernel"});
    for (const char* name : kPinnedPrograms) {
      if (auto done = pins_->pin(name, bpf_link__fd(links_.at(name).get())); !done) return done;
    }
    for (const bpf_map* map : {skeleton_->maps.marked_processes, skeleton_->maps.released}) {
      if (auto done = pins_->pin(bpf_map__name(map), bpf_map__fd(map)); !done) return done;
    }
    pins_->keep();
  }
  pins_->remove_earlier();
  if (!options.redirect_fails_closed) pins_.reset();
  return {};
}

void LibbpfKernelSide::choose_ways(const LoadOptions& options) {
  newer_ = options.socket_events && has_socket_events();
  left_out_.assign(std::begin(kBySocketEvents), std::end(kBySocketEvents));
  if (newer_) left_out_.assign(std::begin(kBySystemCalls), std::end(kBySystemCalls));
  if (!options.state_tracepoint) left_out_.push_back("connection_closed");
  if (!options.policy)
    left_out_.insert(left_out_.end(), std::begin(kPolicyPrograms), std::end(kPolicyPrograms));
  uprobe_multi_ = options.uprobe_multi && has_uprobe_multi();
}

// The kernel takes all programs or none; an optional one that it refuses is left out of the next try.
std::expected<void, Error> LibbpfKernelSide::load_programs(const LoadOptions& options) {
  for (std::size_t tries = 0; tries <= std::size(kPrograms); ++tries) {
    collect_libbpf_log();
    skeleton_.reset(weir_bpf::open());
    if (!skeleton_) return std::unexpected(system_error("cannot open the BPF programs", errno));
    bpf_map__set_max_entries(skeleton_->maps.ring, static_cast<std::uint32_t>(options.ring_bytes));
    bpf_map__set_max_entries(skeleton_->maps.connections, static_cast<std::uint32_t>(options.connections));
    bpf_map__set_max_entries(skeleton_->maps.tuples, static_cast<std::uint32_t>(options.connections));
    bpf_map__set_max_entries(skeleton_->maps.untold, static_cast<std::uint32_t>(options.connections));
    bpf_map__set_max_entries(skeleton_->maps.tls_objects, static_cast<std::uint32_t>(options.tls_objects));
    skeleton_->rodata->payload_limit = payload_limit(options.ring_bytes);
    const FilterTable filters = make_filter_table(options.filters);
    prepare_filters(options.filters, filters);
    prepare_policy(options.policy);
    skeleton_->rodata->ingress_wanted = options.ingress;
    skeleton_->rodata->quic_refused = options.refuse_quic;
    skeleton_->rodata->policy_steers = options.policy_steers;
    skeleton_->rodata->redirect_fails_closed = options.redirect_fails_closed;
    skeleton_->rodata->most_old_sockets = options.connections / 2;
    skeleton_->rodata->thread_storage = newer_;
    if (options.redirect_fails_closed) {
      // Taken now: no entry can then fail for want of memory.
      bpf_map__set_map_flags(skeleton_->maps.marked_processes, 0);
      bpf_map__set_max_entries(skeleton_->maps.marked_processes, room_for_marks());
    }
    if (newer_) bpf_map__set_max_entries(skeleton_->maps.tls_threads, kThreads);
    for (const std::string_view name : left_out_) bpf_program__set_autoload(find(name.data()), false);
    if (!uprobe_multi_) {
      for (const char* name : kUprobePrograms) bpf_program__set_expected_attach_type(find(name), {});
    }
    for (const auto& [name, error] : refused_) bpf_program__set_autoload(find(name.c_str()), false);

    reuse_marks();
    const int result = weir_bpf::load(skeleton_.get());
    if (result == 0) return fill_filters(filters);
    const std::string log = libbpf_log();
    const std::string name = failed_program(log);
    const auto* entry =
        std::ranges::find(kPrograms, name, [](const auto& each) { return std::string(each.name); });
    if (entry == std::end(kPrograms))
      return std::unexpected(system_error("the kernel refused the BPF programs", -result));
    if (entry->required)
      return std::unexpected(
          system_error(std::string("the kernel refused the program ") + entry->shown, -result));
    refused_[name] = std::strerror(-result);
  }
  return std::unexpected(
      Error{"the kernel refused the BPF programs", "see what `weir doctor` says of this kernel"});
}

// Without rules the programs' questions are constants, and the tables are as small as can be.
void LibbpfKernelSide::prepare_filters(const Filters& filters, const FilterTable& table) {
  skeleton_->rodata->filter_groups = table.groups;
  skeleton_->rodata->only_groups = table.only_groups;
  skeleton_->rodata->redirect_groups = table.redirect_groups;
  skeleton_->rodata->cleartext_wanted = filters.wants(TlsLibrary::none);
  const auto rules = std::max<std::size_t>(table.rules.size(), 1);
  bpf_map__set_max_entries(skeleton_->maps.filter_rules, static_cast<std::uint32_t>(rules));
  const bool judges =
      ((table.groups | table.redirect_groups) & (WIRE_FILTER_PROCESSES | WIRE_FILTER_CGROUPS)) != 0;
  bpf_map__set_max_entries(skeleton_->maps.verdicts, judges ? kVerdicts : 1);
}

void LibbpfKernelSide::prepare_policy(bool wanted) {
  const auto size = [wanted](std::size_t entries) {
    return static_cast<std::uint32_t>(wanted ? entries : 1);
  };
  bpf_map__set_max_entries(skeleton_->maps.policy_rules, size(2 * kPolicyEntries));
  bpf_map__set_max_entries(skeleton_->maps.policy_lists, size(2 * kPolicyPatterns));
  bpf_map__set_max_entries(skeleton_->maps.policy_clients, size(kPolicyClients));
}

std::expected<void, Error> LibbpfKernelSide::set_policy(const Policy& policy) {
  if (bpf_map__max_entries(skeleton_->maps.policy_rules) < 2 * kPolicyEntries)
    return std::unexpected(Error{"the programs for policy are not loaded", ""});
  return policy_.set(policy,
                     {bpf_map__fd(skeleton_->maps.policy_rules), bpf_map__fd(skeleton_->maps.policy_lists),
                      skeleton_->bss->policy_states, &skeleton_->bss->policy_state_now});
}

void LibbpfKernelSide::set_proxy_listeners(std::span<const Endpoint> listeners) {
  PolicySwitch::exempt(listeners, skeleton_->bss->policy_listeners);
}

std::expected<void, Error> LibbpfKernelSide::fill_filters(const FilterTable& table) {
  for (const auto& [rule, effect] : table.rules) {
    const wire_filter_key key{rule.first, 0, rule.second};
    if (bpf_map_update_elem(bpf_map__fd(skeleton_->maps.filter_rules), &key, &effect, BPF_ANY) != 0)
      return std::unexpected(system_error("cannot set the filters", errno));
  }
  return {};
}

std::expected<void, Error> LibbpfKernelSide::attach_programs() {
  auto cgroup = open_cgroup_root();
  if (!cgroup) return std::unexpected(cgroup.error());
  for (const auto& entry : kPrograms) {
    if (std::ranges::find(left_out_, entry.name) != left_out_.end()) continue;
    ProgramState state{entry.shown, true, "", entry.instead, entry.required};
    if (auto refused = refused_.find(entry.name); refused != refused_.end()) {
      state.error = refused->second;
    } else if (auto attached = attach_program(entry, find(entry.name), cgroup->get()); !attached) {
      if (entry.required) return attached;
      state.error = attached.error().what;
    }
    state.working = state.error.empty();
    states_.push_back(std::move(state));
  }
  return {};
}

std::expected<void, Error> LibbpfKernelSide::attach_program(const ProgramEntry& entry, bpf_program* program,
                                                            int cgroup) {
  if (entry.how == How::uprobe) return {};
  const bool to_cgroup = entry.how == How::cgroup || entry.how == How::redirecting;
  Link link(to_cgroup ? bpf_program__attach_cgroup(program, cgroup) : bpf_program__attach(program));
  if (!link) return std::unexpected(system_error(std::string("cannot attach ") + entry.shown, errno));
  links_[entry.name] = std::move(link);
  return {};
}

std::expected<void, Error> LibbpfKernelSide::open_redirection() {
  const auto wanted = [](const ProgramEntry& entry) { return is_redirecting(entry.how); };
  const bool whole = std::ranges::all_of(
      kPrograms, [&](const ProgramEntry& entry) { return !wanted(entry) || links_.contains(entry.name); });
  if (!whole) {
    for (const auto& entry : kPrograms)
      if (wanted(entry)) links_.erase(entry.name);
    return {};
  }
  auto opened = Redirection::open(
      {bpf_map__fd(skeleton_->maps.marked_processes), bpf_map__fd(skeleton_->maps.redirect_listeners),
       bpf_map__fd(skeleton_->maps.unserved), control_descriptor()},
      &skeleton_->bss->marks_used);
  if (!opened) return std::unexpected(opened.error());
  redirection_.emplace(std::move(*opened));
  return {};
}

std::expected<void, std::string> LibbpfKernelSide::test_probes() {
  const auto sites = self_test_sites(WIRE_SELF_TEST);
  if (!sites) return std::unexpected(sites.error());
  const Descriptor self(::open("/proc/self/exe", O_RDONLY | O_CLOEXEC));
  const auto target = attach(self.get(), *sites);
  if (!target) return std::unexpected(target.error().what);
  auto result = run_probed_child();
  detach(*target);
  const std::uint32_t zero = 0;
  wire_control control{};
  bpf_map_lookup_elem(control_descriptor(), &zero, &control);
  // More may be another agent's child: it starts beside this one, from the same file.
  if (result && control.self_test_hits < sites->size() * self_test_calls)
    return std::unexpected("probes were passed " + std::to_string(sites->size() * self_test_calls) +
                           " times and told of " + std::to_string(control.self_test_hits));
  return result;
}

void LibbpfKernelSide::set_own_processes(std::span<const std::uint32_t> tgids) {
  auto& own = skeleton_->bss->own_processes;
  for (std::size_t i = 0; i < std::size(own); ++i) own[i] = i < tgids.size() ? tgids[i] : 0;
}

std::expected<int, Error> LibbpfKernelSide::open_iterator(const char* name) {
  const auto link = links_.find(name);
  if (link == links_.end())
    return std::unexpected(
        Error{std::string("this kernel has no iterator ") + shown_name(name), "read /proc instead"});
  const int descriptor = bpf_iter_create(bpf_link__fd(link->second.get()));
  if (descriptor < 0)
    return std::unexpected(system_error(std::string("cannot open the iterator ") + name, errno));
  return descriptor;
}

std::expected<int, Error> LibbpfKernelSide::open_mapping_iterator(std::uint32_t pid) {
  if (pid == 0) return open_iterator("each_mapping");
  bpf_iter_link_info which{};
  which.task.pid = pid;
  LIBBPF_OPTS(bpf_iter_attach_opts, options);
  options.link_info = &which;
  options.link_info_len = sizeof which;
  const Link link(bpf_program__attach_iter(find("each_mapping"), &options));
  const int descriptor = link ? bpf_iter_create(bpf_link__fd(link.get())) : -1;
  if (descriptor < 0) return std::unexpected(system_error("cannot look at a process's mappings", errno));
  return descriptor;
}

std::expected<int, Error> LibbpfKernelSide::open_socket_iterator(bool again) {
  timespec now{};
  ::clock_gettime(CLOCK_BOOTTIME, &now);
  const auto boot_ns =
      static_cast<std::uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<std::uint64_t>(now.tv_nsec);
  skeleton_->bss->tell_again_before = again ? boot_ns : 0;
  return open_iterator("each_socket");
}

std::expected<int, Error> LibbpfKernelSide::open_mapping_events(std::uint32_t processor) {
  perf_event_attr attributes{};
  attributes.size = sizeof attributes;
  attributes.type = PERF_TYPE_SOFTWARE;
  attributes.config = PERF_COUNT_SW_DUMMY;
  attributes.mmap = 1;  // of code only; data would be mmap_data
  attributes.mmap2 = 1;
  attributes.watermark = 1;
  attributes.wakeup_watermark = 1;
  const long descriptor =
      ::syscall(SYS_perf_event_open, &attributes, -1, static_cast<int>(processor), -1, PERF_FLAG_FD_CLOEXEC);
  if (descriptor < 0) return std::unexpected(system_error("cannot watch for mapped files", errno));
  return static_cast<int>(descriptor);
}

// A mapping of our own has the file's true inode.
std::expected<FileIdentity, Error> LibbpfKernelSide::identify(int file_descriptor) {
  const auto page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  void* const start = ::mmap(nullptr, page, PROT_READ | PROT_EXEC, MAP_PRIVATE, file_descriptor, 0);
  if (start == MAP_FAILED) return std::unexpected(system_error("cannot map the file", errno));
  const auto iterator = open_mapping_iterator(static_cast<std::uint32_t>(::getpid()));
  std::optional<FileIdentity> found;
  if (iterator) {
    const auto at = reinterpret_cast<std::uint64_t>(start);
    (void)read_mappings(*iterator, [&](const Mapping& mapping) {
      if (mapping.start <= at && at < mapping.end) found = mapping.file;
    });
    ::close(*iterator);
  }
  ::munmap(start, page);
  if (!iterator) return std::unexpected(iterator.error());
  if (!found) return std::unexpected(Error{"the file's mapping was not found", ""});
  return *found;
}

std::expected<std::vector<Link>, Error> LibbpfKernelSide::attach_multi(bpf_program* program,
                                                                       const std::string& path,
                                                                       std::span<const ProbeSite> sites) {
  std::vector<unsigned long> offsets;
  std::vector<__u64> cookies;
  for (const ProbeSite& site : sites) {
    offsets.push_back(site.offset);
    cookies.push_back(site.cookie);
  }
  LIBBPF_OPTS(bpf_uprobe_multi_opts, options);
  options.offsets = offsets.data();
  options.cookies = cookies.data();
  options.cnt = offsets.size();
  std::vector<Link> links(1);
  links[0].reset(bpf_program__attach_uprobe_multi(program, -1, path.c_str(), nullptr, &options));
  if (!links[0])
    return std::unexpected(
        system_error(std::string("cannot attach ") + shown_name(bpf_program__name(program)), errno));
  return links;
}

std::expected<std::vector<Link>, Error> LibbpfKernelSide::attach_singly(bpf_program* program,
                                                                        const std::string& path,
                                                                        std::span<const ProbeSite> sites) {
  std::vector<Link> links;
  for (const ProbeSite& site : sites) {
    LIBBPF_OPTS(bpf_uprobe_opts, options);
    options.bpf_cookie = site.cookie;
    links.emplace_back(bpf_program__attach_uprobe_opts(program, -1, path.c_str(), site.offset, &options));
    if (!links.back())
      return std::unexpected(
          system_error(std::string("cannot attach ") + shown_name(bpf_program__name(program)), errno));
  }
  return links;
}

std::expected<TargetHandle, Error> LibbpfKernelSide::attach(int file_descriptor,
                                                            std::span<const ProbeSite> sites) {
  auto file = identify(file_descriptor);
  if (!file) return std::unexpected(file.error());
  detacher_.wait_for(*file);
  auto links = attach_links(file_descriptor, sites);
  if (!links) return std::unexpected(links.error());
  const TargetHandle target = next_target_++;
  targets_[target] = {*file, std::move(*links)};
  return target;
}

std::expected<std::vector<Link>, Error> LibbpfKernelSide::attach_links(int file_descriptor,
                                                                       std::span<const ProbeSite> sites) {
  const std::string path = "/proc/self/fd/" + std::to_string(file_descriptor);
  std::vector<Link> links;
  for (const std::uint32_t index : kAttachOrder) {
    std::vector<ProbeSite> its;
    std::ranges::copy_if(sites, std::back_inserter(its),
                         [index](const ProbeSite& site) { return site.program == index; });
    if (its.empty() || refused_.contains(kUprobePrograms[index])) continue;
    bpf_program* program = find(kUprobePrograms[index]);
    auto attached = uprobe_multi_ ? attach_multi(program, path, its) : attach_singly(program, path, its);
    if (!attached) return std::unexpected(attached.error());
    std::ranges::move(*attached, std::back_inserter(links));
  }
  if (links.empty()) return std::unexpected(Error{"nothing to attach", "name at least one known program"});
  return links;
}

void LibbpfKernelSide::detach(TargetHandle target) {
  const auto found = targets_.find(target);
  if (found == targets_.end()) return;
  detach_links(found->second.file, found->second.links);
  targets_.erase(found);
}

void LibbpfKernelSide::detach_links(const FileIdentity& file, std::vector<Link>& links) {
  detacher_.detach(file, [&links] {
    while (!links.empty()) links.pop_back();  // entries first, as they were attached last
  });
}

// What is slow is a grace period, which the kernel waits for unless probes have just been changed
// (percpu_down_write in kernel/events/uprobes.c, kernel/rcu/sync.c).
void LibbpfKernelSide::warm_up() {
  const auto now = std::chrono::steady_clock::now();
  if (now < warm_until_) return;
  const ProbeSite site{WIRE_SELF_TEST, 0, 0};
  if (auto links = attach_links(idle_file_.get(), std::span(&site, 1))) detach_links({}, *links);
  warm_until_ = std::chrono::steady_clock::now() + kWarm;
}

}  // namespace

std::expected<std::unique_ptr<KernelSide>, Error> KernelSide::load(const LoadOptions& options) {
  return LibbpfKernelSide::load(options);
}

}  // namespace weir::bpf
