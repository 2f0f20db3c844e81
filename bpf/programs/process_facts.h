// SPDX-License-Identifier: GPL-2.0-only
// What the process programs and the task iterator tell of a task: identity, credentials, and the executable's
// path read from the kernel's own structures (a short process is gone before user space can read its /proc).
#ifndef WEIR_BPF_PROGRAMS_PROCESS_FACTS_H
#define WEIR_BPF_PROGRAMS_PROCESS_FACTS_H

#include "common.h"

#define PATH_STEPS 64
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
  struct file* file = BPF_CORE_READ(task, mm, exe_file);
  if (!file) return;
  struct dentry* dentry = BPF_CORE_READ(file, f_path.dentry);
  struct vfsmount* vfsmount = BPF_CORE_READ(file, f_path.mnt);
  struct dentry* root_dentry = BPF_CORE_READ(task, fs, root.dentry);
  struct vfsmount* root_vfsmount = BPF_CORE_READ(task, fs, root.mnt);
  const __u64 embedded_at = bpf_core_field_offset(struct mount, mnt);
  __u32 used = 0;

  process->flags |= WIRE_PATH_TRUNCATED;
  for (int step = 0; step < PATH_STEPS; step++) {
    if (dentry == root_dentry && vfsmount == root_vfsmount) {
      process->flags &= ~WIRE_PATH_TRUNCATED;
      break;
    }
    if (dentry == BPF_CORE_READ(vfsmount, mnt_root)) {
      struct mount* mount = (struct mount*)((char*)vfsmount - embedded_at);
      struct mount* above = BPF_CORE_READ(mount, mnt_parent);
      if (above == mount) {
        process->flags &= ~WIRE_PATH_TRUNCATED;
        break;
      }
      dentry = BPF_CORE_READ(mount, mnt_mountpoint);
      vfsmount = (struct vfsmount*)((char*)above + embedded_at);
      continue;
    }
    if (used > WIRE_PATH_BYTES - NAME_BYTES) break;
    long written = bpf_probe_read_kernel_str(path + used, NAME_BYTES, BPF_CORE_READ(dentry, d_name.name));
    if (written <= 0) break;
    used += written & (2 * NAME_BYTES - 1);
    struct dentry* parent = BPF_CORE_READ(dentry, d_parent);
    if (dentry == parent) {  // hangs below nothing: a memfd
      process->flags &= ~WIRE_PATH_TRUNCATED;
      break;
    }
    dentry = parent;
  }
  process->path_bytes = used;
}

#endif
