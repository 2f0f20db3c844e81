// SPDX-License-Identifier: GPL-2.0-only
// Processes as they start, exec and end. Tells thread groups only, never threads.
#include "process_facts.h"

static __always_inline void tell(struct task_struct* task, __u32 kind) {
  struct wire_process* record = RESERVE(wire_process, kind, untold_processes);
  if (!record) return;
  fill_process(record, task);
  submit(record);
}

SEC("tp_btf/sched_process_fork")
int BPF_PROG(process_started, struct task_struct* parent, struct task_struct* child) {
  if (child->pid != child->tgid) return 0;
  tell(child, WIRE_PROCESS_STARTED);
  return 0;
}

// At this point the new program's argument pages were just written by the kernel, so reading them doesn't
// fault.
static __always_inline __u32 fill_arguments(struct wire_process* process, char* arguments,
                                            struct task_struct* task) {
  __u64 start = BPF_CORE_READ(task, mm, arg_start);
  __u64 length = BPF_CORE_READ(task, mm, arg_end) - start;
  if (length > WIRE_ARGUMENT_BYTES) {
    length = WIRE_ARGUMENT_BYTES;
    process->flags |= WIRE_ARGUMENTS_TRUNCATED;
  }
  if (bpf_probe_read_user(arguments, length, (void*)start)) {
    length = 0;
    process->flags |= WIRE_ARGUMENTS_TRUNCATED;
  }
  process->argument_bytes = length;
  return length;
}

// Execs come in bursts, and a record with room for the longest path would fill the ring with nothing.
SEC("tp_btf/sched_process_exec")
int BPF_PROG(process_execed, struct task_struct* task) {
  __u32 zero = 0;
  struct wire_exec* record = bpf_map_lookup_elem(&exec_scratch, &zero);
  if (!record) return 0;
  fill_process(&record->process, task);
  fill_path(&record->process, record->text, task);
  __u32 size = record->process.path_bytes;
  if (size > WIRE_PATH_BYTES) return 0;
  size += fill_arguments(&record->process, record->text + size, task) + sizeof(record->process);
  fill_header(&record->process.header, WIRE_PROCESS_EXECED, size);
  if (size > sizeof(*record) || bpf_ringbuf_output(&ring, record, size, wakeup_flags()))
    COUNT(untold_processes, 1);
  return 0;
}

SEC("tp_btf/sched_process_exit")
int BPF_PROG(process_exited, struct task_struct* task) {
  __u64 thread = ((__u64)task->tgid << 32) | task->pid;
  forget_thread(&thread);
  if (BPF_CORE_READ(task, signal, live.counter) != 0) return 0;
  tell(task, WIRE_PROCESS_EXITED);
  return 0;
}
