// SPDX-License-Identifier: GPL-2.0-only
// The open calls of TLS functions, by thread, or by goroutine for Go, whose goroutines change threads and
// whose stacks move. A call is known by the place of its frame on the stack.
#ifndef WEIR_BPF_PROGRAMS_TLS_CALLS_H
#define WEIR_BPF_PROGRAMS_TLS_CALLS_H

#include "common.h"

static __always_inline __u32 call_of(__u64 site) {
  return site & 0x1f;
}
static __always_inline __u32 library_of(__u64 site) {
  return (site >> 5) & 0xf;
}
// Where the return address is: the same at the call's entry and at its end, wherever in the function the
// sites are.
static __always_inline __u64 frame_of(__u64 site, __u64 stack) {
  return stack + ((site >> 9) & 0x7f) * 8;
}

static __always_inline bool is_sending(__u64 site) {
  switch (call_of(site)) {
    case WIRE_CALL_WRITE:
    case WIRE_CALL_WRITE_EX:
    case WIRE_CALL_WRITE_LONG:
    case WIRE_CALL_SEND_FILE:
    case WIRE_CALL_FLUSH:
    case WIRE_CALL_GO_WRITE:
      return true;
  }
  return false;
}

// Too large for the stack.
static const volatile struct tls_thread no_calls = {};

// True when `outer` is a call on the same object and direction that this one is made by: functions of a
// library call each other, and the bytes count once.
static __always_inline bool is_part_of(const struct tls_call* outer, __u64 object, __u64 site, __u64 stack) {
  return outer->stack > stack && outer->object == object && is_sending(outer->site) == is_sending(site);
}

// The place for a call that begins, or null when it is to be left alone.
static __always_inline struct tls_call* place_call(struct tls_thread* open, __u64 object, __u64 site,
                                                   __u64 stack) {
  int index = -1;
  for (int i = 0; i < NESTED_CALLS; i++) {
    const struct tls_call* call = &open->calls[i];
    if (is_part_of(call, object, site, stack)) return 0;
    if (call->stack == stack || (!call->stack && index < 0)) index = i;
    if (call->stack == stack) break;  // left by a longjmp, or gone on by a jump
  }
  if (index < 0) {
    COUNT(calls_lost, 1);
    return 0;
  }
  return &open->calls[index & (NESTED_CALLS - 1)];
}

// A thread's entry stays for its next call, until it ends, unless there are this many.
#define THREADS_KEPT 8192

static __always_inline struct tls_thread* open_calls_of_thread(const __u64* thread) {
  struct tls_thread* open = bpf_map_lookup_elem(&tls_threads, thread);
  if (open) return open;
  if (!bpf_map_update_elem(&tls_threads, thread, (const void*)&no_calls, BPF_NOEXIST))
    __sync_fetch_and_add(&tls_threads_now, 1);
  open = bpf_map_lookup_elem(&tls_threads, thread);
  if (!open) COUNT(calls_lost, 1);
  return open;
}

// `threads` is the map, `key` its key.
#define OPEN_CALLS(threads, key)                                               \
  ({                                                                           \
    struct tls_thread* open_ = bpf_map_lookup_elem(&(threads), (key));         \
    if (!open_) {                                                              \
      bpf_map_update_elem(&(threads), (key), (const void*)&no_calls, BPF_ANY); \
      open_ = bpf_map_lookup_elem(&(threads), (key));                          \
    }                                                                          \
    if (!open_) COUNT(calls_lost, 1);                                          \
    open_;                                                                     \
  })

// Takes the call of this frame out; false when there is none. `*others`: the thread has more.
static __always_inline bool take_call(struct tls_thread* open, __u64 stack, struct tls_call* taken,
                                      bool* others) {
  bool found = false;
  *others = false;
  for (int i = 0; i < NESTED_CALLS; i++) {
    struct tls_call* call = &open->calls[i];
    if (call->stack == stack) {
      *taken = *call;
      call->stack = 0;
      found = true;
    } else if (call->stack) {
      *others = true;
    }
  }
  return found;
}

// Where Go keeps the bounds of a goroutine's stack: struct g begins with stack.lo and stack.hi (runtime2.go).
struct goroutine_bounds {
  __u64 low;
  __u64 high;
};

// How deep the frame is: it stays when the stack moves. 0 when it can't be read.
static __always_inline __u64 goroutine_depth(__u64 goroutine, __u64 stack) {
  struct goroutine_bounds bounds = {};
  if (bpf_probe_read_user(&bounds, sizeof(bounds), (void*)goroutine)) return 0;
  return stack >= bounds.low && stack < bounds.high ? bounds.high - stack : 0;
}

#endif
