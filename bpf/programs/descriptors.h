// SPDX-License-Identifier: GPL-2.0-only
// The current process's sockets by their descriptors.
#ifndef WEIR_BPF_PROGRAMS_DESCRIPTORS_H
#define WEIR_BPF_PROGRAMS_DESCRIPTORS_H

#include "common.h"

#define FILE_TYPE 0170000  // S_IFMT and S_IFSOCK, include/uapi/linux/stat.h
#define SOCKET_FILE 0140000

static __always_inline struct sock* socket_at(__u32 descriptor) {
  struct fdtable* table = BPF_CORE_READ(bpf_get_current_task_btf(), files, fdt);
  if (descriptor >= BPF_CORE_READ(table, max_fds)) return 0;
  struct file** files = BPF_CORE_READ(table, fd);
  struct file* file = 0;
  if (bpf_probe_read_kernel(&file, sizeof(file), files + descriptor) || !file) return 0;
  if ((BPF_CORE_READ(file, f_inode, i_mode) & FILE_TYPE) != SOCKET_FILE) return 0;
  struct socket* socket = BPF_CORE_READ(file, private_data);
  return BPF_CORE_READ(socket, sk);
}

#endif
