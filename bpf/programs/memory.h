// SPDX-License-Identifier: GPL-2.0-only
// What a system call carries: where the memory is that it sends from or receives into.
#ifndef WEIR_BPF_PROGRAMS_MEMORY_H
#define WEIR_BPF_PROGRAMS_MEMORY_H

#include "common.h"

// The memory that a system call sends from or receives into: one piece, or an array of struct iovec.
struct memory {
  __u64 address;
  __u64 length;  // that the caller asked for
  __u64 vectors;
  __u64 count;
};

// Numbers: arch/x86/entry/syscalls/syscall_64.tbl. Others (sendfile, splice, io_uring) carry no address of
// the process's memory.
static __always_inline bool find_memory(struct pt_regs* regs, struct memory* memory) {
  __u64 second = PT_REGS_PARM2_CORE_SYSCALL(regs);
  struct user_msghdr message = {};
  switch (BPF_CORE_READ(regs, orig_ax)) {
    case 0:   // read
    case 1:   // write
    case 44:  // sendto
    case 45:  // recvfrom
      memory->address = second;
      memory->length = PT_REGS_PARM3_CORE_SYSCALL(regs);
      return true;
    case 19:  // readv
    case 20:  // writev
      memory->vectors = second;
      memory->count = PT_REGS_PARM3_CORE_SYSCALL(regs);
      return true;
    case 46:  // sendmsg
    case 47:  // recvmsg
      if (bpf_probe_read_user(&message, sizeof(message), (void*)second)) return false;
      memory->vectors = (__u64)message.msg_iov;
      memory->count = message.msg_iovlen;
      return true;
  }
  return false;
}

#define MOST_VECTORS 1024  // UIO_MAXIOV

// Where the first byte is, and how many stand together there.
static __always_inline __u64 first_piece(const struct memory* memory, __u64* together) {
  *together = memory->length;
  if (!memory->vectors) return memory->address;
  for (__u64 i = 0; i < 4; i++) {
    struct iovec vector = {};
    if (i >= memory->count ||
        bpf_probe_read_user(&vector, sizeof(vector), (void*)(memory->vectors + i * sizeof(vector))))
      return 0;
    if (!vector.iov_len) continue;
    *together = vector.iov_len;
    return (__u64)vector.iov_base;
  }
  return 0;
}

#endif
