// SPDX-License-Identifier: GPL-2.0-only
// Calls of TLS libraries with C's calling convention: followed from entry to return, bytes are taken at the
// return, as many as the library says.
#include "ciphertext_search.h"
#include "tls_objects.h"

#define PR_PEEK 2  // PR_MSG_PEEK, prio.h

SEC("uprobe.multi")
int tls_enter(struct pt_regs* ctx) {
  struct caller caller;
  fill_caller(&caller);
  if (is_own_process(caller.process.tgid) || process_filtered()) return 0;
  struct tls_key key = {.pointer = PT_REGS_PARM1(ctx), .tgid = caller.process.tgid};
  __u64 site = bpf_get_attach_cookie(ctx);
  struct tls_object* object = find_object(&key, &caller);
  if (object && (object->flags & OBJECT_ACCEPTED) && !ingress_wanted) return 0;

  struct tls_thread* open = find_thread();
  if (!open) open = make_thread();
  __u64 stack = frame_of(site, PT_REGS_SP(ctx));
  struct tls_call* call = open ? place_call(open, key.pointer, site, stack) : 0;
  if (!call) return 0;
  __u32 kind = call_of(site);
  call->object = key.pointer;
  call->buffer = kind == WIRE_CALL_SEND_FILE ? 0 : PT_REGS_PARM2(ctx);
  // int or size_t: only whether there is a buffer matters.
  call->length = PT_REGS_PARM3(ctx) & 0xffffffff;
  call->count = kind == WIRE_CALL_READ_EX || kind == WIRE_CALL_WRITE_EX ? PT_REGS_PARM4(ctx) : 0;
  call->linked_cookie = object ? object->cookie : 0;
  call->other_cookie = 0;
  call->used_linked = 0;
  call->peeks = kind == WIRE_CALL_READ_FLAGS && (PT_REGS_PARM4(ctx) & PR_PEEK);
  call->site = site;
  return 0;
}

static __always_inline __u64 committed_bytes(const struct tls_call* call, long result) {
  if (call->peeks) return 0;
  switch (call_of(call->site)) {
    case WIRE_CALL_FLUSH:
      return 0;
    case WIRE_CALL_READ_LONG:
    case WIRE_CALL_READ_PACKET:
    case WIRE_CALL_WRITE_LONG:
    case WIRE_CALL_SEND_FILE:
      return result > 0 ? result : 0;
  }
  if ((int)result <= 0) return 0;
  if (!call->count) return (int)result;
  __u64 count = 0;
  if ((int)result != 1 || bpf_copy_from_user(&count, sizeof(count), (void*)call->count)) return 0;
  return count;
}

__noinline int remember_ciphertext(const struct tls_key* key, __u64 site, __u64 bytes) {
  __u32 library = library_of(site);
  if (!key || !is_sending(site) || (library != WIRE_LIBRARY_OPENSSL && library != WIRE_LIBRARY_BORINGSSL))
    return 0;
  struct tls_object* object = bpf_map_lookup_elem(&tls_objects, key);
  if (!object || object->cookie || (object->flags & (OBJECT_ACCEPTED | OBJECT_FILTERED)) ||
      object->searches >= MOST_SEARCHES)
    return 0;
  object->searches++;
  struct ciphertext_maker maker = {.object = *key, .generation = object->generation};
  return search_ciphertext(&maker, bytes);
}

// A read that gives nothing is the end; one into no room gives nothing at any time.
static __always_inline bool is_end(const struct tls_call* call, long result) {
  if ((int)result) return false;
  switch (call_of(call->site)) {
    case WIRE_CALL_READ:
    case WIRE_CALL_READ_LONG:
    case WIRE_CALL_READ_FLAGS:
      return call->length;
    case WIRE_CALL_READ_PACKET:
      return true;
  }
  return false;
}

// What gnutls_packet_get() reads (struct mbuffer_st, lib/gnutls_int.h).
struct packet {
  __u64 next;
  __u64 previous;
  __u64 mark;  // where the content begins
  __u64 data;
  __u32 size;
};

// Where a packet's content is; 0 if it isn't what it should be.
static __always_inline __u64 packet_content(__u64 place, __u64 bytes) {
  struct packet packet = {};
  __u64 address = 0;
  if (bpf_copy_from_user(&address, sizeof(address), (void*)place) ||
      bpf_copy_from_user(&packet, sizeof(packet), (void*)address))
    return 0;
  return packet.data && packet.size - packet.mark == bytes ? packet.data + packet.mark : 0;
}

// Stands on the function's `ret` instructions, or before them (probes/placement.h). A uretprobe would not do:
// the kernel kills a thread whose return addresses come back in another order than its stack's, as they do
// when fibers switch inside a call.
SEC("uprobe.multi.s")
int tls_return(struct pt_regs* ctx) {
  struct tls_thread* open = find_thread();
  if (!open) return 0;
  struct tls_call call;
  bool found = false, others = has_calls(open);
  if (others) found = take_call(open, frame_of(bpf_get_attach_cookie(ctx), PT_REGS_SP(ctx)), &call, &others);
  if (!others) leave_thread();
  if (!found) return 0;

  struct caller caller;
  fill_caller(&caller);
  struct tls_key key = {.pointer = call.object, .tgid = caller.process.tgid};
  long result = PT_REGS_RC(ctx);
  __u64 bytes = committed_bytes(&call, result);
  if (call_of(call.site) == WIRE_CALL_READ_PACKET && bytes) call.buffer = packet_content(call.buffer, bytes);
  struct tls_object* object = finish_call(&key, &caller, &call, bytes, true);
  if (bytes && !call.linked_cookie) remember_ciphertext(&key, call.site, bytes);
  if (object && is_end(&call, result)) tell_ended(&key, &caller, object, call.site, WIRE_RECEIVED);
  return 0;
}

static __always_inline bool is_inside_call_on(__u64 object) {
  struct tls_thread* open = find_thread();
  if (!open) return false;
  for (int i = 0; i < NESTED_CALLS; i++)
    if (open->stacks[i] && open->calls[i].object == object) return true;
  return false;
}

SEC("uprobe.multi")
int tls_end(struct pt_regs* ctx) {
  struct caller caller;
  fill_caller(&caller);
  struct tls_key key = {.pointer = PT_REGS_PARM1(ctx), .tgid = caller.process.tgid};
  __u64 site = bpf_get_attach_cookie(ctx);
  __u32 kind = call_of(site);
  // OpenSSL clears a fresh object itself when a handshake begins (state_machine() in ssl/statem/statem.c).
  if (kind == WIRE_CALL_CLEAR && is_inside_call_on(key.pointer)) return 0;
  if (!find_object(&key, &caller)) {
    struct hello_random random = {};
    if (read_random(&random, key.pointer, site))
      meet_unused(&key, &caller, socket_of_hello(&random, &caller, 0, read_role(key.pointer, site)));
  }
  end_object(&key, &caller, site, kind != WIRE_CALL_SHUTDOWN);
  return 0;
}

SEC("uprobe.multi")
int self_test(struct pt_regs* ctx) {
  COUNT(self_test_hits, 1);
  return 0;
}
