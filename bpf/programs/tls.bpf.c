// SPDX-License-Identifier: GPL-2.0-only
// Plaintext of TLS libraries: calls are followed from entry to return, bytes are taken at the return, as many
// as the library says. The socket of a TLS object is the one that the same thread uses inside a call on that
// object.
#include "connection_facts.h"

#define PAGE_BYTES 4096
#define PAYLOAD_CHUNKS (1u << 17)  // of 16 KiB: 2 GiB, more than one call can carry

struct caller {
  struct wire_process_key process;
  __u64 exec_id;
};

static __always_inline void fill_caller(struct caller* caller) {
  struct task_struct* task = (struct task_struct*)bpf_get_current_task();
  fill_process_key(&caller->process, task);
  caller->exec_id = BPF_CORE_READ(task, group_leader, self_exec_id);
}

static __always_inline __u32 call_of(__u32 site) {
  return site & 0xff;
}
static __always_inline __u32 library_of(__u32 site) {
  return (site >> 8) & 0xff;
}

static __always_inline struct tls_object* find_object(const struct tls_key* key,
                                                      const struct caller* caller) {
  struct tls_object* object = bpf_map_lookup_elem(&tls_objects, key);
  if (!object || object->start_boottime_ns != caller->process.start_boottime_ns ||
      object->exec_id != caller->exec_id)
    return 0;
  return object;
}

static __always_inline struct tls_object* make_object(const struct tls_key* key,
                                                      const struct caller* caller) {
  struct tls_object fresh = {
      .start_boottime_ns = caller->process.start_boottime_ns,
      .exec_id = caller->exec_id,
      .generation = __sync_fetch_and_add(&last_generation, 1) + 1,
  };
  if (bpf_map_update_elem(&tls_objects, key, &fresh, BPF_ANY)) COUNT(table_full, 1);
  return bpf_map_lookup_elem(&tls_objects, key);
}

static __always_inline void fill_object(struct wire_tls_object* wire, const struct tls_key* key,
                                        const struct caller* caller, __u32 generation, __u32 site) {
  wire->process = caller->process;
  wire->pointer = key->pointer;
  wire->generation = generation;
  wire->library = library_of(site);
}

static __always_inline bool ingress_wanted(void) {
  struct wire_control* page = control_page();
  return page && page->ingress;
}

// ---- entry

// Too large for the stack.
static const volatile struct tls_thread no_calls = {};

static __always_inline void open_call(struct pt_regs* ctx, const struct tls_object* object, __u32 site) {
  __u64 thread = bpf_get_current_pid_tgid();
  struct tls_thread* open = bpf_map_lookup_elem(&tls_threads, &thread);
  if (!open) {
    bpf_map_update_elem(&tls_threads, &thread, (const void*)&no_calls, BPF_ANY);
    open = bpf_map_lookup_elem(&tls_threads, &thread);
  }
  if (!open) {
    COUNT(calls_lost, 1);
    return;
  }
  __u64 stack = PT_REGS_SP(ctx);
  int index = -1;
  for (int i = 0; i < NESTED_CALLS; i++) {
    __u64 used = open->calls[i].stack;
    if (used == stack || (!used && index < 0)) index = i;
    if (used == stack) break;  // left by a longjmp
  }
  if (index < 0) {
    COUNT(calls_lost, 1);
    return;
  }
  struct tls_call* place = &open->calls[index & (NESTED_CALLS - 1)];
  __u32 kind = call_of(site);
  place->object = PT_REGS_PARM1(ctx);
  place->buffer = PT_REGS_PARM2(ctx);
  // int or size_t: only whether there is a buffer matters.
  place->length = PT_REGS_PARM3(ctx) & 0xffffffff;
  place->count = kind == WIRE_CALL_READ_EX || kind == WIRE_CALL_WRITE_EX ? PT_REGS_PARM4(ctx) : 0;
  place->linked_cookie = object ? object->cookie : 0;
  place->other_cookie = 0;
  place->used_linked = 0;
  place->site = site;
  place->stack = stack;
}

SEC("uprobe.multi")
int tls_enter(struct pt_regs* ctx) {
  struct caller caller;
  fill_caller(&caller);
  if (is_own_process(caller.process.tgid)) return 0;
  struct tls_key key = {.pointer = PT_REGS_PARM1(ctx), .tgid = caller.process.tgid};
  struct tls_object* object = find_object(&key, &caller);
  if (object && (object->flags & OBJECT_ACCEPTED) && !ingress_wanted()) return 0;
  open_call(ctx, object, bpf_get_attach_cookie(ctx));
  return 0;
}

// ---- the socket used inside a call

// The innermost call on the stack that made this system call: frames of other stacks, and those that a
// longjmp left, are not above it or farther away.
static __always_inline struct tls_call* innermost_call(struct tls_thread* open) {
  struct pt_regs* regs = (struct pt_regs*)bpf_task_pt_regs(bpf_get_current_task_btf());
  __u64 stack = PT_REGS_SP(regs);
  int innermost = -1;
  __u64 nearest = ~0ull;
  for (int i = 0; i < NESTED_CALLS; i++) {
    __u64 at = open->calls[i].stack;
    if (at >= stack && at < nearest) {
      nearest = at;
      innermost = i;
    }
  }
  return innermost < 0 ? 0 : &open->calls[innermost & (NESTED_CALLS - 1)];
}

#define BOUND_TO_PORT 8  // SOCK_BINDPORT_LOCK, include/net/sock.h

// connect() never shares the bucket of a port with bind() (__inet_hash_connect() in
// net/ipv4/inet_hashtables.c marks its own with -1), and an accepted socket has its listener's bucket without
// having been bound itself.
static __always_inline bool was_accepted(struct sock* sk) {
  struct inet_bind_bucket* bucket = BPF_CORE_READ((struct inet_connection_sock*)sk, icsk_bind_hash);
  return bucket && BPF_CORE_READ(bucket, fastreuse) >= 0 &&
         !(BPF_CORE_READ_BITFIELD_PROBED(sk, sk_userlocks) & BOUND_TO_PORT);
}

// A socket without an entry is older than the programs (or was evicted).
static __always_inline void meet_old_socket(struct sock* sk, __u64 cookie) {
  struct connection connection = {};
  connection.owner.cookie = cookie;
  fill_tuple(&connection.tuple, sk);
  connection.owner.netns_cookie = connection.tuple.netns_cookie;
  struct task_struct* task = (struct task_struct*)bpf_get_current_task();
  fill_process_key(&connection.owner.process, task);
  connection.owner.cgroup_id = BPF_CORE_READ(task, cgroups, dfl_cgrp, kn, id);
  connection.opened_boot_ns = bpf_ktime_get_boot_ns();
  bool accepted = was_accepted(sk);
  connection.flags = accepted ? CONNECTION_ACCEPTED : CONNECTION_OPEN | CONNECTION_OLD;
  if (bpf_map_update_elem(&connections, &cookie, &connection, BPF_NOEXIST) || accepted) return;
  bpf_map_update_elem(&tuples, &connection.tuple, &connection.owner, BPF_ANY);
  struct connection* known = bpf_map_lookup_elem(&connections, &cookie);
  if (known) tell_opened(known);
}

static __always_inline struct tls_call* open_call_of_thread(void) {
  __u64 thread = bpf_get_current_pid_tgid();
  struct tls_thread* open = bpf_map_lookup_elem(&tls_threads, &thread);
  return open ? innermost_call(open) : 0;
}

static __always_inline void call_uses(struct tls_call* call, struct sock* sk, __u64 cookie) {
  if (cookie == call->linked_cookie) {
    call->used_linked = 1;
  } else if (!call->other_cookie) {
    call->other_cookie = cookie;
    if (!bpf_map_lookup_elem(&connections, &cookie)) meet_old_socket(sk, cookie);
  }
}

static __always_inline int socket_used(struct sock* sk) {
  struct tls_call* call = open_call_of_thread();
  if (call && sk->sk_protocol == IPPROTO_TCP) call_uses(call, sk, bpf_get_socket_cookie(sk));
  return 0;
}

SEC("tp_btf/sock_send_length")
int BPF_PROG(socket_sent, struct sock* sk) {
  return socket_used(sk);
}

SEC("tp_btf/sock_recv_length")
int BPF_PROG(socket_received, struct sock* sk) {
  return socket_used(sk);
}

// Before Linux 6.3 no tracepoint tells of a socket's sends and receives: the system calls that a TLS
// library's socket BIO makes name its descriptor. Numbers: arch/x86/entry/syscalls/syscall_64.tbl.
static __always_inline bool moves_bytes(long number) {
  switch (number) {
    case 0:   // read
    case 1:   // write
    case 19:  // readv
    case 20:  // writev
    case 44:  // sendto
    case 45:  // recvfrom
    case 46:  // sendmsg
    case 47:  // recvmsg
      return true;
  }
  return false;
}

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

SEC("tp_btf/sys_enter")
int BPF_PROG(system_call, struct pt_regs* regs, long number) {
  if (!moves_bytes(number)) return 0;
  struct tls_call* call = open_call_of_thread();
  if (!call) return 0;
  struct sock* sk = socket_at(PT_REGS_PARM1_CORE_SYSCALL(regs));
  if (!sk || BPF_CORE_READ(sk, sk_protocol) != IPPROTO_TCP) return 0;
  __u32 family = BPF_CORE_READ(sk, __sk_common.skc_family);
  // The connect hook has made the cookie; a socket that is older than it may have none yet.
  __u64 cookie = BPF_CORE_READ(sk, __sk_common.skc_cookie.counter);
  if (cookie && (family == AF_INET || family == AF_INET6)) call_uses(call, sk, cookie);
  return 0;
}

// ---- return

static __always_inline bool take_call(struct pt_regs* ctx, struct tls_call* taken) {
  __u64 thread = bpf_get_current_pid_tgid();
  struct tls_thread* open = bpf_map_lookup_elem(&tls_threads, &thread);
  if (!open) return false;
  __u64 stack = PT_REGS_SP(ctx);  // at `ret` as at the entry: the return address is on top
  bool found = false, others = false;
  for (int i = 0; i < NESTED_CALLS; i++) {
    struct tls_call* call = &open->calls[i];
    if (call->stack == stack) {
      *taken = *call;
      call->stack = 0;
      found = true;
    } else if (call->stack) {
      others = true;
    }
  }
  if (!others) bpf_map_delete_elem(&tls_threads, &thread);
  return found;
}

static __always_inline struct tls_object* link_socket(struct tls_object* object, const struct tls_key* key,
                                                      const struct caller* caller,
                                                      const struct tls_call* call) {
  if (!call->other_cookie) return object;
  if (object && object->cookie && (call->used_linked || object->cookie == call->other_cookie)) return object;
  if (!object || object->cookie) object = make_object(key, caller);
  if (!object) return 0;
  object->cookie = call->other_cookie;
  struct connection* connection = bpf_map_lookup_elem(&connections, &object->cookie);
  if (connection && (connection->flags & CONNECTION_ACCEPTED)) object->flags |= OBJECT_ACCEPTED;
  return object;
}

static __always_inline __u64 committed_bytes(const struct tls_call* call, long result) {
  if (result <= 0) return 0;
  if (!call->count) return result;
  __u64 count = 0;
  if (result != 1 || bpf_copy_from_user(&count, sizeof(count), (void*)call->count)) return 0;
  return count;
}

static __always_inline void tell_handshake(const struct tls_key* key, const struct caller* caller,
                                           struct tls_object* object, __u32 site) {
  struct wire_handshake* record = RESERVE(wire_handshake, WIRE_TLS_HANDSHAKE, ring_full_records);
  if (!record) return;
  object->flags |= OBJECT_HANDSHAKE_TOLD;
  fill_object(&record->object, key, caller, object->generation, site);
  record->cookie = object->cookie;
  record->sni_bytes = 0;
  record->version = 0;
  record->padding = 0;
  struct server_name* name = bpf_map_lookup_elem(&server_names, key);
  if (name) {
    long length = bpf_probe_read_kernel_str(record->sni, WIRE_SNI_BYTES, name->text);
    record->sni_bytes = length > 0 ? length - 1 : 0;
  }
  // OpenSSL before 3.2 keeps the protocol's version first in the object (struct ssl_st, ssl/ssl_local.h);
  // later ones keep a small type number there, which is no version.
  __u32 first = 0;
  if (!bpf_probe_read_user(&first, sizeof(first), (void*)key->pointer) && first >= 0x0301 && first <= 0x0304)
    record->version = first;
  bpf_ringbuf_submit(record, 0);
  if (name) bpf_map_delete_elem(&server_names, key);
}

struct payload {
  const struct tls_key* key;
  const struct caller* caller;
  __u64 cookie;
  __u64 offset;
  __u64 address;
  __u64 left;
  __u32 generation;
  __u32 site;
  __u32 direction;
};

static __always_inline void count_dropped(__u64 bytes) {
  COUNT(ring_full_records, 1);
  COUNT(ring_full_bytes, bytes);
}

static __always_inline void tell_gap(const struct payload* payload, __u32 length) {
  COUNT(faults, 1);
  struct wire_gap* record = RESERVE(wire_gap, WIRE_TLS_GAP, ring_full_records);
  if (!record) return;
  fill_object(&record->object, payload->key, payload->caller, payload->generation, payload->site);
  record->cookie = payload->cookie;
  record->offset = payload->offset;
  record->length = length;
  record->direction = payload->direction;
  record->padding = 0;
  bpf_ringbuf_submit(record, 0);
}

enum copied { COPIED, FAULTED };

// The ring's reservations have constant sizes: a chunk goes into the smallest that holds it. User memory is
// read without faulting, because a fault while holding a reservation would stop the ring for everyone.
#define COPY_INTO(room)                                                                                \
  do {                                                                                                 \
    struct wire_bytes* record = bpf_ringbuf_reserve(&ring, sizeof(struct wire_bytes) + (room), 0);     \
    if (!record) {                                                                                     \
      count_dropped(length);                                                                           \
      return COPIED;                                                                                   \
    }                                                                                                  \
    if (bpf_probe_read_user(record + 1, length > (room) ? (room) : length, (void*)payload->address)) { \
      bpf_ringbuf_discard(record, BPF_RB_NO_WAKEUP);                                                   \
      return FAULTED;                                                                                  \
    }                                                                                                  \
    fill_header(&record->header, WIRE_TLS_BYTES, sizeof(*record) + length);                            \
    fill_object(&record->object, payload->key, payload->caller, payload->generation, payload->site);   \
    record->cookie = payload->cookie;                                                                  \
    record->offset = payload->offset;                                                                  \
    record->length = length;                                                                           \
    record->direction = payload->direction;                                                            \
    bpf_ringbuf_submit(record, 0);                                                                     \
    return COPIED;                                                                                     \
  } while (0)

static __noinline enum copied copy_chunk(const struct payload* payload, __u32 length) {
  if (!payload) return COPIED;
  if (length <= 128) COPY_INTO(128);
  if (length <= 512) COPY_INTO(512);
  if (length <= 1024) COPY_INTO(1024);
  if (length <= 2048) COPY_INTO(2048);
  if (length <= 4096) COPY_INTO(4096);
  if (length <= 8192) COPY_INTO(8192);
  COPY_INTO(WIRE_CHUNK_BYTES);
}

// Brings pages that were swapped out since the library read them back into memory.
static __always_inline void fault_in(__u64 address, __u32 length) {
  char byte;
  for (int page = 0; page <= WIRE_CHUNK_BYTES / PAGE_BYTES; page++) {
    __u64 at = (address & ~(__u64)(PAGE_BYTES - 1)) + page * PAGE_BYTES;
    if (at < address + length) bpf_copy_from_user(&byte, 1, (void*)at);
  }
}

static long tell_chunk(__u64 index, void* context) {
  struct payload* payload = context;
  __u32 length = payload->left > WIRE_CHUNK_BYTES ? WIRE_CHUNK_BYTES : payload->left;
  if (bpf_ringbuf_query(&ring, BPF_RB_AVAIL_DATA) > payload_limit) {
    count_dropped(length);
  } else if (copy_chunk(payload, length) == FAULTED) {
    fault_in(payload->address, length);
    if (copy_chunk(payload, length) == FAULTED) tell_gap(payload, length);
  }
  payload->address += length;
  payload->offset += length;
  payload->left -= length;
  return payload->left == 0;
}

static __always_inline void tell_ended(const struct tls_key* key, const struct caller* caller,
                                       struct tls_object* object, __u32 site, __u32 direction) {
  __u32 flag = direction == WIRE_SENT ? OBJECT_SENT_ENDED : OBJECT_RECEIVED_ENDED;
  if (object->flags & (flag | OBJECT_ACCEPTED)) return;
  object->flags |= flag;
  struct wire_ended* record = RESERVE(wire_ended, WIRE_TLS_ENDED, ring_full_records);
  if (!record) return;
  fill_object(&record->object, key, caller, object->generation, site);
  record->cookie = object->cookie;
  record->offset = direction == WIRE_SENT ? object->sent : object->received;
  record->direction = direction;
  record->padding = 0;
  bpf_ringbuf_submit(record, 0);
}

static __always_inline void count_plaintext(__u64 cookie, bool sent, __u64 bytes) {
  struct connection* connection = cookie ? bpf_map_lookup_elem(&connections, &cookie) : 0;
  if (!connection) return;
  if (connection->flags & CONNECTION_UNTOLD) tell_opened(connection);
  connection->flags |= CONNECTION_TLS;
  __sync_fetch_and_add(sent ? &connection->plaintext_sent : &connection->plaintext_received, bytes);
}

static __always_inline void tell_payload(const struct tls_key* key, const struct caller* caller,
                                         struct tls_object* object, const struct tls_call* call, bool sent,
                                         __u64 bytes) {
  __u64* total = sent ? &object->sent : &object->received;
  struct payload payload = {
      .key = key,
      .caller = caller,
      .cookie = object->cookie,
      .offset = *total,
      .address = call->buffer,
      .left = bytes,
      .generation = object->generation,
      .site = call->site,
      .direction = sent ? WIRE_SENT : WIRE_RECEIVED,
  };
  *total += bytes;
  bpf_loop(PAYLOAD_CHUNKS, tell_chunk, &payload, 0);
}

// Stands on the function's `ret` instructions. A uretprobe would not do: the kernel kills a thread whose
// return addresses come back in another order than its stack's, as they do when fibers switch inside a call.
SEC("uprobe.multi.s")
int tls_return(struct pt_regs* ctx) {
  struct tls_call call = {};
  if (!take_call(ctx, &call)) return 0;
  struct caller caller;
  fill_caller(&caller);
  struct tls_key key = {.pointer = call.object, .tgid = caller.process.tgid};
  struct tls_object* object = link_socket(find_object(&key, &caller), &key, &caller, &call);

  long result = (int)PT_REGS_RC(ctx);
  __u32 kind = call_of(call.site);
  __u64 bytes = committed_bytes(&call, result);
  if (!object && bytes) object = make_object(&key, &caller);
  if (!object || ((object->flags & OBJECT_ACCEPTED) && !ingress_wanted())) return 0;

  if (bytes) {
    bool sent = kind == WIRE_CALL_WRITE || kind == WIRE_CALL_WRITE_EX;
    count_plaintext(object->cookie, sent, bytes);
    if (!(object->flags & OBJECT_HANDSHAKE_TOLD)) tell_handshake(&key, &caller, object, call.site);
    tell_payload(&key, &caller, object, &call, sent, bytes);
  }
  // A read into no room returns 0 at any time.
  if (kind == WIRE_CALL_READ && result == 0 && call.length)
    tell_ended(&key, &caller, object, call.site, WIRE_RECEIVED);
  return 0;
}

// ---- the object's end, and its name

static __always_inline bool is_inside_call_on(__u64 object) {
  __u64 thread = bpf_get_current_pid_tgid();
  struct tls_thread* open = bpf_map_lookup_elem(&tls_threads, &thread);
  if (!open) return false;
  for (int i = 0; i < NESTED_CALLS; i++)
    if (open->calls[i].stack && open->calls[i].object == object) return true;
  return false;
}

SEC("uprobe.multi")
int tls_end(struct pt_regs* ctx) {
  struct caller caller;
  fill_caller(&caller);
  struct tls_key key = {.pointer = PT_REGS_PARM1(ctx), .tgid = caller.process.tgid};
  __u32 site = bpf_get_attach_cookie(ctx);
  __u32 kind = call_of(site);
  // OpenSSL clears a fresh object itself when a handshake begins (state_machine() in ssl/statem/statem.c).
  if (kind == WIRE_CALL_CLEAR && is_inside_call_on(key.pointer)) return 0;
  if (kind == WIRE_CALL_FREE) bpf_map_delete_elem(&server_names, &key);
  bool gone = kind != WIRE_CALL_SHUTDOWN;
  struct tls_object* object = find_object(&key, &caller);
  if (!object) return 0;
  tell_ended(&key, &caller, object, site, WIRE_SENT);
  if (!gone) return 0;
  tell_ended(&key, &caller, object, site, WIRE_RECEIVED);
  bpf_map_delete_elem(&tls_objects, &key);
  return 0;
}

#define SET_HOST_NAME 55  // SSL_CTRL_SET_TLSEXT_HOSTNAME, openssl/tls1.h and ssl.h

SEC("uprobe.multi")
int tls_name(struct pt_regs* ctx) {
  if ((int)PT_REGS_PARM2(ctx) != SET_HOST_NAME) return 0;
  __u32 tgid = bpf_get_current_pid_tgid() >> 32;
  if (is_own_process(tgid)) return 0;
  struct tls_key key = {.pointer = PT_REGS_PARM1(ctx), .tgid = tgid};
  struct server_name name = {};
  if (bpf_probe_read_user_str(name.text, sizeof(name.text), (void*)PT_REGS_PARM4(ctx)) > 0)
    bpf_map_update_elem(&server_names, &key, &name, BPF_ANY);
  return 0;
}

SEC("uprobe.multi")
int self_test(struct pt_regs* ctx) {
  COUNT(self_test_hits, 1);
  return 0;
}
