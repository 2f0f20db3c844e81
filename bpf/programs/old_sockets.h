// SPDX-License-Identifier: GPL-2.0-only
// Sockets that are older than the programs: who connected them is not known, who holds or uses them is.
#ifndef WEIR_BPF_PROGRAMS_OLD_SOCKETS_H
#define WEIR_BPF_PROGRAMS_OLD_SOCKETS_H

#include "connection_facts.h"
#include "filters.h"

#define BOUND_TO_PORT 8  // SOCK_BINDPORT_LOCK, include/net/sock.h

// connect() never shares the bucket of a port with bind() (__inet_hash_connect() in
// net/ipv4/inet_hashtables.c marks its own with -1), and an accepted socket has its listener's bucket without
// having been bound itself.
static __always_inline bool was_accepted(struct sock* sk) {
  struct inet_bind_bucket* bucket = BPF_CORE_READ((struct inet_connection_sock*)sk, icsk_bind_hash);
  return bucket && BPF_CORE_READ(bucket, fastreuse) >= 0 &&
         !(BPF_CORE_READ_BITFIELD_PROBED(sk, sk_userlocks) & BOUND_TO_PORT);
}

// Enters it into the table, unless it is there by now. `filtered`: the task is left out. What a client opened
// is yet to be told.
static __noinline struct connection* enter_old_socket(struct sock* sk, __u64 cookie, struct task_struct* task,
                                                      bool filtered) {
  struct connection connection = {};
  connection.owner.cookie = cookie;
  fill_tuple(&connection.tuple, sk);
  connection.owner.netns_cookie = connection.tuple.netns_cookie;
  fill_process_key(&connection.owner.process, task);
  connection.owner.cgroup_id = BPF_CORE_READ(task, cgroups, dfl_cgrp, kn, id);
  connection.opened_boot_ns = bpf_ktime_get_boot_ns();
  connection.flags =
      CONNECTION_OLD | (was_accepted(sk) ? CONNECTION_ACCEPTED : CONNECTION_OPEN | CONNECTION_UNTOLD);
  if (connection.flags & CONNECTION_ACCEPTED)
    turn_tuple(&connection.tuple);
  else if (filtered || port_filtered(connection.tuple.peer_port))
    connection.flags = CONNECTION_FILTERED;
  if (is_own_process(connection.owner.process.tgid)) connection.flags = CONNECTION_OURS;
  bool entered = !bpf_map_update_elem(&connections, &cookie, &connection, BPF_NOEXIST);
  if (entered && (connection.flags & CONNECTION_FILTERED)) COUNT(filtered_connections, 1);
  if (entered && (connection.flags & CONNECTION_OPEN))
    bpf_map_update_elem(&tuples, &connection.tuple, &connection.owner, BPF_ANY);
  return bpf_map_lookup_elem(&connections, &cookie);
}

#endif
