// SPDX-License-Identifier: GPL-2.0-only
// What was there before the programs were loaded: processes, which files are mapped executable where, and
// connections. A mapping's inode is the one that probes bind to, also under overlayfs, which /proc/PID/maps
// doesn't tell.
#include "old_sockets.h"
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

static __always_inline bool is_connected(const struct sock* sk) {
  __u8 state = sk->__sk_common.skc_state;
  return state == TCP_ESTABLISHED || state == TCP_SYN_SENT || state == TCP_FIN_WAIT1 ||
         state == TCP_FIN_WAIT2 || state == TCP_CLOSE_WAIT;
}

static __u64 old_sockets = 0;

// Null: not there before the programs, or not to be told. An entry that the connect hook has made is told by
// the ring. One that its socket's end met too late, or not yet, goes again.
static __always_inline struct connection* find_old_socket(struct sock* sk, __u64 cookie,
                                                          struct task_struct* task) {
  struct connection* known = bpf_map_lookup_elem(&connections, &cookie);
  if (known) {
    bool again = (known->flags & CONNECTION_OLD) || known->opened_boot_ns < tell_again_before;
    return (known->flags & CONNECTION_OPEN) && again ? known : 0;
  }
  // Only the current process can be judged: such a connection is entered when its own uses it.
  if (was_accepted(sk) || (filter_groups & (WIRE_FILTER_PROCESSES | WIRE_FILTER_CGROUPS))) return 0;
  if (old_sockets >= most_old_sockets) {
    COUNT(table_full, 1);
    return 0;
  }
  known = enter_old_socket(sk, cookie, task, false);
  if (!known || !(known->flags & CONNECTION_OLD)) return 0;
  old_sockets++;
  if (is_connected(sk)) return known;
  bpf_map_delete_elem(&connections, &cookie);
  return 0;
}

// Connections of all network namespaces, each with a process that holds it: as many times as there are
// descriptors of it. Attached programs tell what opens or ends meanwhile.
SEC("iter/task_file")
int each_socket(struct bpf_iter__task_file* ctx) {
  struct task_struct* task = ctx->task;
  struct file* file = ctx->file;
  if (!task || !file) return 0;
  struct socket* socket = bpf_sock_from_file(file);
  struct sock* sk = socket ? socket->sk : 0;
  if (!sk || sk->sk_protocol != IPPROTO_TCP || !is_connected(sk)) return 0;
  __u16 family = sk->__sk_common.skc_family;
  if (family != AF_INET && family != AF_INET6) return 0;
  struct connection* connection = find_old_socket(sk, bpf_get_socket_cookie(sk), task);
  if (!connection) return 0;
  struct wire_opened record;
  fill_opened(&record, connection);
  record.flags = WIRE_BEFORE_START;
  connection->flags &= ~CONNECTION_UNTOLD;
  bpf_seq_write(ctx->meta->seq, &record, sizeof(record));
  return 0;
}
