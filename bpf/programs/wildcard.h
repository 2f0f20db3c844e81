// SPDX-License-Identifier: GPL-2.0-only
// What the kernel makes of the wildcard as a destination, after these programs have looked at it: for those
// that judge or remember where a socket connects to.
#ifndef WEIR_BPF_PROGRAMS_WILDCARD_H
#define WEIR_BPF_PROGRAMS_WILDCARD_H

#include "common.h"

#include <bpf/bpf_endian.h>

// Where the socket is bound, or loopback (the kernel's ip_route_output_key_hash_rcu).
static __always_inline __u32 replace_wildcard4(struct bpf_sock_addr* ctx, __u32 address) {
  if (address) return address;
  struct bpf_sock* sk = ctx->sk;
  __u32 bound = sk ? sk->src_ip4 : 0;
  return bound ? bound : bpf_htonl(0x7f000001);
}

// Of "::": loopback, and that is IPv4's where the socket is bound to a v4-mapped address (tcp_v6_connect,
// __ip6_datagram_connect).
static __always_inline bool wildcard6_is_mapped(struct bpf_sock_addr* ctx) {
  struct bpf_sock* sk = ctx->sk;
  return sk && !sk->src_ip6[0] && !sk->src_ip6[1] && sk->src_ip6[2] == bpf_htonl(0xffff);
}

#endif
