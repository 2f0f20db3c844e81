// SPDX-License-Identifier: GPL-2.0-only
// Calls of Go's crypto/tls, since Go 1.17 with arguments in registers: AX, BX, CX..., and the goroutine in
// R14 (Go's internal ABI specification, "amd64 architecture").
#include "descriptors.h"
#include "tls_objects.h"

SEC("uprobe.multi")
int go_enter(struct pt_regs* ctx) {
  struct caller caller;
  fill_caller(&caller);
  if (is_own_process(caller.process.tgid) || process_filtered()) return 0;
  struct tls_key key = {.pointer = ctx->ax, .tgid = caller.process.tgid};
  struct tls_object* object = find_object(&key, &caller);
  if (!object) object = make_object(&key, &caller);
  if (!object || ((object->flags & OBJECT_ACCEPTED) && !ingress_wanted)) return 0;

  go_seen = 1;
  __u64 site = bpf_get_attach_cookie(ctx);
  struct goroutine goroutine = {.pointer = ctx->r14, .tgid = caller.process.tgid};
  __u64 depth = goroutine_depth(goroutine.pointer, frame_of(site, PT_REGS_SP(ctx)));
  if (!depth) {
    COUNT(calls_lost, 1);
    return 0;
  }
  struct tls_thread* open = OPEN_CALLS(goroutines, &goroutine);
  // place_call() looks for an outer call above: its place is the lesser depth.
  struct tls_call* call = open ? place_call(open, key.pointer, site, ~depth) : 0;
  if (!call) return 0;
  call->object = key.pointer;
  call->buffer = ctx->bx;
  call->length = ctx->cx;
  call->count = 0;
  call->linked_cookie = object->cookie;
  call->other_cookie = 0;
  call->used_linked = 0;
  call->peeks = 0;
  call->ciphertext = 0;
  call->records = 0;
  call->said = 0;
  call->site = site;
  if (call_of(site) == WIRE_CALL_GO_READ) object->flags |= OBJECT_READ;
  __sync_fetch_and_add(&object->open_calls, 1);
  return 0;
}

// The last of an ended object's calls is over.
static __always_inline void leave_object(const struct tls_key* key, const struct caller* caller, __u64 site) {
  struct tls_object* object = find_object(key, caller);
  if (!object || !object->open_calls) return;
  __u32 before = __sync_fetch_and_add(&object->open_calls, -1);
  if (before == 1 && (object->flags & OBJECT_CLOSING)) end_object(key, caller, site, true);
}

// A reading goroutine waits in Read for what comes next, so an object's first return may be of a call that
// began before the probes stood: its arguments are where Go's compilers keep them for the function's use, in
// the places that the caller left for them above the return address. Only for an object whose other calls
// have shown that it is one.
static __always_inline bool adopt_read(struct tls_call* call, __u64 stack, const struct caller* caller,
                                       __u64 site, long result) {
  struct {
    __u64 connection;
    __u64 buffer;
    __u64 length;
  } arguments = {};
  if (call_of(site) != WIRE_CALL_GO_READ || result <= 0 ||
      bpf_probe_read_user(&arguments, sizeof(arguments), (void*)(stack + 8)))
    return false;
  struct tls_key key = {.pointer = arguments.connection, .tgid = caller->process.tgid};
  struct tls_object* object = find_object(&key, caller);
  if (!object || (object->flags & OBJECT_READ) || arguments.length < (__u64)result) return false;
  object->flags |= OBJECT_READ;
  call->object = arguments.connection;
  call->buffer = arguments.buffer;
  call->linked_cookie = object->cookie;
  call->site = site;
  return true;
}

// At each `ret`: Go moves its stacks, which a uretprobe's changed return address would not survive.
SEC("uprobe.multi.s")
int go_return(struct pt_regs* ctx) {
  __u32 tgid = bpf_get_current_pid_tgid() >> 32;
  struct goroutine goroutine = {.pointer = ctx->r14, .tgid = tgid};
  struct tls_thread* open = bpf_map_lookup_elem(&goroutines, &goroutine);
  struct tls_call call = {};
  bool others = true, found = false;
  __u64 site = bpf_get_attach_cookie(ctx), stack = frame_of(site, PT_REGS_SP(ctx));
  if (open) found = take_call(open, ~goroutine_depth(goroutine.pointer, stack), &call, &others);
  if (!others) bpf_map_delete_elem(&goroutines, &goroutine);

  struct caller caller;
  fill_caller(&caller);
  long result = ctx->ax;
  bool adopted = !found && go_seen && adopt_read(&call, stack, &caller, site, result);
  if (!found && !adopted) return 0;
  struct tls_key key = {.pointer = call.object, .tgid = tgid};
  finish_call(&key, &caller, &call, result > 0 && !call.said ? result : 0, true);
  if (found) leave_object(&key, &caller, call.site);
  return 0;
}

// The socket under a tls.Conn that nothing wraps: its first member is the interface of a *net.TCPConn, whose
// first is its *netFD, which begins with a lock of 16 bytes and the descriptor (internal/poll/fd_unix.go).
// What isn't a socket of this process that carried a ClientHello is none.
static __always_inline __u64 socket_under(__u64 connection) {
  __u64 tcp = 0, descriptor_holder = 0;
  __s32 descriptor = -1;
  if (bpf_probe_read_user(&tcp, sizeof(tcp), (void*)(connection + 8)) ||
      bpf_probe_read_user(&descriptor_holder, sizeof(descriptor_holder), (void*)tcp) ||
      bpf_probe_read_user(&descriptor, sizeof(descriptor), (void*)(descriptor_holder + 16)) || descriptor < 0)
    return 0;
  struct sock* sk = socket_at(descriptor);
  __u64 cookie = sk ? BPF_CORE_READ(sk, __sk_common.skc_cookie.counter) : 0;
  struct connection* known = cookie ? bpf_map_lookup_elem(&connections, &cookie) : 0;
  return known && (known->flags & CONNECTION_HELLO) ? cookie : 0;
}

SEC("uprobe.multi")
int go_end(struct pt_regs* ctx) {
  struct caller caller;
  fill_caller(&caller);
  struct tls_key key = {.pointer = ctx->ax, .tgid = caller.process.tgid};
  struct tls_object* object = find_object(&key, &caller);
  if (!object) meet_unused(&key, &caller, socket_under(key.pointer));
  if (object && object->open_calls)
    object->flags |= OBJECT_CLOSING;
  else
    end_object(&key, &caller, bpf_get_attach_cookie(ctx), true);
  return 0;
}
