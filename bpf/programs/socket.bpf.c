// SPDX-License-Identifier: GPL-2.0-only
// What passes through sockets, in the process that sends and receives: it names the socket of a TLS object,
// it shows a ClientHello, and cleartext HTTP is read here.
#include "ciphertext.h"
#include "descriptors.h"
#include "filters.h"
#include "memory.h"
#include "old_sockets.h"
#include "plaintext.h"
#include "tls_objects.h"

// ---- the call that uses the socket

// The innermost call on the stack that made this system call: frames of other stacks, and those that a
// longjmp left, are not above it or farther away.
static __always_inline struct tls_call* innermost_call(struct tls_thread* open, __u64 stack) {
  int innermost = -1;
  __u64 nearest = ~0ull;
  for (int i = 0; i < NESTED_CALLS; i++) {
    __u64 at = open->stacks[i];
    if (at >= stack && at < nearest) {
      nearest = at;
      innermost = i;
    }
  }
  return innermost < 0 ? 0 : &open->calls[innermost & (NESTED_CALLS - 1)];
}

static __always_inline struct tls_call* call_of_goroutine(struct pt_regs* regs, __u32 tgid) {
  struct goroutine goroutine = {.pointer = regs->r14, .tgid = tgid};
  struct tls_thread* open = bpf_map_lookup_elem(&goroutines, &goroutine);
  if (!open) return 0;
  __u64 depth = goroutine_depth(goroutine.pointer, regs->sp);
  return depth ? innermost_call(open, ~depth) : 0;
}

// The current thread's registers as it made the system call.
static __always_inline struct pt_regs* registers(void) {
  return (struct pt_regs*)bpf_task_pt_regs(bpf_get_current_task_btf());
}

static __always_inline struct tls_call* open_call(void) {
  struct tls_thread* open = find_thread();
  struct tls_call* call = open && has_calls(open) ? innermost_call(open, registers()->sp) : 0;
  return call || !go_seen ? call : call_of_goroutine(registers(), bpf_get_current_pid_tgid() >> 32);
}

// ---- sockets and objects that are older than the programs

#define KERNEL_THREAD 0x00200000  // PF_KTHREAD, include/linux/sched.h

// A connection's. What was received can be read after its end, which has been told then.
static __always_inline bool is_open(const struct sock* sk) {
  int state = BPF_CORE_READ(sk, __sk_common.skc_state);
  bool by_process = !(BPF_CORE_READ(bpf_get_current_task_btf(), flags) & KERNEL_THREAD);
  return state != TCP_CLOSE && state != TCP_LISTEN && by_process;
}

// A socket without an entry that the current process uses: it was evicted, or is older than the programs and
// the iterator of sockets didn't enter it.
static __noinline struct connection* meet_old_socket(struct sock* sk, __u64 cookie) {
  if (!is_open(sk)) return 0;
  struct connection* known =
      enter_old_socket(sk, cookie, (struct task_struct*)bpf_get_current_task(), process_filtered());
  if (known && (known->flags & CONNECTION_UNTOLD)) tell_opened(known);
  return known;
}

// The first use of an accepted socket, which names the process that serves it. Where it was accepted, nobody
// was there: the handshake ends in whatever runs then.
static __noinline int meet_accepted(struct connection* connection) {
  if (!connection) return 0;
  struct task_struct* task = (struct task_struct*)bpf_get_current_task();
  fill_process_key(&connection->owner.process, task);
  connection->owner.cgroup_id = BPF_CORE_READ(task, cgroups, dfl_cgrp, kn, id);
  connection->owner.uid = BPF_CORE_READ(task, cred, uid.val);
  if (is_own_process(connection->owner.process.tgid)) {
    connection->flags |= CONNECTION_OURS;
  } else if (process_filtered() || port_filtered(connection->tuple.peer_port)) {
    connection->flags |= CONNECTION_FILTERED;
    COUNT(filtered_connections, 1);
  } else if (!(__sync_fetch_and_or(&connection->flags, CONNECTION_OPEN) & CONNECTION_OPEN)) {
    tell_opened(connection);
  }
  return 0;
}

static __always_inline bool is_new_ingress(const struct connection* connection) {
  __u32 met = CONNECTION_OPEN | CONNECTION_OURS | CONNECTION_FILTERED;
  return ingress_wanted && (connection->flags & (CONNECTION_ACCEPTED | met)) == CONNECTION_ACCEPTED;
}

// As long as the engine keeps what an object without a socket said (attribution/object_linker.cc).
#define CIPHERTEXT_WAIT_NS 10000000000ull
static __always_inline bool ciphertext_awaited(void) {
  return ciphertext_boot_ns && bpf_ktime_get_boot_ns() - ciphertext_boot_ns < CIPHERTEXT_WAIT_NS;
}

// What this socket sends may be what an object has made.
__noinline int link_by_ciphertext(struct connection* connection, const struct memory* memory) {
  if (!connection || !memory) return 0;
  struct ciphertext start = {};
  __u64 together = 0;
  __u64 address = first_piece(memory, &together);
  if (!address || together < CIPHERTEXT_BYTES || !read_record_start(&start, address)) return 0;
  struct ciphertext_maker* maker = bpf_map_lookup_elem(&ciphertexts, &start);
  if (!maker) return 0;
  // A relay may send the same bytes again.
  if (maker->object.tgid != bpf_get_current_pid_tgid() >> 32) return 0;
  struct tls_object* object = bpf_map_lookup_elem(&tls_objects, &maker->object);
  if (object && object->generation == maker->generation && !object->cookie) {
    object->cookie = connection->owner.cookie;
    if (connection->flags & CONNECTION_ACCEPTED) object->flags |= OBJECT_ACCEPTED;
    if (connection->flags & CONNECTION_FILTERED) object->flags |= OBJECT_FILTERED;
    note_object(connection, object);
  }
  bpf_map_delete_elem(&ciphertexts, &start);
  return 0;
}

static __always_inline void call_uses(struct tls_call* call, __u64 cookie) {
  if (cookie == call->linked_cookie)
    call->used_linked = 1;
  else if (!call->other_cookie)
    call->other_cookie = cookie;
}

// ---- what Go writes

#define APPLICATION_DATA 23  // a record's type (RFC 8446, 5.1)
#define RECORD_OVERHEAD 21   // at least: a header of 5 bytes, a tag of 16

// Go's Write is over for us when all its records have left. Its goroutine may come to run again only after
// others have read the answer, or never: the program may end then.
__noinline int note_record_sent(struct tls_call* call, const struct memory* memory, __u64 length) {
  if (!call || !memory || call->said || !call->buffer) return 0;
  __u64 together = 0;
  __u64 address = first_piece(memory, &together);
  __u8 type = 0;
  // The handshake may be made by the first Write.
  if (!address || bpf_probe_read_user(&type, 1, (void*)address) || type != APPLICATION_DATA) return 0;
  call->records++;
  call->ciphertext += length;
  if (call->ciphertext < call->length + call->records * RECORD_OVERHEAD) return 0;
  struct tls_call copy = *call;
  call->said = 1;
  struct caller caller;
  fill_caller(&caller);
  struct tls_key key = {.pointer = copy.object, .tgid = caller.process.tgid};
  finish_call(&key, &caller, &copy, copy.length, false);
  return 0;
}

// ---- cleartext

struct pieces {
  struct payload payload;  // of the piece at hand
  __u64 vectors;
  __u64 count;
  __u64 next;
  __u64 left;  // of all pieces
};

// One chunk of the piece at hand, or else the next piece.
static long tell_step(__u64 index, void* context) {
  struct pieces* pieces = context;
  if (pieces->payload.left) {
    __u64 before = pieces->payload.left;
    tell_next(&pieces->payload, false);
    pieces->left -= before - pieces->payload.left;
    return pieces->left == 0;
  }
  struct iovec vector = {};
  if (pieces->next >= pieces->count ||
      bpf_probe_read_user(&vector, sizeof(vector), (void*)(pieces->vectors + pieces->next * sizeof(vector))))
    return 1;
  pieces->next++;
  pieces->payload.address = (__u64)vector.iov_base;
  pieces->payload.left = vector.iov_len < pieces->left ? vector.iov_len : pieces->left;
  return 0;
}

static __always_inline void fill_cleartext(struct payload* payload, const struct connection* connection) {
  fill_process_key(&payload->object.process, (struct task_struct*)bpf_get_current_task());
  payload->object.library = WIRE_LIBRARY_NONE;
  payload->cookie = connection->owner.cookie;
}

// What a process took from the socket without a receiving call: splice(), a mapping of the received pages.
static __always_inline __u64 taken_unseen(const struct connection* connection, const struct sock* sk,
                                          __u64 length, __u32 direction) {
  __u32 uncertain = CONNECTION_OLD | CONNECTION_MULTIPATH | CONNECTION_READERS;
  if (direction == WIRE_SENT || (connection->flags & uncertain)) return 0;
  __u64 known = connection->plaintext_received + length;
  __u64 taken = bytes_taken(sk);
  return taken > known ? taken - known : 0;
}

// These two are functions of their own for the verifier: it looks at each once. `unseen`: of what was
// received before.
__noinline int tell_cleartext(struct connection* connection, const struct memory* memory, __u64 length,
                              __u32 direction, __u64 unseen) {
  if (!connection || !memory) return 0;
  bool sent = direction == WIRE_SENT;
  struct pieces pieces = {.vectors = memory->vectors, .count = memory->count, .left = length};
  struct payload* payload = &pieces.payload;
  fill_cleartext(payload, connection);
  payload->direction = direction;
  payload->kind = WIRE_TLS_BYTES;
  if (unseen) {
    payload->offset = connection->plaintext_received;
    tell_gap(payload, unseen, WIRE_GAP_UNADDRESSED);
    count_plaintext(connection, false, unseen);
  }
  payload->offset = sent ? connection->plaintext_sent : connection->plaintext_received;
  if (!memory->vectors && memory->address) {
    payload->address = memory->address;
    payload->left = length;
  }
  count_plaintext(connection, sent, length);
  tell_losses(payload, &connection->lost);
  bpf_loop(PAYLOAD_CHUNKS + MOST_VECTORS, tell_step, &pieces, 0);
  note_losses(payload, &connection->lost);
  // A vector that can't be read, or none at all.
  if (pieces.left)
    tell_gap(payload, pieces.left,
             memory->vectors || memory->address ? WIRE_GAP_UNREADABLE : WIRE_GAP_UNADDRESSED);
  return 0;
}

// ---- how a connection begins

#define HELLO_PREFIX 43  // record and handshake headers, version, random (RFC 8446, 4.1.2 and 5.1)
#define RANDOM_AT 11     // of it
#define BEGINNINGS 16    // sends that are looked at: a TLS session may follow some lines of cleartext
// Of a connection that is older than the programs, whose next request may be some uploads away.
#define OLD_BEGINNINGS (1u << 16)

// A request's method and the space after it; HTTP/2's preface begins alike (RFC 9110, 9.1; RFC 9113, 3.4).
static __always_inline bool begins_request(const __u8* text) {
  for (int i = 0; i < 12; i++) {
    if (text[i] == ' ') return i >= 3;
    if (text[i] < 'A' || text[i] > 'Z') return false;
  }
  return false;
}

// Nothing but the beginning of a method: the rest may follow.
static __always_inline bool may_begin_request(const __u8* text, __u64 length) {
  for (__u64 i = 0; i < 12; i++) {
    if (i == length) return i > 0;
    if (text[i] < 'A' || text[i] > 'Z') return false;
  }
  return false;
}

// HTTP/2 joined in its middle: what a client's writes begin with (RFC 9113, 6).
static __always_inline bool begins_frame(const __u8* text) {
  __u32 length = text[0] << 16 | text[1] << 8 | text[2];
  __u8 type = text[3], flags = text[4];
  bool connection_frame = !(text[5] | text[6] | text[7] | text[8]);
  switch (type) {
    case 1:  // HEADERS
      return length && length <= 16384 && !(flags & ~0x2d) && !(text[5] & 0x80) && (text[8] & 1);
    case 4:  // SETTINGS, acknowledged
      return !length && flags == 1 && connection_frame;
    case 6:  // PING
      return length == 8 && flags <= 1 && connection_frame;
    case 8:  // WINDOW_UPDATE
      return length == 4 && !flags && !(text[5] & 0x80);
  }
  return false;
}

static __always_inline bool begins_client_hello(const __u8* text) {
  return text[0] == 22 && text[1] == 3 && text[5] == 1 && text[9] == 3;
}

static __always_inline void note_passage(struct hello_passages* passages, __u64 cookie) {
  for (int i = 0; i < HELLO_SOCKETS; i++) {
    __u64 known = __sync_val_compare_and_swap(&passages->cookies[i], 0, cookie);
    if (!known) passages->tgids[i] = bpf_get_current_pid_tgid() >> 32;
    if (!known || known == cookie) return;
  }
}

// Both ends may be here at the same time.
static __always_inline void note_hello(struct connection* connection, const __u8* text, __u32 direction) {
  struct hello_random random;
  __builtin_memcpy(&random, text + RANDOM_AT, sizeof(random));
  struct hello_sockets none = {};
  bpf_map_update_elem(&hellos, &random, &none, BPF_NOEXIST);
  struct hello_sockets* hello = bpf_map_lookup_elem(&hellos, &random);
  if (hello) note_passage(direction == WIRE_SENT ? &hello->sent : &hello->received, connection->owner.cookie);
  connection->flags |= CONNECTION_HELLO;
  connection->flags &= ~CONNECTION_CLEARTEXT;
  connection->beginnings = BEGINNINGS;
}

static __always_inline void tell_hello(struct connection* connection, __u64 address, __u64 length) {
  struct payload payload = {
      .address = address,
      .left = length < WIRE_HELLO_BYTES ? length : WIRE_HELLO_BYTES,
      .kind = WIRE_CLIENT_HELLO,
  };
  fill_cleartext(&payload, connection);
  if (copy_chunk(&payload, payload.left) == DROPPED) COUNT(ring_full_records, 1);
}

static __always_inline bool may_be_cleartext(const struct connection* connection) {
  return cleartext_wanted && !(connection->flags & CONNECTION_FILTERED);
}

// A connection's first send, or any of one that is older than the programs.
static __always_inline bool begins_http(const struct connection* connection, const __u8* text, __u64 length) {
  if (connection->flags & CONNECTION_OLD) return begins_request(text) || begins_frame(text);
  if (connection->beginnings != 1) return false;
  bool empty_line = text[0] == '\r' && text[1] == '\n';  // RFC 9112, 2.2
  return begins_request(empty_line ? text + 2 : text) || may_begin_request(text, length);
}

// The side that speaks first, the client, decides what the connection is.
__noinline int look_at_beginning(struct connection* connection, const struct memory* memory,
                                 __u32 direction) {
  if (!connection || !memory) return 0;
  __u8 text[48] = {};
  __u64 together = 0;
  __u64 address = first_piece(memory, &together);
  __u64 wanted = together < HELLO_PREFIX ? together : HELLO_PREFIX;
  connection->beginnings++;
  if (!address || !wanted || bpf_probe_read_user(text, wanted & 63, (void*)address)) return 0;
  if (wanted == HELLO_PREFIX && begins_client_hello(text)) {
    note_hello(connection, text, direction);
    if (connection->flags & CONNECTION_OPEN) tell_hello(connection, address, together);
  } else if (may_be_cleartext(connection) && begins_http(connection, text, wanted)) {
    if (!(connection->flags & CONNECTION_CLEARTEXT)) connection->beginnings = 1;
    connection->flags |= CONNECTION_CLEARTEXT;
  }
  return 0;
}

static __always_inline bool is_undecided(const struct connection* connection) {
  __u32 flags = connection->flags;
  if (!(flags & CONNECTION_OLD) || (flags & CONNECTION_CLEARTEXT)) return connection->beginnings < BEGINNINGS;
  return !(flags & (CONNECTION_HELLO | CONNECTION_LINKED)) && connection->beginnings < OLD_BEGINNINGS;
}

// ---- the events

// Where several receive, one has taken its bytes from the socket before another is told of its own.
static __always_inline void note_reader(struct connection* connection) {
  __u64 thread = bpf_get_current_pid_tgid();
  if (!connection->reader)
    connection->reader = thread;
  else if (connection->reader != thread)
    connection->flags |= CONNECTION_READERS;
}

// `copied`: into memory, or from it.
static __always_inline int socket_used(struct sock* sk, __u64 cookie, int length, __u32 direction,
                                       bool copied, bool multipath) {
  struct tls_call* call = open_call();
  struct connection* connection = bpf_map_lookup_elem(&connections, &cookie);
  bool awaited = !call && direction == WIRE_SENT && length >= CIPHERTEXT_BYTES && ciphertext_awaited();
  if (!connection) connection = meet_old_socket(sk, cookie);
  if (call) call_uses(call, cookie);
  if (!connection || length <= 0) return 0;
  if (is_new_ingress(connection)) meet_accepted(connection);
  if (call && direction == WIRE_SENT && call_of(call->site) == WIRE_CALL_GO_WRITE) {
    struct memory record = {};
    if (find_memory(registers(), &record)) note_record_sent(call, &record, length);
  }
  __u32 flags = connection->flags;
  if (flags & CONNECTION_OURS) return 0;
  bool by_client = (direction == WIRE_SENT) == !(flags & CONNECTION_ACCEPTED);
  bool wanted = !(flags & CONNECTION_ACCEPTED) || ingress_wanted;
  // Whose server speaks first is no client of HTTP: what it sends then is not the beginning.
  if (wanted && !by_client && !connection->beginnings && !(flags & CONNECTION_OLD)) connection->beginnings = 1;
  bool undecided = wanted && by_client && is_undecided(connection);
  bool cleartext = wanted && (flags & CONNECTION_CLEARTEXT);
  if (flags & (CONNECTION_LINKED | CONNECTION_CLEARTEXT)) awaited = false;
  if (!undecided && !cleartext && !awaited) return 0;
  if (multipath) connection->flags |= CONNECTION_MULTIPATH;
  if (direction == WIRE_RECEIVED) note_reader(connection);

  struct memory memory = {};
  bool found = copied && find_memory(registers(), &memory);
  if (awaited && found) link_by_ciphertext(connection, &memory);
  if (undecided && found) look_at_beginning(connection, &memory, direction);
  if (wanted && (connection->flags & CONNECTION_CLEARTEXT))
    tell_cleartext(connection, &memory, length, direction, taken_unseen(connection, sk, length, direction));
  return 0;
}

#define MPTCP 262  // IPPROTO_MPTCP

// Of a socket of Multipath TCP, the one that connected.
static __always_inline struct sock* first_subflow(struct sock* sk) {
  if (sk->sk_protocol != MPTCP || !bpf_core_type_exists(struct mptcp_sock)) return 0;
  return BPF_CORE_READ((struct mptcp_sock*)sk, first);
}

static __always_inline int used(struct sock* sk, int length, __u32 direction, bool copied) {
  if (sk->sk_protocol == IPPROTO_TCP) {
    __u64 cookie = sk->__sk_common.skc_cookie.counter;  // 0: nobody has asked for it yet
    if (!cookie) cookie = bpf_get_socket_cookie(sk);
    return socket_used(sk, cookie, length, direction, copied, false);
  }
  struct sock* first = first_subflow(sk);
  __u64 cookie = first ? BPF_CORE_READ(first, __sk_common.skc_cookie.counter) : 0;
  return cookie ? socket_used(first, cookie, length, direction, copied, true) : 0;
}

SEC("tp_btf/sock_send_length")
int BPF_PROG(socket_sent, struct sock* sk, int length) {
  return used(sk, length, WIRE_SENT, true);
}

// include/linux/socket.h
#define PEEK 2          // MSG_PEEK
#define TRUNCATE 0x20u  // MSG_TRUNC: what is received goes nowhere

SEC("tp_btf/sock_recv_length")
int BPF_PROG(socket_received, struct sock* sk, int length, int flags) {
  return used(sk, flags & PEEK ? 0 : length, WIRE_RECEIVED, !(flags & TRUNCATE));
}

// Before Linux 6.3 no tracepoint tells of a socket's sends and receives: the system calls that a TLS
// library's socket BIO makes name its descriptor. How much they move is not known yet, so cleartext isn't
// read.
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

static __always_inline bool is_send(long number) {
  return number == 1 || number == 20 || number == 44 || number == 46;
}

SEC("tp_btf/sys_enter")
int BPF_PROG(system_call, struct pt_regs* regs, long number) {
  if (!moves_bytes(number)) return 0;
  struct tls_call* call = open_call();
  if (!call && !is_send(number)) return 0;
  struct sock* sk = socket_at(PT_REGS_PARM1_CORE_SYSCALL(regs));
  if (!sk || BPF_CORE_READ(sk, sk_protocol) != IPPROTO_TCP) return 0;
  __u32 family = BPF_CORE_READ(sk, __sk_common.skc_family);
  // The connect hook has made the cookie; a socket that is older than it may have none yet.
  __u64 cookie = BPF_CORE_READ(sk, __sk_common.skc_cookie.counter);
  if (!cookie || (family != AF_INET && family != AF_INET6)) return 0;
  struct connection* connection = bpf_map_lookup_elem(&connections, &cookie);
  bool awaited = !call && ciphertext_awaited();
  if (!connection) connection = meet_old_socket(sk, cookie);
  if (call) call_uses(call, cookie);
  if (connection && is_new_ingress(connection)) meet_accepted(connection);
  struct memory memory = {};
  if (!connection || !is_send(number) || !find_memory(regs, &memory)) return 0;
  if (awaited && !(connection->flags & CONNECTION_LINKED)) link_by_ciphertext(connection, &memory);
  if ((connection->flags & CONNECTION_OPEN) && is_undecided(connection))
    look_at_beginning(connection, &memory, WIRE_SENT);
  return 0;
}
