// SPDX-License-Identifier: GPL-2.0-only
// What was there before the programs were loaded: processes, and which files are mapped executable where. The
// inode is the one that probes bind to, also under overlayfs, which /proc/PID/maps doesn't tell.
#include "process_facts.h"

#define PF_KTHREAD 0x00200000  // include/linux/sched.h

struct {
  __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
  __uint(max_entries, 1);
  __type(key, __u32);
  __type(value, struct wire_task);
} task_scratch SEC(".maps");
struct {
  __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
  __uint(max_entries, 1);
  __type(key, __u32);
  __type(value, struct wire_mapping);
} mapping_scratch SEC(".maps");

SEC("iter/task")
int each_task(struct bpf_iter__task* ctx) {
  struct task_struct* task = ctx->task;
  __u32 zero = 0;
  struct wire_task* record = bpf_map_lookup_elem(&task_scratch, &zero);
  if (!task || !record || task->pid != task->tgid || (task->flags & PF_KTHREAD)) return 0;
  fill_header(&record->process.header, WIRE_PROCESS_SEEN, sizeof(*record));
  fill_process(&record->process, task);
  fill_path(&record->process, record->path, task);
  bpf_seq_write(ctx->meta->seq, record, sizeof(*record));
  return 0;
}

SEC("iter/task_vma")
int each_mapping(struct bpf_iter__task_vma* ctx) {
  struct task_struct* task = ctx->task;
  struct vm_area_struct* vma = ctx->vma;
  __u32 zero = 0;
  struct wire_mapping* record = bpf_map_lookup_elem(&mapping_scratch, &zero);
  if (!task || !vma || !record || task->pid != task->tgid) return 0;
  struct file* file = vma->vm_file;
  if (!file || !(vma->vm_flags & 0x4 /* VM_EXEC */)) return 0;
  __u32 device = BPF_CORE_READ(file, f_inode, i_sb, s_dev);
  record->tgid = task->tgid;
  record->device_major = device >> 20;  // the kernel's own dev_t, see include/linux/kdev_t.h
  record->device_minor = device & 0xfffff;
  record->start = vma->vm_start;
  record->end = vma->vm_end;
  record->file_offset = vma->vm_pgoff << 12;
  record->inode = BPF_CORE_READ(file, f_inode, i_ino);
  record->inode_generation = BPF_CORE_READ(file, f_inode, i_generation);
  record->padding = 0;
  long written = bpf_probe_read_kernel_str(record->name, sizeof(record->name),
                                           BPF_CORE_READ(file, f_path.dentry, d_name.name));
  record->name_bytes = written > 0 ? written - 1 : 0;
  bpf_seq_write(ctx->meta->seq, record, sizeof(*record));
  return 0;
}
