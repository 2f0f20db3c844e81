// SPDX-License-Identifier: GPL-2.0-only
// The maps and variables that the programs share: declared here, defined once in maps.bpf.c.
#ifndef WEIR_BPF_PROGRAMS_MAPS_H
#define WEIR_BPF_PROGRAMS_MAPS_H

#include "vmlinux.h"

#include <bpf/bpf_helpers.h>

#include "bpf/wire.h"

// Ends of what a full ring lost of a stream's two directions, by enum wire_direction; 0: all of it was told.
struct untold_losses {
  __u64 end[2];
};

// What is known of a TCP socket, by its cookie.
struct connection {
  __u32 flags;       // first, where the key is: asked at each event
  __u32 beginnings;  // sends that were looked at for what the connection is
  __u64 plaintext_sent;
  __u64 plaintext_received;
  struct wire_owner owner;
  struct wire_tuple tuple;  // an accepted one: its client's
  __u64 opened_boot_ns;
  struct untold_losses lost;  // of cleartext
  __u64 client_cookie;        // an accepted one: its client's, where that is a socket of this host
  __u64 reader;               // the thread that has received so far
  __u64 sent;                 // of one that is over, but for what its process may still read
  __u64 received;
};
#define CONNECTION_OURS 1u      // weir's own socket: never told
#define CONNECTION_ACCEPTED 2u  // a server's side
#define CONNECTION_OPEN 4u      // "opened" was told
#define CONNECTION_PLAINTEXT 8u
#define CONNECTION_OLD 16u           // there before the programs
#define CONNECTION_UNTOLD 32u        // "opened" met a full ring
#define CONNECTION_CLEARTEXT 64u     // it began like HTTP
#define CONNECTION_HELLO 128u        // its ClientHello was seen
#define CONNECTION_FILTERED 256u     // left out by the configuration: never told
#define CONNECTION_LINKED 512u       // a TLS object is known to speak on it
#define CONNECTION_REDIRECTED 1024u  // to the proxy
#define CONNECTION_UNREAD 2048u    // over, but for what its process may still read: told when the socket goes
#define CONNECTION_FIN_SENT 4096u  // of such a one
#define CONNECTION_MULTIPATH 8192u  // what it takes from the network is not what its process takes
#define CONNECTION_READERS 16384u   // several threads receive

struct tls_key {
  __u64 pointer;
  __u64 tgid;
};

struct tls_object {
  __u64 start_boottime_ns;  // a pid and a pointer can both come again: this and exec_id tell
  __u64 exec_id;
  __u64 cookie;
  __u64 sent;
  __u64 received;
  struct untold_losses lost;
  __u32 generation;
  __u32 flags;
  __u32 open_calls;  // Go: other goroutines' may outlast the end
  __u32 searches;    // for its ciphertext
};
#define OBJECT_ACCEPTED 1u
#define OBJECT_HANDSHAKE_TOLD 2u
#define OBJECT_SENT_ENDED 4u
#define OBJECT_RECEIVED_ENDED 8u
#define OBJECT_CLOSING 16u   // ended, but for the calls that are open
#define OBJECT_FILTERED 32u  // its connection is
#define OBJECT_READ 64u      // Go: a call that reads was seen to begin

// An open call of a TLS function.
struct tls_call {
  __u64 object;
  __u64 buffer;         // 0: what the call moves is in no memory that can be read
  __u64 count;          // address of the size_t result, 0 when the return value is the count
  __u64 linked_cookie;  // the object's socket when the call began
  __u64 other_cookie;   // the first other socket that the call used
  __u64 site;
  __u32 used_linked;
  __u32 peeks;       // the bytes stay where they are, for another call
  __u64 length;      // of the buffer
  __u64 ciphertext;  // Go's Write: of the records that it has sent
  __u32 records;
  __u32 said;  // it was told what the call says
};
#define NESTED_CALLS 8

// A thread's calls can nest and, with fibers, interleave.
struct tls_thread {
  // The stack pointers at their entries, 0 for a free place. Here, since they are looked through at each
  // event: one cache line.
  __u64 stacks[NESTED_CALLS];
  struct tls_call calls[NESTED_CALLS];
};

struct goroutine {
  __u64 pointer;
  __u64 tgid;
};

// A process as the filters judge it: it may become another program, and be moved to another cgroup.
struct judged {
  struct wire_process_key process;
  __u64 exec_id;
  __u64 cgroup_id;
};

// The random bytes of a ClientHello, and the sockets that it passed. The second of a kind is a copy's: who
// relays a TLS session sends and receives its ClientHello, too.
struct hello_random {
  __u64 words[4];
};
#define HELLO_SOCKETS 2
struct hello_passages {
  __u64 cookies[HELLO_SOCKETS];
  __u32 tgids[HELLO_SOCKETS];  // who sent or received it
};
struct hello_sockets {
  struct hello_passages sent;
  struct hello_passages received;  // with ingress
};

// How a TLS record begins that an object has made and its program is yet to send: header, and ciphertext.
#define CIPHERTEXT_BYTES 29  // the shortest record of HTTP/2 has 31
struct ciphertext {
  __u64 words[4];
};
struct ciphertext_maker {
  struct tls_key object;
  __u32 generation;
  __u32 padding;
};

struct ring_map {
  __uint(type, BPF_MAP_TYPE_RINGBUF);
  __uint(max_entries, 4096);
};
struct control_map {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(map_flags, BPF_F_MMAPABLE);
  __uint(max_entries, 1);
  __type(key, __u32);
  __type(value, struct wire_control);
};
struct connections_map {
  __uint(type, BPF_MAP_TYPE_LRU_HASH);
  __uint(max_entries, 1024);
  __type(key, __u64);
  __type(value, struct connection);
};
struct tuples_map {
  __uint(type, BPF_MAP_TYPE_LRU_HASH);
  __uint(max_entries, 1024);
  __type(key, struct wire_tuple);
  __type(value, struct wire_owner);
};
// Takes memory only while it holds something.
struct untold_map {
  __uint(type, BPF_MAP_TYPE_HASH);
  __uint(map_flags, BPF_F_NO_PREALLOC);
  __uint(max_entries, 1024);
  __type(key, struct wire_untold_key);
  __type(value, struct wire_untold);
};
// Where a record of varying length is made before it goes into the ring.
struct exec_scratch_map {
  __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
  __uint(max_entries, 1);
  __type(key, __u32);
  __type(value, struct wire_exec);
};
struct tls_objects_map {
  __uint(type, BPF_MAP_TYPE_LRU_HASH);
  __uint(max_entries, 1024);
  __type(key, struct tls_key);
  __type(value, struct tls_object);
};
// The open calls of threads. Kept with the thread itself where the kernel finds that at all times
// (since 6.2).
struct thread_calls_map {
  __uint(type, BPF_MAP_TYPE_TASK_STORAGE);
  __uint(map_flags, BPF_F_NO_PREALLOC);
  __type(key, int);
  __type(value, struct tls_thread);
};
// Elsewhere here, by thread, and also those of a thread whose own place could not be made: that fails when
// another thread was preempted while it made its own.
struct tls_threads_map {
  __uint(type, BPF_MAP_TYPE_HASH);
  __uint(max_entries, 16384);
  __type(key, __u64);
  __type(value, struct tls_thread);
};
// No event tells that a goroutine has ended.
struct goroutines_map {
  __uint(type, BPF_MAP_TYPE_LRU_HASH);
  __uint(max_entries, 16384);
  __type(key, struct goroutine);
  __type(value, struct tls_thread);
};
struct hellos_map {
  __uint(type, BPF_MAP_TYPE_LRU_HASH);
  __uint(max_entries, 16384);
  __type(key, struct hello_random);
  __type(value, struct hello_sockets);
};
struct filter_rules_map {
  __uint(type, BPF_MAP_TYPE_HASH);
  __uint(map_flags, BPF_F_NO_PREALLOC);
  __uint(max_entries, 1024);
  __type(key, struct wire_filter_key);
  __type(value, __u32);
};
// Whether a process is left out, and whether it is redirected.
struct verdicts_map {
  __uint(type, BPF_MAP_TYPE_LRU_HASH);
  __uint(max_entries, 1024);
  __type(key, struct judged);
  __type(value, __u32);
};
struct ciphertexts_map {
  __uint(type, BPF_MAP_TYPE_LRU_HASH);
  __uint(max_entries, 4096);
  __type(key, struct ciphertext);
  __type(value, struct ciphertext_maker);
};
// Processes whose connections are redirected because somebody asked for it, by thread group id, and what they
// start.
struct marked_processes_map {
  __uint(type, BPF_MAP_TYPE_HASH);
  __uint(map_flags, BPF_F_NO_PREALLOC);
  __uint(max_entries, 16384);
  __type(key, __u32);
  __type(value, __u32);
};
// By the network namespace's cookie.
struct redirect_listeners_map {
  __uint(type, BPF_MAP_TYPE_HASH);
  __uint(map_flags, BPF_F_NO_PREALLOC);
  __uint(max_entries, 256);
  __type(key, __u64);
  __type(value, struct wire_listeners);
};
// Asks the broker for listeners in a network namespace (struct wire_unserved)...
struct unserved_map {
  __uint(type, BPF_MAP_TYPE_RINGBUF);
  __uint(max_entries, 4096);
};
// ...each at most a few times a second: when it was last asked for, by the namespace's cookie.
struct asked_namespaces_map {
  __uint(type, BPF_MAP_TYPE_LRU_HASH);
  __uint(max_entries, 256);
  __type(key, __u64);
  __type(value, __u64);
};
// Not 0: nobody is refused any more for want of an agent. Pinned, and set by `weir release`.
struct released_map {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(max_entries, 1);
  __type(key, __u32);
  __type(value, __u32);
};
// Where a redirected socket connected to: for its process, as long as it lives...
struct true_peers_map {
  __uint(type, BPF_MAP_TYPE_SK_STORAGE);
  __uint(map_flags, BPF_F_NO_PREALLOC);
  __type(key, int);
  __type(value, struct wire_endpoint);
};
// ...and by its cookie, for the proxy, which asks when it accepts.
struct redirections_map {
  __uint(type, BPF_MAP_TYPE_LRU_HASH);
  __uint(max_entries, 16384);
  __type(key, __u64);
  __type(value, struct wire_endpoint);
};

#ifndef WEIR_DEFINE_MAPS
extern struct ring_map ring SEC(".maps");
extern struct control_map control SEC(".maps");
extern struct connections_map connections SEC(".maps");
extern struct tuples_map tuples SEC(".maps");
extern struct untold_map untold SEC(".maps");
extern struct exec_scratch_map exec_scratch SEC(".maps");
extern struct tls_objects_map tls_objects SEC(".maps");
extern struct thread_calls_map thread_calls SEC(".maps");
extern struct tls_threads_map tls_threads SEC(".maps");
extern struct goroutines_map goroutines SEC(".maps");
extern struct hellos_map hellos SEC(".maps");
extern struct filter_rules_map filter_rules SEC(".maps");
extern struct verdicts_map verdicts SEC(".maps");
extern struct ciphertexts_map ciphertexts SEC(".maps");
extern struct marked_processes_map marked_processes SEC(".maps");
extern struct redirect_listeners_map redirect_listeners SEC(".maps");
extern struct unserved_map unserved SEC(".maps");
extern struct asked_namespaces_map asked_namespaces SEC(".maps");
extern struct released_map released SEC(".maps");
extern struct true_peers_map true_peers SEC(".maps");
extern struct redirections_map redirections SEC(".maps");

#define OWN_PROCESSES 8
extern __u32 own_processes[OWN_PROCESSES];
extern __u32 last_generation;
extern __u32 go_seen;
extern __u64 tls_threads_now;
extern __u64 ciphertext_boot_ns;
extern __u64 tell_again_before;
extern __u32 marks_used;
extern const volatile __u64 payload_limit;
extern const volatile __u32 filter_groups;
extern const volatile __u32 only_groups;
extern const volatile __u32 redirect_groups;
extern const volatile __u32 redirect_fails_closed;
extern const volatile __u32 quic_refused;
extern const volatile __u32 policy_steers;
extern const volatile __u32 cleartext_wanted;
extern const volatile __u32 ingress_wanted;
extern const volatile __u32 thread_storage;
extern const volatile __u64 most_old_sockets;
#else
#define OWN_PROCESSES 8
#endif

#endif
