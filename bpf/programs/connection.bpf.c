// SPDX-License-Identifier: GPL-2.0-only
// TCP connections that processes open: who, between which addresses, and how many payload bytes went each
// way. Must never refuse or change a connection: every cgroup program here returns 1.
#include "connection_facts.h"
#include "filters.h"

// A socket that connects again before what it had received was read: its former connection is over now.
static __always_inline void end_former(struct connection* connection) {
  __u32 wanted = CONNECTION_UNREAD | CONNECTION_OPEN;
  if ((connection->flags & wanted) != wanted) return;
  struct wire_closed closed = {
      .cookie = connection->owner.cookie,
      .sent = connection->sent,
      .received = connection->received,
      .plaintext_sent = connection->plaintext_sent,
      .plaintext_received = connection->plaintext_received,
      .flags = connection->flags & CONNECTION_PLAINTEXT ? WIRE_HAS_PLAINTEXT : 0,
  };
  fill_header(&closed.header, WIRE_CONNECTION_CLOSED, sizeof(closed));
  if (bpf_ringbuf_output(&ring, &closed, sizeof(closed), 0)) COUNT(ring_full_records, 1);
}

// The connect hooks run in the connecting process, and every other program may not: only they know who it is.
static __always_inline int remember_owner(struct bpf_sock_addr* ctx) {
  if (ctx->type != SOCK_STREAM || ctx->protocol != IPPROTO_TCP) return 1;
  struct task_struct* task = (struct task_struct*)bpf_get_current_task();
  struct connection connection = {};
  fill_process_key(&connection.owner.process, task);
  connection.owner.cookie = bpf_get_socket_cookie(ctx);
  connection.owner.netns_cookie = bpf_get_netns_cookie(ctx);
  connection.owner.cgroup_id = BPF_CORE_READ(task, cgroups, dfl_cgrp, kn, id);
  connection.owner.uid = BPF_CORE_READ(task, cred, uid.val);
  connection.owner.exec_id = BPF_CORE_READ(task, group_leader, self_exec_id);
  struct connection* former = bpf_map_lookup_elem(&connections, &connection.owner.cookie);
  if (former) end_former(former);
  if (process_filtered()) connection.flags = CONNECTION_FILTERED;
  if (is_own_process(connection.owner.process.tgid)) connection.flags = CONNECTION_OURS;
  if (bpf_map_update_elem(&connections, &connection.owner.cookie, &connection, BPF_ANY)) COUNT(table_full, 1);
  return 1;
}

SEC("cgroup/connect4")
int connect4(struct bpf_sock_addr* ctx) {
  return remember_owner(ctx);
}

SEC("cgroup/connect6")
int connect6(struct bpf_sock_addr* ctx) {
  return remember_owner(ctx);
}

static __always_inline __u16 true_peer_port(const struct connection* connection) {
  struct wire_endpoint* destination = 0;
  if (connection->flags & CONNECTION_REDIRECTED)
    destination = bpf_map_lookup_elem(&redirections, &connection->owner.cookie);
  return destination ? destination->port : connection->tuple.peer_port;
}

// Before the SYN leaves: whoever accepts this connection finds its tuple here, also when it is left out of
// all else: the proxy asks for it.
static __always_inline void bind_tuple(struct bpf_sock_ops* ctx, struct sock* sk) {
  __u64 cookie = bpf_get_socket_cookie(ctx);
  struct connection* known = bpf_map_lookup_elem(&connections, &cookie);
  struct connection connection = {};
  if (known) connection = *known;
  if (connection.flags & CONNECTION_OURS) return;
  fill_tuple(&connection.tuple, sk);
  connection.owner.cookie = cookie;
  connection.owner.netns_cookie = connection.tuple.netns_cookie;
  connection.owner.redirected = connection.flags & CONNECTION_REDIRECTED ? 1 : 0;
  connection.opened_boot_ns = bpf_ktime_get_boot_ns();
  bool unknown_owner = !known && (only_groups & (WIRE_FILTER_PROCESSES | WIRE_FILTER_CGROUPS));
  if (unknown_owner || port_filtered(true_peer_port(&connection))) connection.flags |= CONNECTION_FILTERED;
  bool filtered = connection.flags & CONNECTION_FILTERED;
  if (!filtered) connection.flags |= CONNECTION_OPEN;
  if (filtered) COUNT(filtered_connections, 1);
  if (bpf_map_update_elem(&connections, &cookie, &connection, BPF_ANY)) COUNT(table_full, 1);
  if (bpf_map_update_elem(&tuples, &connection.tuple, &connection.owner, BPF_ANY)) COUNT(table_full, 1);
  known = filtered ? 0 : bpf_map_lookup_elem(&connections, &cookie);
  if (known) tell_opened(known);
}

static __always_inline void mark_accepted(struct bpf_sock_ops* ctx, struct sock* sk) {
  struct connection connection = {.flags = CONNECTION_ACCEPTED, .opened_boot_ns = bpf_ktime_get_boot_ns()};
  if (sk) {
    // Now: at its end the port is no longer in it.
    fill_tuple(&connection.tuple, sk);
    turn_tuple(&connection.tuple);
    connection.owner.netns_cookie = connection.tuple.netns_cookie;
    struct wire_owner* client = bpf_map_lookup_elem(&tuples, &connection.tuple);
    if (client) {
      client->accepted = 1;
      connection.client_cookie = client->cookie;
    }
  }
  connection.owner.cookie = bpf_get_socket_cookie(ctx);
  if (bpf_map_update_elem(&connections, &connection.owner.cookie, &connection, BPF_ANY)) COUNT(table_full, 1);
}

// Other programs' wishes are kept.
static __always_inline void ask_for_state(struct bpf_sock_ops* ctx) {
  bpf_sock_ops_cb_flags_set(ctx, ctx->bpf_sock_ops_cb_flags | BPF_SOCK_OPS_STATE_CB_FLAG);
}

static __always_inline bool fin_was_queued(int state) {
  return state == TCP_FIN_WAIT1 || state == TCP_FIN_WAIT2 || state == TCP_CLOSING || state == TCP_LAST_ACK ||
         state == TCP_TIME_WAIT;
}

// The kernel's counters hold FIN, and the SYN of who connects, as a byte each. What the process wrote and the
// peer hasn't acknowledged is in write_seq - snd_una.
static __always_inline void fill_totals(__u64* sent_bytes, __u64* received_bytes, const struct sock* sk,
                                        bool accepted, bool fin_sent) {
  const struct tcp_sock* tcp = (const struct tcp_sock*)sk;
  __u32 unacknowledged = BPF_CORE_READ(tcp, write_seq) - BPF_CORE_READ(tcp, snd_una);
  __u64 sent = BPF_CORE_READ(tcp, bytes_acked) + unacknowledged;
  __u64 received = BPF_CORE_READ(tcp, bytes_received);
  __u64 sent_flags = !accepted + fin_sent;
  *sent_bytes = sent > sent_flags ? sent - sent_flags : 0;
  *received_bytes = fin_was_received(sk) && received ? received - 1 : received;
}

// Of a connection that can be told about: what its first bytes were, if they were looked at in time.
static __always_inline __u32 closed_flags(const struct connection* connection, const struct sock* sk,
                                          bool fin_sent) {
  __u32 flags = fin_sent ? WIRE_SENT_FIN : 0;
  if (fin_was_received(sk)) flags |= WIRE_RECEIVED_FIN;
  if (connection->flags & CONNECTION_PLAINTEXT) flags |= WIRE_HAS_PLAINTEXT;
  bool known =
      connection->flags & (CONNECTION_HELLO | CONNECTION_CLEARTEXT | CONNECTION_LINKED | CONNECTION_OLD);
  if (cleartext_wanted && connection->beginnings && !known) flags |= WIRE_OTHER_PROTOCOL;
  return flags;
}

static __always_inline void tell_closed(struct connection* connection, const struct sock* sk, bool fin_sent) {
  struct wire_untold record = {};
  struct wire_closed* closed = &record.closed;
  fill_header(&closed->header, WIRE_CONNECTION_CLOSED, sizeof(*closed));
  closed->cookie = connection->owner.cookie;
  closed->plaintext_sent = connection->plaintext_sent;
  closed->plaintext_received = connection->plaintext_received;
  bool clear_from_start =
      (connection->flags & (CONNECTION_CLEARTEXT | CONNECTION_OLD | CONNECTION_MULTIPATH)) ==
      CONNECTION_CLEARTEXT;
  __u64 taken = clear_from_start ? bytes_taken(sk) : 0;
  if (taken > closed->plaintext_received) closed->plaintext_received = taken;
  closed->flags = closed_flags(connection, sk, fin_sent);
  closed->error = BPF_CORE_READ(sk, sk_err);
  if (connection->flags & CONNECTION_UNREAD) {
    closed->sent = connection->sent;
    closed->received = connection->received;
  } else {
    fill_totals(&closed->sent, &closed->received, sk, connection->flags & CONNECTION_ACCEPTED, fin_sent);
  }
  bool opened_told = !(connection->flags & CONNECTION_UNTOLD) || tell_opened(connection);
  if (opened_told && !bpf_ringbuf_output(&ring, closed, sizeof(*closed), 0)) return;

  fill_opened(&record.opened, connection);
  struct wire_untold_key key = {connection->owner.cookie, connection->opened_boot_ns};
  if (bpf_map_update_elem(&untold, &key, &record, BPF_ANY))
    COUNT(table_full, 1);
  else
    COUNT(untold_connections, 1);
}

// True while it stands in the queue of its listener: that process will still be given it, also when it was
// reset.
static __always_inline bool is_queued(const struct sock* sk) {
  return !BPF_CORE_READ(sk, sk_socket) && !(BPF_CORE_READ(sk, __sk_common.skc_flags) & (1ul << SOCK_DEAD));
}

// Who accepted a connection may ask for its client until then, also when that is gone; where nobody of this
// host did, nobody will. The same tuple may belong to a later connection by now: that one stays.
static __always_inline void forget_tuple(const struct connection* connection) {
  bool accepted = connection->flags & CONNECTION_ACCEPTED;
  struct wire_owner* owner = bpf_map_lookup_elem(&tuples, &connection->tuple);
  if (!owner || !owner->accepted != !accepted) return;
  if (owner->cookie != (accepted ? connection->client_cookie : connection->owner.cookie)) return;
  bpf_map_delete_elem(&tuples, &connection->tuple);
}

// Whether the socket's process may still have something to read: it has said its own last word only, or there
// is what it hasn't taken yet.
static __always_inline bool may_be_read(const struct sock* sk, bool fin_sent) {
  const struct tcp_sock* tcp = (const struct tcp_sock*)sk;
  if (!BPF_CORE_READ(sk, sk_socket) || (BPF_CORE_READ(sk, __sk_common.skc_flags) & (1ul << SOCK_DEAD)))
    return false;
  __u32 unread = BPF_CORE_READ(tcp, rcv_nxt) - BPF_CORE_READ(tcp, copied_seq);
  return fin_sent || unread > (fin_was_received(sk) ? 1 : 0);
}

// `gone`: the socket is.
static __always_inline void end_connection(const struct sock* sk, __u64 cookie, int old_state, bool gone) {
  struct connection* connection = cookie ? bpf_map_lookup_elem(&connections, &cookie) : 0;
  if (!connection) return;
  bool fin_sent = fin_was_queued(old_state) || (connection->flags & CONNECTION_FIN_SENT);
  if (!gone && may_be_read(sk, fin_sent)) {
    bool accepted = connection->flags & CONNECTION_ACCEPTED;
    fill_totals(&connection->sent, &connection->received, sk, accepted, fin_sent);
    connection->flags |= CONNECTION_UNREAD | (fin_sent ? CONNECTION_FIN_SENT : 0);
    return;
  }
  if (connection->flags & CONNECTION_OPEN) tell_closed(connection, sk, fin_sent);
  if (!(connection->flags & CONNECTION_ACCEPTED) || !is_queued(sk)) forget_tuple(connection);
  bpf_map_delete_elem(&connections, &cookie);
}

// Ends what the sockets' own callback doesn't: those that are older than the programs, or whose callback
// another's program took away. Alone it isn't enough: a kernel passes a tracing program over where it already
// runs on that processor, and may hide what interrupts a task that it guards.
SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(connection_closed, const struct sock* sk, int old_state, int new_state) {
  if (new_state == TCP_CLOSE && sk->sk_protocol == IPPROTO_TCP)
    end_connection(sk, sk->__sk_common.skc_cookie.counter, old_state, false);
  return 0;
}

// What was left for its process to read, and what the kernel passed over.
SEC("tp_btf/tcp_destroy_sock")
int BPF_PROG(socket_gone, const struct sock* sk) {
  end_connection(sk, sk->__sk_common.skc_cookie.counter, TCP_CLOSE, true);
  return 0;
}

static __always_inline struct sock* socket_of(struct bpf_sock_ops* ctx) {
  struct bpf_sock* socket = ctx->sk;
  return socket ? (struct sock*)bpf_skc_to_tcp_sock(socket) : 0;
}

SEC("sockops")
int connection_changing(struct bpf_sock_ops* ctx) {
  struct sock* sk = socket_of(ctx);
  bool accepted = ctx->op == BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB;
  bool connects = ctx->op == BPF_SOCK_OPS_TCP_CONNECT_CB;
  if (accepted) mark_accepted(ctx, sk);
  if (connects && sk) bind_tuple(ctx, sk);
  if (accepted || connects) ask_for_state(ctx);
  bool closes = ctx->op == BPF_SOCK_OPS_STATE_CB && ctx->args[1] == BPF_TCP_CLOSE;
  if (closes && sk) end_connection(sk, bpf_get_socket_cookie(ctx), ctx->args[0], false);
  return 1;
}
