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

// True when `outer` is a call on the same object and direction: functions of a library call each other, and
// the bytes count once.
static __always_inline bool is_part_of(const struct tls_call* outer, __u64 object, __u64 site) {
  return outer->object == object && is_sending(outer->site) == is_sending(site);
}

// The place for a call that begins, or null when it is to be left alone.
static __always_inline struct tls_call* place_call(struct tls_thread* open, __u64 object, __u64 site,
                                                   __u64 stack) {
  int index = -1;
  for (int i = 0; i < NESTED_CALLS; i++) {
    __u64 other = open->stacks[i];
    if (other > stack && is_part_of(&open->calls[i], object, site)) return 0;
    if (other == stack || (!other && index < 0)) index = i;
    if (other == stack) break;  // left by a longjmp, or gone on by a jump
  }
  if (index < 0) {
    COUNT(calls_lost, 1);
    return 0;
  }
  open->stacks[index & (NESTED_CALLS - 1)] = stack;
  return &open->calls[index & (NESTED_CALLS - 1)];
}

// The current thread's; null when it never had any.
static __always_inline struct tls_thread* find_thread(void) {
  struct tls_thread* open = 0;
  if (thread_storage) open = bpf_task_storage_get(&thread_calls, bpf_get_current_task_btf(), 0, 0);
  if (open || !tls_threads_now) return open;
  __u64 thread = bpf_get_current_pid_tgid();
  return bpf_map_lookup_elem(&tls_threads, &thread);
}

static __always_inline struct tls_thread* make_thread(void) {
  if (thread_storage) {
    struct tls_thread* made =
        bpf_task_storage_get(&thread_calls, bpf_get_current_task_btf(), 0, BPF_LOCAL_STORAGE_GET_F_CREATE);
    if (made) return made;
  }
  __u64 thread = bpf_get_current_pid_tgid();
  if (!bpf_map_update_elem(&tls_threads, &thread, (const void*)&no_calls, BPF_NOEXIST))
    __sync_fetch_and_add(&tls_threads_now, 1);
  struct tls_thread* made = bpf_map_lookup_elem(&tls_threads, &thread);
  if (!made) COUNT(calls_lost, 1);
  return made;
}

// An entry of tls_threads stays for the thread's next call, until it ends, unless there are this many, or its
// own place can be tried again.
#define THREADS_KEPT 8192

static __always_inline void leave_thread(void) {
  if (tls_threads_now <= (thread_storage ? 0 : THREADS_KEPT)) return;
  __u64 thread = bpf_get_current_pid_tgid();
  forget_thread(&thread);
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

static __always_inline bool has_calls(const struct tls_thread* open) {
  __u64 any = 0;
  for (int i = 0; i < NESTED_CALLS; i++) any |= open->stacks[i];
  return any;
}

#define CALL_FOUND 8u  // beside its index
#define OTHER_CALLS 16u

// Of this frame. For the verifier a function of its own; each of the programs' files has it.
__weak __noinline __u32 find_call(const struct tls_thread* open, __u64 stack) {
  if (!open) return 0;
  __u32 found = 0;
  for (int i = 0; i < NESTED_CALLS; i++) {
    if (open->stacks[i] == stack)
      found |= i | CALL_FOUND;
    else if (open->stacks[i])
      found |= OTHER_CALLS;
  }
  return found;
}

// Takes the call of this frame out; false when there is none. `*others`: the thread has more.
static __always_inline bool take_call(struct tls_thread* open, __u64 stack, struct tls_call* taken,
                                      bool* others) {
  __u32 found = find_call(open, stack);
  *others = found & OTHER_CALLS;
  if (!(found & CALL_FOUND)) return false;
  *taken = open->calls[found & (NESTED_CALLS - 1)];
  open->stacks[found & (NESTED_CALLS - 1)] = 0;
  return true;
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
