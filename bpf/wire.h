// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
// What the kernel side and user space say to each other: the records of the ring buffer and of the iterators,
// the table of tuples, the control page. Plain data with fixed layout; nothing here may depend on either
// side's headers. Both sides are always built together, so there are no versions.
#ifndef WEIR_BPF_WIRE_H
#define WEIR_BPF_WIRE_H

#ifndef __bpf__
#include <linux/types.h>
#endif

#ifdef __cplusplus
#define WIRE_SIZE(type, bytes) static_assert(sizeof(struct type) == (bytes), "layout of " #type)
#else
#define WIRE_SIZE(type, bytes) _Static_assert(sizeof(struct type) == (bytes), "layout of " #type)
#endif

enum wire_kind {
  WIRE_PROCESS_SEEN = 1,  // iterator only
  WIRE_PROCESS_STARTED,
  WIRE_PROCESS_EXECED,
  WIRE_PROCESS_EXITED,
  WIRE_CONNECTION_OPENED,
  WIRE_CONNECTION_CLOSED,
  WIRE_TLS_HANDSHAKE,
  WIRE_TLS_BYTES,
  WIRE_TLS_GAP,
  WIRE_TLS_ENDED,
  WIRE_POLICY_DECIDED,
  WIRE_CLIENT_HELLO,  // struct wire_bytes with the beginning of a ClientHello, as it was sent
};

// `size` counts the bytes that mean something, this header included; the ring's own length may be larger.
struct wire_header {
  __u32 kind;
  __u32 size;
  __u64 boot_ns;  // CLOCK_BOOTTIME
};
WIRE_SIZE(wire_header, 16);

struct wire_process_key {
  __u32 tgid;  // of the initial pid namespace
  __u32 padding;
  __u64 start_boottime_ns;  // of the group leader
};
WIRE_SIZE(wire_process_key, 16);

#define WIRE_PATH_BYTES 1280  // 1024, and room for one last name
#define WIRE_ARGUMENT_BYTES 2560

#define WIRE_PATH_TRUNCATED 1u
#define WIRE_ARGUMENTS_TRUNCATED 2u

// For "execed" it is followed by path and arguments, for "seen" by the path (struct wire_task).
struct wire_process {
  struct wire_header header;
  struct wire_process_key process;
  struct wire_process_key parent;
  __u64 cgroup_id;
  __u64 netns_cookie;
  __u64 exec_id;  // counts the programs that the process, and its parents before it, have run
  __u32 inner_pid;
  __u32 uid;
  __u32 path_bytes;
  __u32 argument_bytes;
  __u32 flags;
  __u32 padding;
};
WIRE_SIZE(wire_process, 96);

struct wire_task {
  struct wire_process process;
  char path[WIRE_PATH_BYTES];  // names, the last component first, each ended by NUL
};
WIRE_SIZE(wire_task, 96 + WIRE_PATH_BYTES);

// As long as what it holds: the path as in wire_task, then the arguments, each ended by NUL.
struct wire_exec {
  struct wire_process process;
  char text[WIRE_PATH_BYTES + WIRE_ARGUMENT_BYTES];
};
WIRE_SIZE(wire_exec, 96 + WIRE_PATH_BYTES + WIRE_ARGUMENT_BYTES);

// A connection as its client sees it. IPv4-mapped addresses are unmapped; IPv4 stands in the first four
// bytes.
struct wire_tuple {
  __u64 netns_cookie;
  __u8 local[16];
  __u8 peer[16];
  __u16 local_port;  // host byte order
  __u16 peer_port;
  __u8 family;  // 4 or 6
  __u8 padding[3];
};
WIRE_SIZE(wire_tuple, 48);

// IPv4 stands in the first four bytes; IPv4-mapped addresses are unmapped.
struct wire_endpoint {
  __u8 address[16];
  __u16 port;    // host byte order
  __u8 family;   // 4 or 6
  __u8 steered;  // in the table of redirected connections: for policy alone
  __u8 padding[4];
};
WIRE_SIZE(wire_endpoint, 24);

// The loopback ports of one network namespace that connections are redirected to, 0: none; and those of ours
// that they are never redirected from.
struct wire_listeners {
  __u16 v4;
  __u16 v6;
  __u16 ours[2];
};
WIRE_SIZE(wire_listeners, 8);

// Somebody there is to be redirected, and no listener is.
struct wire_unserved {
  __u64 netns_cookie;
  __u32 tgid;
  __u32 padding;
};
WIRE_SIZE(wire_unserved, 16);

struct wire_owner {
  __u64 cookie;
  struct wire_process_key process;  // tgid 0: the connect hook did not see it
  __u64 netns_cookie;
  __u64 cgroup_id;
  __u64 exec_id;   // as in wire_process
  __u32 uid;       // when it connected: a process may change it without an exec
  __u16 accepted;  // in the table of tuples: by a socket of this host, whose end is the entry's
  __u16 redirected;
};
WIRE_SIZE(wire_owner, 56);

#define WIRE_BEFORE_START 1u
#define WIRE_ACCEPTED 2u    // a server's side
#define WIRE_REDIRECTED 4u  // to the proxy: the tuple's peer is where the process connected to

struct wire_opened {
  struct wire_header header;
  struct wire_owner owner;
  struct wire_tuple tuple;
  __u32 flags;
  __u32 padding;
};
WIRE_SIZE(wire_opened, 128);

#define WIRE_HAS_PLAINTEXT 1u
#define WIRE_SENT_FIN 2u
#define WIRE_RECEIVED_FIN 4u
#define WIRE_OTHER_PROTOCOL 8u  // its client began with neither TLS nor HTTP

struct wire_closed {
  struct wire_header header;
  __u64 cookie;
  __u64 sent;  // payload bytes: SYN and FIN are not in it
  __u64 received;
  __u64 plaintext_sent;
  __u64 plaintext_received;
  __u32 flags;
  __s32 error;
};
WIRE_SIZE(wire_closed, 64);

// One socket can connect again.
struct wire_untold_key {
  __u64 cookie;
  __u64 opened_boot_ns;
};
WIRE_SIZE(wire_untold_key, 16);

// A connection whose records found no room in the ring, kept in a table of its own until the worker takes it.
struct wire_untold {
  struct wire_opened opened;
  struct wire_closed closed;
};
WIRE_SIZE(wire_untold, 192);

enum wire_tls_library {
  WIRE_LIBRARY_OPENSSL = 1,
  WIRE_LIBRARY_BORINGSSL,
  WIRE_LIBRARY_GNUTLS,
  WIRE_LIBRARY_NSS,
  WIRE_LIBRARY_GO,
  WIRE_LIBRARY_NONE,  // cleartext: the object is the socket
};

struct wire_tls_object {
  struct wire_process_key process;
  __u64 pointer;
  __u32 generation;  // never repeats while the programs are loaded
  __u32 library;
};
WIRE_SIZE(wire_tls_object, 32);

struct wire_handshake {
  struct wire_header header;
  struct wire_tls_object object;
  __u64 cookie;
  __u32 version;  // 0x0303 is TLS 1.2; 0 when not known
  __u32 unused;   // 1: the object ends and has said nothing
};
WIRE_SIZE(wire_handshake, 64);

enum wire_direction { WIRE_SENT = 0, WIRE_RECEIVED = 1 };

// Followed by `length` bytes of plaintext. Cleartext has no object: `pointer` and `generation` are 0, and
// `process` is who called.
struct wire_bytes {
  struct wire_header header;
  struct wire_tls_object object;
  __u64 cookie;
  __u64 offset;  // of the object's generation (cleartext: of the connection), per direction
  __u32 length;
  __u32 direction;
};
WIRE_SIZE(wire_bytes, 72);

#define WIRE_CHUNK_BYTES 16384
#define WIRE_HELLO_BYTES 4096

enum wire_gap_cause {
  WIRE_GAP_UNREADABLE = 1,  // the caller's memory could not be read
  WIRE_GAP_UNADDRESSED,     // the call didn't say where the bytes are: sendfile, splice, io_uring
  // Told before the next bytes of either direction that the ring has room for; `offset` is where the loss
  // ends, its beginning is what was told before, and `length` is 0. A loss at the very end shows by the
  // stream's end alone.
  WIRE_GAP_RING_FULL,
};

struct wire_gap {
  struct wire_header header;
  struct wire_tls_object object;
  __u64 cookie;
  __u64 offset;
  __u64 length;
  __u32 direction;
  __u32 cause;
};
WIRE_SIZE(wire_gap, 80);

struct wire_ended {
  struct wire_header header;
  struct wire_tls_object object;
  __u64 cookie;
  __u64 offset;  // where the stream ends: a loss just before it shows by this alone
  __u32 direction;
  __u32 padding;
};
WIRE_SIZE(wire_ended, 72);

#define WIRE_MAPPING_NAME_BYTES 256

struct wire_mapping {
  __u32 tgid;
  __u32 device_major;
  __u32 device_minor;
  __u32 name_bytes;
  __u64 start;
  __u64 end;
  __u64 file_offset;
  __u64 inode;
  __u32 inode_generation;
  __u32 padding;
  char name[WIRE_MAPPING_NAME_BYTES];
};
WIRE_SIZE(wire_mapping, 56 + WIRE_MAPPING_NAME_BYTES);

// What the filters of the configuration name. Each rule is an entry of a table, by struct wire_filter_key.
enum wire_filter_kind {
  WIRE_FILTER_PID = 1,
  WIRE_FILTER_NAME,       // of the executable: the hash of its last path component
  WIRE_FILTER_PATH,       // of the executable, as its process sees it: of all components, the last one first
  WIRE_FILTER_CGROUP,     // v2, and all below it: of all components, the first one first
  WIRE_FILTER_CGROUP_ID,  // the same by its number
  WIRE_FILTER_PORT,       // the peer's
};
struct wire_filter_key {
  __u32 kind;
  __u32 padding;
  __u64 value;
};
WIRE_SIZE(wire_filter_key, 16);

// What a rule does.
#define WIRE_FILTER_ONLY 1u
#define WIRE_FILTER_EXCEPT 2u
#define WIRE_FILTER_REDIRECT 4u  // its process's connections go to the proxy

// Rules of one group are alternatives; each group that `only` names must hold.
#define WIRE_FILTER_PROCESSES 1u
#define WIRE_FILTER_CGROUPS 2u
#define WIRE_FILTER_PORTS 4u

// FNV-1a of path components, each with a NUL behind it.
#define WIRE_HASH_START 0xcbf29ce484222325ull
static inline __u64 wire_hash_byte(__u64 hash, __u8 byte) {
  return (hash ^ byte) * 0x100000001b3ull;
}

static inline __u64 wire_hash_join(__u64 hash, __u64 part) {
  for (int i = 0; i < 8; i++) hash = wire_hash_byte(hash, (__u8)(part >> (8 * i)));
  return hash;
}

// Policy. Rules stand in a table in two halves of `room` entries, of which one is in force.
enum wire_policy_action {  // as enum class PolicyAction has them
  WIRE_POLICY_ALLOW,
  WIRE_POLICY_DENY,
  WIRE_POLICY_LOG,
  WIRE_POLICY_PROXY,  // of no rule: only the egress proxy can tell
};
#define WIRE_POLICY_NAME_BYTES 64
#define WIRE_POLICY_MAYBE 1u  // the rule asks for more than the kernel sees

// One address and one range of ports of one rule. Lists are numbered from 1; 0: anyone.
struct wire_policy_rule {
  __u32 address[4];  // network byte order; IPv4 in the first
  __u32 mask[4];
  __u16 port_first;
  __u16 port_last;
  __u16 executables;
  __u16 users;
  __u16 cgroups;
  __u8 family;  // 4 or 6; 0: any
  __u8 action;
  __u32 flags;
  char name[WIRE_POLICY_NAME_BYTES];  // ends in NUL
};
WIRE_SIZE(wire_policy_rule, 112);

struct wire_policy_state {
  __u32 rules;
  __u32 room;
  __u32 fallback;
  __u32 lists;  // whether any rule asks who
};
WIRE_SIZE(wire_policy_state, 16);

// What makes a process belong to lists. Paths and cgroups: the hashes of all components, the first one first.
enum wire_policy_kind {
  WIRE_POLICY_EXECUTABLE = 1,
  WIRE_POLICY_EXECUTABLE_BELOW,
  WIRE_POLICY_EXECUTABLE_NAME,
  WIRE_POLICY_CGROUP,  // and all below it
  WIRE_POLICY_USER,
};
struct wire_policy_key {
  __u32 kind;
  __u32 state;  // the number of the state that it belongs to
  __u64 value;
};
WIRE_SIZE(wire_policy_key, 16);

#define WIRE_POLICY_LIST_WORDS 4
struct wire_policy_lists {
  __u64 bits[WIRE_POLICY_LIST_WORDS];
  __u64 unknown;  // of a process: its executable can't be told
};
WIRE_SIZE(wire_policy_lists, 40);

// The way to the proxy, which judges by itself.
#define WIRE_POLICY_LISTENERS 8
struct wire_policy_listener {
  __u32 address[4];
  __u16 port;  // 0: a free place
  __u8 family;
  __u8 padding;
};
WIRE_SIZE(wire_policy_listener, 20);

struct wire_policy_decided {
  struct wire_header header;
  struct wire_owner owner;
  __u8 address[16];
  __u16 port;
  __u8 family;
  __u8 allowed;
  __u8 udp;
  __u8 padding[3];
  char rule[WIRE_POLICY_NAME_BYTES];  // "": the default
};
WIRE_SIZE(wire_policy_decided, 16 + 56 + 24 + WIRE_POLICY_NAME_BYTES);

// One page shared by both sides. User space writes the heartbeats and `batching`; the programs count.
// Plaintext that was not captured is in exactly one of the three counts of bytes.
struct wire_control {
  __u64 heartbeat_boot_ns;
  __u64 ring_full_records;
  __u64 ring_full_bytes;    // plaintext in them
  __u64 unreadable_bytes;   // by enum wire_gap_cause
  __u64 unaddressed_bytes;  //
  __u64 faults;             // times that either was met
  __u64 table_full;
  __u64 calls_lost;          // a call's return met no room or no entry: its length is not known
  __u64 untold_connections;  // put into the table of struct wire_untold, ever
  __u64 untold_processes;    // process records that met a full ring: look at all tasks again
  __u64 filtered_connections;
  __u64 self_test_hits;
  __u64 policy_refused;
  __u64 policy_unjudged;  // connections that only the egress proxy could judge: the default decided
  __u64 untold_policy;
  __u64 batching;  // 1: the ring is looked at every few milliseconds; wake its reader when much is in it
  __u64 proxy_heartbeat_boot_ns;  // without this or the next one, nothing is redirected
  __u64 broker_heartbeat_boot_ns;
  __u64 redirected_connections;
  __u64 unredirected_connections;  // of processes that are to be redirected: nobody was there to take them
  __u64 refused_datagrams;         // QUIC of such processes
  __u64 unmarked_children;         // the table of marked processes was full
  __u64 steered_connections;       // redirected as policy can't judge them without the proxy
};
WIRE_SIZE(wire_control, 184);

// The uprobe programs, by index (ProbeSite::program).
enum wire_uprobe_program {
  WIRE_TLS_ENTER,   // at a call's entry
  WIRE_TLS_RETURN,  // at each `ret` of the same function
  WIRE_TLS_END,     // entry of a function that ends the object or its sending side
  WIRE_GO_ENTER,    // the same for Go's calling convention
  WIRE_GO_RETURN,
  WIRE_GO_END,
  WIRE_SELF_TEST,  // a function of weir's own, at start
  WIRE_UPROBE_PROGRAMS,
};

// What the probed function is.
enum wire_tls_call {
  WIRE_CALL_READ = 1,     // (object, buffer, int length) -> int bytes
  WIRE_CALL_READ_EX,      // (object, buffer, size_t length, size_t* bytes) -> int 1
  WIRE_CALL_READ_LONG,    // (object, buffer, size_t length) -> ssize_t bytes
  WIRE_CALL_READ_FLAGS,   // (object, buffer, int length, int flags) -> int bytes, which stay if the flags say
                          // "peek"
  WIRE_CALL_READ_PACKET,  // (object, struct mbuffer_st**) -> ssize_t bytes, which are in GnuTLS's own buffer
  WIRE_CALL_WRITE,        // as for reading
  WIRE_CALL_WRITE_EX,     //
  WIRE_CALL_WRITE_LONG,   //
  WIRE_CALL_SEND_FILE,    // (object, descriptor, ...) -> ssize_t bytes, which are in no buffer
  WIRE_CALL_FLUSH,        // (object, ...): writes again, by calls of its own, what was written before
  WIRE_CALL_FREE,         // (object)
  WIRE_CALL_CLEAR,
  WIRE_CALL_SHUTDOWN,
  WIRE_CALL_GO_READ,   // (*Conn, []byte) -> (int, error), in Go's registers
  WIRE_CALL_GO_WRITE,  //
  WIRE_CALL_GO_CLOSE,  // (*Conn)
};

// A site's cookie: the call (5 bits), the library (4), and how far above the stack pointer the return address
// is, in units of 8 bytes (7): a site need not be the function's first instruction or its last. Where the
// library keeps the 32 random bytes of its ClientHello, they tell the object's socket: at `random_at` of the
// object (0: not known), or of what the pointer at `pointer_at` of it points to (0: the object itself). A
// server's object has its client's: what is not 0 at `server_at` of the object (0: not known) tells it, one
// bit of the byte there or as much as enum wire_server_flag says.
#define WIRE_SITE(library, call) ((__u64)(call) | (__u64)(library) << 5)
#define WIRE_SITE_BELOW(bytes) ((__u64)((bytes) / 8) << 9)
#define WIRE_SITE_RANDOM(pointer_at, random_at) ((__u64)(pointer_at) << 16 | (__u64)(random_at) << 32)
#define WIRE_SITE_SERVER(server_at, flag) ((__u64)(server_at) << 48 | (__u64)(flag) << 60)

enum wire_server_flag {
  WIRE_SERVER_BIT = 0,  // to 7: the bit's number
  WIRE_SERVER_BYTE = 8,
  WIRE_SERVER_INT,
};

#endif
