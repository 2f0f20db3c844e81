// SPDX-License-Identifier: GPL-2.0-only
// The path of a process's executable as the process sees it, name by name from the last component to its
// root, from the kernel's own structures.
#ifndef WEIR_BPF_PROGRAMS_PATH_WALK_H
#define WEIR_BPF_PROGRAMS_PATH_WALK_H

#include "common.h"

#define PATH_STEPS 64

struct path_walk {
  struct dentry* dentry;  // null at the end
  struct vfsmount* vfsmount;
  struct dentry* root_dentry;
  struct vfsmount* root_vfsmount;
};

// False for a task without an executable.
static __always_inline bool begin_walk(struct path_walk* walk, struct task_struct* task) {
  struct file* file = BPF_CORE_READ(task, mm, exe_file);
  if (!file) return false;
  walk->dentry = BPF_CORE_READ(file, f_path.dentry);
  walk->vfsmount = BPF_CORE_READ(file, f_path.mnt);
  walk->root_dentry = BPF_CORE_READ(task, fs, root.dentry);
  walk->root_vfsmount = BPF_CORE_READ(task, fs, root.mnt);
  return true;
}

enum walked { WALKED_NAME, WALKED_MOUNT, WALKED_ROOT };

// One step up: a name, the way out of a mount, or the end.
static __always_inline enum walked walk_up(struct path_walk* walk, const unsigned char** name) {
  const __u64 embedded_at = bpf_core_field_offset(struct mount, mnt);
  struct dentry* dentry = walk->dentry;  // copies: what BPF_CORE_READ is given must be the kernel's own
  struct vfsmount* vfsmount = walk->vfsmount;
  if (!dentry || (dentry == walk->root_dentry && vfsmount == walk->root_vfsmount)) return WALKED_ROOT;
  if (dentry == BPF_CORE_READ(vfsmount, mnt_root)) {
    struct mount* mount = (struct mount*)((char*)vfsmount - embedded_at);
    struct mount* above = BPF_CORE_READ(mount, mnt_parent);
    if (above == mount) return WALKED_ROOT;
    walk->dentry = BPF_CORE_READ(mount, mnt_mountpoint);
    walk->vfsmount = (struct vfsmount*)((char*)above + embedded_at);
    return WALKED_MOUNT;
  }
  *name = BPF_CORE_READ(dentry, d_name.name);
  struct dentry* parent = BPF_CORE_READ(dentry, d_parent);
  walk->dentry = dentry == parent ? 0 : parent;  // what hangs below nothing is a memfd
  return WALKED_NAME;
}

#endif
