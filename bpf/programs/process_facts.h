// SPDX-License-Identifier: GPL-2.0-only
// What the process programs and the task iterator tell of a task: identity, credentials, and the executable's
// path read from the kernel's own structures (a short process is gone before user space can read its /proc).
#ifndef WEIR_BPF_PROGRAMS_PROCESS_FACTS_H
#define WEIR_BPF_PROGRAMS_PROCESS_FACTS_H

#include "path_walk.h"

#define NAME_BYTES 256

static __always_inline __u32 inner_pid(struct task_struct* task) {
  struct pid* pid = BPF_CORE_READ(task, group_leader, thread_pid);
  struct upid innermost = {};
  __u32 level = BPF_CORE_READ(pid, level);
  bpf_core_read(&innermost, sizeof(innermost), &pid->numbers[level]);
  return innermost.nr;
}

static __always_inline void fill_process(struct wire_process* process, struct task_struct* task) {
  fill_process_key(&process->process, task);
  fill_process_key(&process->parent, BPF_CORE_READ(task, real_parent));
  process->cgroup_id = BPF_CORE_READ(task, cgroups, dfl_cgrp, kn, id);
  process->netns_cookie = BPF_CORE_READ(task, nsproxy, net_ns, net_cookie);
  process->exec_id = BPF_CORE_READ(task, group_leader, self_exec_id);
  process->inner_pid = inner_pid(task);
  process->uid = BPF_CORE_READ(task, cred, uid.val);
  process->path_bytes = 0;
  process->argument_bytes = 0;
  process->flags = 0;
  process->padding = 0;
}

// Writes the names from the executable up to the process's root, each ended by NUL. `path` has
// WIRE_PATH_BYTES.
static __always_inline void fill_path(struct wire_process* process, char* path, struct task_struct* task) {
  struct path_walk walk;
  if (!begin_walk(&walk, task)) return;
  __u32 used = 0;
  process->flags |= WIRE_PATH_TRUNCATED;
  for (int step = 0; step < PATH_STEPS; step++) {
    const unsigned char* name = 0;
    enum walked walked = walk_up(&walk, &name);
    if (walked == WALKED_MOUNT) continue;
    if (walked == WALKED_ROOT) {
      process->flags &= ~WIRE_PATH_TRUNCATED;
      break;
    }
    if (used > WIRE_PATH_BYTES - NAME_BYTES) break;
    long written = bpf_probe_read_kernel_str(path + used, NAME_BYTES, name);
    if (written <= 0) break;
    used += written & (2 * NAME_BYTES - 1);
  }
  process->path_bytes = used;
}

#endif
