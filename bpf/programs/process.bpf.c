// SPDX-License-Identifier: GPL-2.0-only
// Processes as they start, exec and end. Tells thread groups only, never threads.
#include "process_facts.h"

static __always_inline void tell(struct task_struct* task, __u32 kind) {
  struct wire_process* record = RESERVE(wire_process, kind);
  if (!record) return;
  fill_process(record, task);
  bpf_ringbuf_submit(record, 0);
}

SEC("tp_btf/sched_process_fork")
int BPF_PROG(process_started, struct task_struct* parent, struct task_struct* child) {
  if (child->pid == child->tgid) tell(child, WIRE_PROCESS_STARTED);
  return 0;
}

// At this point the new program's argument pages were just written by the kernel, so reading them doesn't
// fault.
static __always_inline void fill_arguments(struct wire_exec* record, struct task_struct* task) {
  __u64 start = BPF_CORE_READ(task, mm, arg_start);
  __u64 length = BPF_CORE_READ(task, mm, arg_end) - start;
  if (length > WIRE_ARGUMENT_BYTES) {
    length = WIRE_ARGUMENT_BYTES;
    record->process.flags |= WIRE_ARGUMENTS_TRUNCATED;
  }
  if (bpf_probe_read_user(record->arguments, length, (void*)start)) {
    length = 0;
    record->process.flags |= WIRE_ARGUMENTS_TRUNCATED;
  }
  record->process.argument_bytes = length;
}

SEC("tp_btf/sched_process_exec")
int BPF_PROG(process_execed, struct task_struct* task) {
  struct wire_exec* record = RESERVE(wire_exec, WIRE_PROCESS_EXECED);
  if (!record) return 0;
  fill_process(&record->process, task);
  fill_path(&record->process, record->path, task);
  fill_arguments(record, task);
  bpf_ringbuf_submit(record, 0);
  return 0;
}

SEC("tp_btf/sched_process_exit")
int BPF_PROG(process_exited, struct task_struct* task) {
  __u64 thread = ((__u64)task->tgid << 32) | task->pid;
  bpf_map_delete_elem(&tls_threads, &thread);
  if (BPF_CORE_READ(task, signal, live.counter) == 0) tell(task, WIRE_PROCESS_EXITED);
  return 0;
}
