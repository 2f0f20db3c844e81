// SPDX-License-Identifier: GPL-2.0-only
// The one definition of what the programs share. Sizes are set by user space before loading.
#define WEIR_DEFINE_MAPS
#include "maps.h"

struct ring_map ring SEC(".maps");
struct control_map control SEC(".maps");
struct connections_map connections SEC(".maps");
struct tuples_map tuples SEC(".maps");
struct untold_map untold SEC(".maps");
struct exec_scratch_map exec_scratch SEC(".maps");
struct tls_objects_map tls_objects SEC(".maps");
struct thread_calls_map thread_calls SEC(".maps");
struct tls_threads_map tls_threads SEC(".maps");
struct goroutines_map goroutines SEC(".maps");
struct hellos_map hellos SEC(".maps");
struct filter_rules_map filter_rules SEC(".maps");
struct verdicts_map verdicts SEC(".maps");
struct ciphertexts_map ciphertexts SEC(".maps");
struct marked_processes_map marked_processes SEC(".maps");
struct redirect_listeners_map redirect_listeners SEC(".maps");
struct unserved_map unserved SEC(".maps");
struct asked_namespaces_map asked_namespaces SEC(".maps");
struct released_map released SEC(".maps");
struct true_peers_map true_peers SEC(".maps");
struct redirections_map redirections SEC(".maps");

// Thread group ids that the programs leave alone; 0 is a free place.
__u32 own_processes[OWN_PROCESSES] = {};
__u32 last_generation = 0;
// A call of Go's crypto/tls was seen: until then nobody looks for goroutines.
__u32 go_seen = 0;
// Entries of tls_threads.
__u64 tls_threads_now = 0;
// When a record was last remembered that is yet to be sent; 0: never.
__u64 ciphertext_boot_ns = 0;
// The iterator of sockets tells again of connections that are older than this.
__u64 tell_again_before = 0;
// A process was marked: until then nobody looks for marks.
__u32 marks_used = 0;
// Payload is dropped once the ring holds this many bytes: the rest is for what tells the structure.
const volatile __u64 payload_limit = 0;
// Groups of filters that have a rule, and that have one of "only".
const volatile __u32 filter_groups = 0;
const volatile __u32 only_groups = 0;
// Groups that have a rule about whom to redirect.
const volatile __u32 redirect_groups = 0;
// What can't be redirected is refused, else it goes where it was to go.
const volatile __u32 redirect_fails_closed = 0;
const volatile __u32 quic_refused = 1;
const volatile __u32 policy_steers = 0;
const volatile __u32 cleartext_wanted = 1;
// Whether what servers accept is told, too.
const volatile __u32 ingress_wanted = 0;
// Whether thread_calls is used.
const volatile __u32 thread_storage = 0;
// How many sockets the iterator enters into the table of connections.
const volatile __u64 most_old_sockets = 0;

char LICENSE[] SEC("license") = "GPL";
