// SPDX-License-Identifier: GPL-2.0-only
// TCP connections that processes open: who, between which addresses, and how many payload bytes went each
// way. Must never refuse or change a connection: every cgroup program here returns 1.
#include "connection_facts.h"
#include "filters.h"

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
    if (client) client->accepted = 1;
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

// The kernel's counters hold SYN and FIN as a byte each. What the process wrote and the peer hasn't
// acknowledged is in write_seq - snd_una.
static __always_inline void fill_totals(struct wire_closed* record, const struct tcp_sock* tcp,
                                        int old_state) {
  __u32 unacknowledged = BPF_CORE_READ(tcp, write_seq) - BPF_CORE_READ(tcp, snd_una);
  __u64 sent = BPF_CORE_READ(tcp, bytes_acked) + unacknowledged;
  __u64 received = BPF_CORE_READ(tcp, bytes_received);
  __u64 sent_flags = 1 + (fin_was_queued(old_state) ? 1 : 0);
  const struct sock* sk = (const struct sock*)tcp;
  bool fin_received = BPF_CORE_READ(sk, __sk_common.skc_flags) & (1ul << SOCK_DONE);
  record->sent = sent > sent_flags ? sent - sent_flags : 0;
  record->received = fin_received && received ? received - 1 : received;
}

static __always_inline void tell_closed(struct connection* connection, const struct sock* sk, int old_state) {
  struct wire_untold record = {};
  struct wire_closed* closed = &record.closed;
  fill_header(&closed->header, WIRE_CONNECTION_CLOSED, sizeof(*closed));
  closed->cookie = connection->owner.cookie;
  closed->plaintext_sent = connection->plaintext_sent;
  closed->plaintext_received = connection->plaintext_received;
  closed->flags = connection->flags & CONNECTION_PLAINTEXT ? WIRE_HAS_PLAINTEXT : 0;
  closed->error = BPF_CORE_READ(sk, sk_err);
  fill_totals(closed, (const struct tcp_sock*)sk, old_state);
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
  if (!accepted && owner->cookie != connection->owner.cookie) return;
  bpf_map_delete_elem(&tuples, &connection->tuple);
}

static __always_inline void end_connection(const struct sock* sk, __u64 cookie, int old_state) {
  struct connection* connection = cookie ? bpf_map_lookup_elem(&connections, &cookie) : 0;
  if (!connection) return;
  if (connection->flags & CONNECTION_OPEN) tell_closed(connection, sk, old_state);
  if (!(connection->flags & CONNECTION_ACCEPTED) || !is_queued(sk)) forget_tuple(connection);
  bpf_map_delete_elem(&connections, &cookie);
}

// Ends what the sockets' own callback doesn't: those that are older than the programs, or whose callback
// another's program took away. Alone it isn't enough: a kernel passes a tracing program over where it already
// runs on that processor, and may hide what interrupts a task that it guards.
SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(connection_closed, const struct sock* sk, int old_state, int new_state) {
  if (new_state == TCP_CLOSE && sk->sk_protocol == IPPROTO_TCP)
    end_connection(sk, sk->__sk_common.skc_cookie.counter, old_state);
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
  if (closes && sk) end_connection(sk, bpf_get_socket_cookie(ctx), ctx->args[0]);
  return 1;
}
