// SPDX-License-Identifier: GPL-2.0-only
// A socket's tuple, and telling that a connection is open: for the hooks that see it begin and for the TLS
// programs, which may meet a socket that is older than they are.
#ifndef WEIR_BPF_PROGRAMS_CONNECTION_FACTS_H
#define WEIR_BPF_PROGRAMS_CONNECTION_FACTS_H

#include "common.h"

#include <bpf/bpf_endian.h>

#define AF_INET 2
#define AF_INET6 10
#define SOCK_STREAM 1

static __always_inline bool is_v4_mapped(const struct in6_addr* address) {
  return address->in6_u.u6_addr32[0] == 0 && address->in6_u.u6_addr32[1] == 0 &&
         address->in6_u.u6_addr32[2] == bpf_htonl(0xffff);
}

// `tuple` must be zero: it is a map's key.
static __always_inline void fill_tuple(struct wire_tuple* tuple, const struct sock* sk) {
  tuple->netns_cookie = BPF_CORE_READ(sk, __sk_common.skc_net.net, net_cookie);
  tuple->local_port = BPF_CORE_READ(sk, __sk_common.skc_num);
  tuple->peer_port = bpf_ntohs(BPF_CORE_READ(sk, __sk_common.skc_dport));
  struct in6_addr peer = BPF_CORE_READ(sk, __sk_common.skc_v6_daddr);
  if (BPF_CORE_READ(sk, __sk_common.skc_family) == AF_INET || is_v4_mapped(&peer)) {
    __u32 local_v4 = BPF_CORE_READ(sk, __sk_common.skc_rcv_saddr);
    __u32 peer_v4 = BPF_CORE_READ(sk, __sk_common.skc_daddr);
    tuple->family = 4;
    __builtin_memcpy(tuple->local, &local_v4, sizeof(local_v4));
    __builtin_memcpy(tuple->peer, &peer_v4, sizeof(peer_v4));
    return;
  }
  struct in6_addr local = BPF_CORE_READ(sk, __sk_common.skc_v6_rcv_saddr);
  tuple->family = 6;
  __builtin_memcpy(tuple->local, &local, sizeof(local));
  __builtin_memcpy(tuple->peer, &peer, sizeof(peer));
}

static __always_inline bool fin_was_received(const struct sock* sk) {
  return BPF_CORE_READ(sk, __sk_common.skc_flags) & (1ul << SOCK_DONE);
}

// Payload that the process has taken from the socket, by whatever call. What comes in meanwhile must not be
// taken for it: hence the order.
static __always_inline __u64 bytes_taken(const struct sock* sk) {
  const struct tcp_sock* tcp = (const struct tcp_sock*)sk;
  __u64 received = BPF_CORE_READ(tcp, bytes_received);
  __u32 unread = BPF_CORE_READ(tcp, rcv_nxt) - BPF_CORE_READ(tcp, copied_seq);
  __u64 taken = received > unread ? received - unread : 0;
  return taken && !unread && fin_was_received(sk) ? taken - 1 : taken;
}

// As the other end sees it.
static __always_inline void turn_tuple(struct wire_tuple* tuple) {
  struct wire_tuple old = *tuple;
  __builtin_memcpy(tuple->local, old.peer, sizeof(old.peer));
  __builtin_memcpy(tuple->peer, old.local, sizeof(old.local));
  tuple->local_port = old.peer_port;
  tuple->peer_port = old.local_port;
}

// For who is told, the peer is where the process connected to.
static __always_inline void fill_true_peer(struct wire_opened* record) {
  struct wire_endpoint* destination = bpf_map_lookup_elem(&redirections, &record->owner.cookie);
  if (!destination) return;
  __builtin_memcpy(record->tuple.peer, destination->address, sizeof(record->tuple.peer));
  record->tuple.peer_port = destination->port;
  record->flags |= WIRE_REDIRECTED;
}

static __always_inline void fill_opened(struct wire_opened* record, const struct connection* connection) {
  record->header.kind = WIRE_CONNECTION_OPENED;
  record->header.size = sizeof(*record);
  record->header.boot_ns = connection->opened_boot_ns;
  record->owner = connection->owner;
  record->tuple = connection->tuple;
  record->flags = connection->flags & CONNECTION_OLD ? WIRE_BEFORE_START : 0;
  record->padding = 0;
  if (connection->flags & CONNECTION_REDIRECTED) fill_true_peer(record);
  if (!(connection->flags & CONNECTION_ACCEPTED)) return;
  turn_tuple(&record->tuple);
  record->flags |= WIRE_ACCEPTED;
}

// To be tried again when the connection is next heard of. `connection` is the table's own entry.
static __always_inline bool tell_opened(struct connection* connection) {
  struct wire_opened* record = bpf_ringbuf_reserve(&ring, sizeof(*record), 0);
  if (!record) {
    connection->flags |= CONNECTION_UNTOLD;
    return false;
  }
  fill_opened(record, connection);
  connection->flags &= ~CONNECTION_UNTOLD;
  submit(record);
  return true;
}

#endif
