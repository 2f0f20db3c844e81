// What this kernel allows, tried with the smallest program that needs it. Nothing stays loaded: each try
// closes what it opened before it returns.
#include <bpf/bpf.h>
#include <bpf/btf.h>
#include <bpf/libbpf.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <sys/fanotify.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "bpf/features.h"
#include "bpf/kernel_side.h"
#include "bpf/libbpf_log.h"

namespace weir::bpf {
namespace {

// BPF_TRACE_UPROBE_MULTI of include/uapi/linux/bpf.h, which the headers of Debian 12 don't have yet.
constexpr auto kTraceUprobeMulti = static_cast<bpf_attach_type>(48);

// 0, or the errno of what failed.
using Try = int (*)();

int close_or_errno(int descriptor) {
  if (descriptor < 0) return errno;
  ::close(descriptor);
  return 0;
}

struct Program {
  bpf_prog_type type = BPF_PROG_TYPE_UNSPEC;
  bpf_attach_type attach = BPF_CGROUP_INET_INGRESS;  // 0: none
  const char* kernel_function = nullptr;             // or tracepoint, or iterator
  std::uint32_t flags = 0;
};

// A program that returns 1, which allows what a program may refuse.
int load(const Program& program) {
  const bpf_insn code[] = {
      {BPF_ALU64 | BPF_MOV | BPF_K, BPF_REG_0, 0, 0, program.type == BPF_PROG_TYPE_TRACING ? 0 : 1},
      {BPF_JMP | BPF_EXIT, 0, 0, 0, 0}};
  LIBBPF_OPTS(bpf_prog_load_opts, options);
  options.expected_attach_type = program.attach;
  options.prog_flags = program.flags;
  if (program.kernel_function != nullptr) {
    const int id = libbpf_find_vmlinux_btf_id(program.kernel_function, program.attach);
    if (id < 0) {
      errno = -id;
      return -1;
    }
    options.attach_btf_id = static_cast<__u32>(id);
  }
  const int descriptor = bpf_prog_load(program.type, "weir_try", "GPL", code, std::size(code), &options);
  return descriptor;
}

int try_load(const Program& program) {
  return close_or_errno(load(program));
}

// Loading is not enough where the kernel refuses at attaching.
int try_attach_to_function(const Program& program) {
  const int descriptor = load(program);
  if (descriptor < 0) return errno;
  const int result = close_or_errno(bpf_raw_tracepoint_open(nullptr, descriptor));
  ::close(descriptor);
  return result;
}

int try_btf() {
  return ::access("/sys/kernel/btf/vmlinux", R_OK) == 0 ? 0 : errno;
}

int try_ring() {
  return close_or_errno(bpf_map_create(BPF_MAP_TYPE_RINGBUF, "weir_try", 0, 0, 4096, nullptr));
}

int try_tracepoint() {
  return try_attach_to_function({BPF_PROG_TYPE_TRACING, BPF_TRACE_RAW_TP, "sched_process_exec"});
}

int try_sock_length() {
  return try_attach_to_function({BPF_PROG_TYPE_TRACING, BPF_TRACE_RAW_TP, "sock_send_length"});
}

int try_connect() {
  return try_load({BPF_PROG_TYPE_CGROUP_SOCK_ADDR, BPF_CGROUP_INET4_CONNECT});
}

int try_sockops() {
  return try_load({BPF_PROG_TYPE_SOCK_OPS, BPF_CGROUP_SOCK_OPS});
}

int try_uprobe() {
  return ::access("/sys/bus/event_source/devices/uprobe/type", R_OK) == 0 ? 0 : errno;
}

int try_kprobe() {
  return ::access("/sys/bus/event_source/devices/kprobe/type", R_OK) == 0 ? 0 : errno;
}

// A kernel that knows this kind of link looks at the path, and "/" is no file (EBADF).
int try_uprobe_multi() {
  const int program = load({BPF_PROG_TYPE_KPROBE, kTraceUprobeMulti});
  if (program < 0) return errno;
  const unsigned long offset = 0;
  LIBBPF_OPTS(bpf_link_create_opts, options);
  options.uprobe_multi.path = "/";
  options.uprobe_multi.offsets = &offset;
  options.uprobe_multi.cnt = 1;
  const int link = bpf_link_create(program, -1, kTraceUprobeMulti, &options);
  const int error = link < 0 ? errno : EBADF;
  if (link >= 0) ::close(link);
  ::close(program);
  return error == EBADF ? 0 : error;
}

int try_sleepable() {
  return try_load({BPF_PROG_TYPE_KPROBE, kTraceUprobeMulti, nullptr, BPF_F_SLEEPABLE});
}

int try_loop() {
  const int result = libbpf_probe_bpf_helper(BPF_PROG_TYPE_KPROBE, BPF_FUNC_loop, nullptr);
  return result == 1 ? 0 : result == 0 ? EOPNOTSUPP : -result;
}

int try_task_storage() {
  const int result = libbpf_probe_bpf_helper(BPF_PROG_TYPE_KPROBE, BPF_FUNC_task_storage_get, nullptr);
  return result == 1 ? 0 : result == 0 ? EOPNOTSUPP : -result;
}

int try_mapping_iterator() {
  return try_load({BPF_PROG_TYPE_TRACING, BPF_TRACE_ITER, "task_vma"});
}

int try_fentry() {
  return try_attach_to_function({BPF_PROG_TYPE_TRACING, BPF_TRACE_FENTRY, "tcp_connect"});
}

int try_lsm() {
  return try_attach_to_function({BPF_PROG_TYPE_LSM, BPF_LSM_MAC, "file_open"});
}

int try_fanotify() {
  return close_or_errno(::fanotify_init(FAN_CLASS_CONTENT | FAN_CLOEXEC, O_RDONLY | O_CLOEXEC));
}

struct Feature {
  const char* name;
  Try attempt;
  bool required;
  const char* instead;
};

constexpr Feature kFeatures[] = {
    {"BTF of the kernel", try_btf, true, ""},
    {"ring buffer", try_ring, true, ""},
    {"BTF tracepoints", try_tracepoint, true, ""},
    {"tracepoint sock_send_length", try_sock_length, false, "the tracepoint of all system calls, dearer"},
    {"cgroup connect hooks", try_connect, true, ""},
    {"sockops", try_sockops, true, ""},
    {"uprobes", try_uprobe, true, ""},
    {"uprobe_multi links", try_uprobe_multi, false, "a perf event for each probe, slower to attach"},
    {"sleepable uprobes", try_sleepable, true, ""},
    {"bpf_loop", try_loop, true, ""},
    {"task storage in uprobes", try_task_storage, false, "a table by thread"},
    {"task_vma iterator", try_mapping_iterator, true, ""},
    {"kprobes", try_kprobe, false, "BTF tracepoints"},
    {"fentry and fexit", try_fentry, false, "BTF tracepoints"},
    {"LSM programs", try_lsm, false, "cgroup hooks"},
    {"fanotify permission events", try_fanotify, false,
     "the exec tracepoint, which can be late for a new library"},
};

}  // namespace

bool has_socket_events() {
  return libbpf_find_vmlinux_btf_id("sock_send_length", BPF_TRACE_RAW_TP) > 0 &&
         libbpf_find_vmlinux_btf_id("sock_recv_length", BPF_TRACE_RAW_TP) > 0;
}

bool has_uprobe_multi() {
  return try_uprobe_multi() == 0;
}

std::vector<ProgramState> probe_features() {
  collect_libbpf_log();
  std::vector<ProgramState> states;
  for (const auto& feature : kFeatures) {
    const int error = feature.attempt();
    states.push_back({feature.name, error == 0, error == 0 ? "" : std::strerror(error), feature.instead,
                      feature.required});
  }
  return states;
}

}  // namespace weir::bpf
