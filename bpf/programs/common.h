// SPDX-License-Identifier: GPL-2.0-only
// Small helpers that more than one program file uses.
#ifndef WEIR_BPF_PROGRAMS_COMMON_H
#define WEIR_BPF_PROGRAMS_COMMON_H

#include "maps.h"

#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>

static __always_inline struct wire_control* control_page(void) {
  __u32 zero = 0;
  return bpf_map_lookup_elem(&control, &zero);
}

#define COUNT(counter, amount)                                  \
  do {                                                          \
    struct wire_control* page_ = control_page();                \
    if (page_) __sync_fetch_and_add(&page_->counter, (amount)); \
  } while (0)

static __always_inline bool is_own_process(__u32 tgid) {
  for (int i = 0; i < OWN_PROCESSES; i++)
    if (own_processes[i] == tgid) return true;
  return false;
}

static __always_inline void fill_header(struct wire_header* header, __u32 kind, __u32 size) {
  header->kind = kind;
  header->size = size;
  header->boot_ns = bpf_ktime_get_boot_ns();
}

// A record of fixed size in the ring, with its header filled; when there is no room, `counter` says so.
#define RESERVE(type, record_kind, counter)                                    \
  ({                                                                           \
    struct type* record_ = bpf_ringbuf_reserve(&ring, sizeof(struct type), 0); \
    if (record_)                                                               \
      fill_header((void*)record_, record_kind, sizeof(struct type));           \
    else                                                                       \
      COUNT(counter, 1);                                                       \
    record_;                                                                   \
  })

// To wake the reader costs more than to write a record. One that comes by itself is woken only for what would
// fill the ring before it does.
static __always_inline __u64 wakeup_flags(void) {
  struct wire_control* page = control_page();
  if (!page || !page->batching) return 0;
  return bpf_ringbuf_query(&ring, BPF_RB_AVAIL_DATA) > payload_limit / 8 ? BPF_RB_FORCE_WAKEUP
                                                                         : BPF_RB_NO_WAKEUP;
}

static __always_inline void submit(void* record) {
  bpf_ringbuf_submit(record, wakeup_flags());
}

static __always_inline void forget_thread(const __u64* thread) {
  if (!tls_threads_now) return;
  if (!bpf_map_delete_elem(&tls_threads, thread)) __sync_fetch_and_add(&tls_threads_now, -1);
}

static __always_inline void fill_process_key(struct wire_process_key* key, struct task_struct* task) {
  key->tgid = BPF_CORE_READ(task, tgid);
  key->padding = 0;
  key->start_boottime_ns = BPF_CORE_READ(task, group_leader, start_boottime);
}

#endif
