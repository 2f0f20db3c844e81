// SPDX-License-Identifier: GPL-2.0-only
// Sends the TCP connections of chosen processes to the proxy, whatever they connect to, and tells them that
// they got where they wanted. Where nobody would take them, they go their way, or are refused if so
// configured. These programs are attached behind those that look at where a connection goes.
#include "connection_facts.h"
#include "filters.h"
#include "marks.h"
#include "wildcard.h"

#define SOCK_DGRAM 2
#define ECONNREFUSED 111
#define LOOPBACK_INTERFACE 1
#define QUIC_PORT 443
#define HEARTBEAT_LIMIT_NS 1000000000ull
#define ASK_AGAIN_NS 250000000ull

enum way { WAY_DIRECT, WAY_REDIRECTED, WAY_REFUSED };

static __always_inline bool is_to_be_redirected(void) {
  struct task_struct* task = (struct task_struct*)bpf_get_current_task();
  __u32 tgid = BPF_CORE_READ(task, tgid);
  return !is_own_process(tgid) && (is_marked(tgid) || process_redirected());
}

// A part of the agent that hangs would let the connection hang, too.
static __always_inline bool agent_lives(void) {
  struct wire_control* page = control_page();
  if (!page) return false;
  __u64 now = bpf_ktime_get_boot_ns();
  return now < page->proxy_heartbeat_boot_ns + HEARTBEAT_LIMIT_NS &&
         now < page->broker_heartbeat_boot_ns + HEARTBEAT_LIMIT_NS;
}

// Whose namespace it is, is told by a process that is in it: the broker can find it by that alone.
static __always_inline void ask_for_listeners(__u64 netns_cookie) {
  __u64 now = bpf_ktime_get_boot_ns();
  __u64* asked = bpf_map_lookup_elem(&asked_namespaces, &netns_cookie);
  if (asked && now < *asked + ASK_AGAIN_NS) return;
  bpf_map_update_elem(&asked_namespaces, &netns_cookie, &now, BPF_ANY);
  struct wire_unserved question = {.netns_cookie = netns_cookie};
  question.tgid = bpf_get_current_pid_tgid() >> 32;
  bpf_ringbuf_output(&unserved, &question, sizeof(question), 0);
}

static __always_inline struct wire_listeners* listeners_in(__u64 netns_cookie) {
  if (!agent_lives()) return 0;
  struct wire_listeners* listeners = bpf_map_lookup_elem(&redirect_listeners, &netns_cookie);
  if (!listeners) ask_for_listeners(netns_cookie);
  return listeners;
}

static __always_inline int refuse(void) {
  bpf_set_retval(-ECONNREFUSED);
  return 0;
}

static __always_inline bool fails_closed(void) {
  if (!redirect_fails_closed) return false;
  __u32 zero = 0;
  __u32* given_up = bpf_map_lookup_elem(&released, &zero);
  return !given_up || !*given_up;
}

static __always_inline enum way nobody_takes_it(void) {
  COUNT(unredirected_connections, 1);
  return fails_closed() ? WAY_REFUSED : WAY_DIRECT;
}

static __always_inline bool is_loopback(const struct wire_endpoint* address) {
  const __u32* words = (const __u32*)address->address;
  if (address->family == 4) return address->address[0] == 127;
  return !words[0] && !words[1] && !words[2] && words[3] == bpf_htonl(1);
}

// The scope of a link-local address is not told to these programs.
static __always_inline bool is_link_local(const struct wire_endpoint* address) {
  return address->family == 6 && address->address[0] == 0xfe && (address->address[1] & 0xc0) == 0x80;
}

// A socket that is bound to an interface does not reach loopback.
static __always_inline bool is_bound_elsewhere(struct bpf_sock* sk) {
  __u32 interface = sk->bound_dev_if;
  return interface && interface != LOOPBACK_INTERFACE;
}

static __always_inline bool remember(struct bpf_sock_addr* ctx, struct bpf_sock* sk,
                                     const struct wire_endpoint* destination) {
  __u64 cookie = bpf_get_socket_cookie(ctx);
  struct wire_endpoint* peer = bpf_sk_storage_get(&true_peers, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
  if (!peer) return false;
  *peer = *destination;
  if (bpf_map_update_elem(&redirections, &cookie, destination, BPF_ANY)) return false;
  struct connection* connection = bpf_map_lookup_elem(&connections, &cookie);
  if (connection) connection->flags |= CONNECTION_REDIRECTED;
  return true;
}

// A socket may connect again.
static __always_inline void forget(struct bpf_sock_addr* ctx, struct bpf_sock* sk) {
  if (bpf_sk_storage_delete(&true_peers, sk)) return;
  __u64 cookie = bpf_get_socket_cookie(ctx);
  bpf_map_delete_elem(&redirections, &cookie);
}

// Of a connection that is to be redirected.
static __always_inline enum way take(struct bpf_sock_addr* ctx, struct bpf_sock* sk,
                                     const struct wire_endpoint* destination, __u16* port) {
  struct wire_listeners* listeners = listeners_in(bpf_get_netns_cookie(ctx));
  if (!listeners) return nobody_takes_it();
  *port = destination->family == 4 ? listeners->v4 : listeners->v6;
  __u16 wanted = destination->port;
  bool ours = wanted == listeners->v4 || wanted == listeners->v6 || wanted == listeners->ours[0] ||
              wanted == listeners->ours[1];
  if (ours && is_loopback(destination)) return WAY_DIRECT;
  if (!*port || is_link_local(destination) || is_bound_elsewhere(sk)) return nobody_takes_it();
  if (!remember(ctx, sk, destination)) return nobody_takes_it();
  COUNT(redirected_connections, 1);
  return WAY_REDIRECTED;
}

// Which way, and when redirected, to which port.
static __always_inline enum way choose_way(struct bpf_sock_addr* ctx, const struct wire_endpoint* destination,
                                           __u16* port) {
  struct bpf_sock* sk = ctx->sk;
  if (!sk) return WAY_DIRECT;
  forget(ctx, sk);
  return is_to_be_redirected() ? take(ctx, sk, destination, port) : WAY_DIRECT;
}

static __always_inline void fill_port(struct wire_endpoint* endpoint, __u32 user_port) {
  endpoint->port = bpf_ntohs((__u16)user_port);
}

static __always_inline void fill_v4(struct wire_endpoint* endpoint, struct bpf_sock_addr* ctx,
                                    __u32 address) {
  address = replace_wildcard4(ctx, address);
  endpoint->family = 4;
  __builtin_memcpy(endpoint->address, &address, sizeof(address));
}

// True when the address is a mapped one. Volatile: the verifier wants the context's own fields read, not what
// the compiler makes of two ways to them.
static __always_inline bool fill_v6(struct wire_endpoint* endpoint, struct bpf_sock_addr* ctx) {
  volatile struct bpf_sock_addr* asked = ctx;
  __u32 words[4] = {asked->user_ip6[0], asked->user_ip6[1], asked->user_ip6[2], asked->user_ip6[3]};
  bool wildcard = !words[0] && !words[1] && !words[2] && !words[3];
  bool mapped = wildcard ? wildcard6_is_mapped(ctx) : !words[0] && !words[1] && words[2] == bpf_htonl(0xffff);
  if (mapped) {
    fill_v4(endpoint, ctx, wildcard ? bpf_htonl(0x7f000001) : words[3]);
    return true;
  }
  if (wildcard) words[3] = bpf_htonl(1);
  endpoint->family = 6;
  __builtin_memcpy(endpoint->address, words, sizeof(words));
  return false;
}

static __always_inline void lead_to_v4(struct bpf_sock_addr* ctx, __u16 port) {
  ctx->user_ip4 = bpf_htonl(0x7f000001);
  ctx->user_port = bpf_htons(port);
}

static __always_inline void lead_to_v6(struct bpf_sock_addr* ctx, bool mapped, __u16 port) {
  ctx->user_ip6[0] = 0;
  ctx->user_ip6[1] = 0;
  ctx->user_ip6[2] = mapped ? bpf_htonl(0xffff) : 0;
  ctx->user_ip6[3] = mapped ? bpf_htonl(0x7f000001) : bpf_htonl(1);
  ctx->user_port = bpf_htons(port);
}

// Whether the process may send this: QUIC would pass the proxy by, and who is refused it falls back to TCP.
static __always_inline int judge_datagram(struct bpf_sock_addr* ctx) {
  if (!quic_refused || ctx->user_port != bpf_htons(QUIC_PORT) || !is_to_be_redirected()) return 1;
  if (!listeners_in(bpf_get_netns_cookie(ctx)) && !fails_closed()) return 1;
  COUNT(refused_datagrams, 1);
  return refuse();
}

SEC("cgroup/connect4")
int redirect4(struct bpf_sock_addr* ctx) {
  if (ctx->type == SOCK_DGRAM) return judge_datagram(ctx);
  if (ctx->type != SOCK_STREAM || ctx->protocol != IPPROTO_TCP) return 1;
  struct wire_endpoint destination = {};
  fill_port(&destination, ctx->user_port);
  fill_v4(&destination, ctx, ctx->user_ip4);
  __u16 port = 0;
  enum way way = choose_way(ctx, &destination, &port);
  if (way == WAY_REFUSED) return refuse();
  if (way == WAY_REDIRECTED) lead_to_v4(ctx, port);
  return 1;
}

SEC("cgroup/connect6")
int redirect6(struct bpf_sock_addr* ctx) {
  if (ctx->type == SOCK_DGRAM) return judge_datagram(ctx);
  if (ctx->type != SOCK_STREAM || ctx->protocol != IPPROTO_TCP) return 1;
  struct wire_endpoint destination = {};
  fill_port(&destination, ctx->user_port);
  bool mapped = fill_v6(&destination, ctx);
  __u16 port = 0;
  enum way way = choose_way(ctx, &destination, &port);
  if (way == WAY_REFUSED) return refuse();
  if (way == WAY_REDIRECTED) lead_to_v6(ctx, mapped, port);
  return 1;
}

// For policy.bpf.c: sends a connection to the proxy that only the proxy can judge, whosever it is. 0 when
// nobody would take it: it is then as it was.
__noinline int steer4(struct bpf_sock_addr* ctx) {
  struct wire_endpoint destination = {.steered = 1};
  fill_port(&destination, ctx->user_port);
  fill_v4(&destination, ctx, ctx->user_ip4);
  struct bpf_sock* sk = ctx->sk;
  __u16 port = 0;
  if (ctx->protocol != IPPROTO_TCP || !sk || take(ctx, sk, &destination, &port) != WAY_REDIRECTED) return 0;
  COUNT(steered_connections, 1);
  lead_to_v4(ctx, port);
  return 1;
}

__noinline int steer6(struct bpf_sock_addr* ctx) {
  struct wire_endpoint destination = {.steered = 1};
  fill_port(&destination, ctx->user_port);
  bool mapped = fill_v6(&destination, ctx);
  struct bpf_sock* sk = ctx->sk;
  __u16 port = 0;
  if (ctx->protocol != IPPROTO_TCP || !sk || take(ctx, sk, &destination, &port) != WAY_REDIRECTED) return 0;
  COUNT(steered_connections, 1);
  lead_to_v6(ctx, mapped, port);
  return 1;
}

SEC("cgroup/sendmsg4")
int refuse_datagram4(struct bpf_sock_addr* ctx) {
  return judge_datagram(ctx);
}

SEC("cgroup/sendmsg6")
int refuse_datagram6(struct bpf_sock_addr* ctx) {
  return judge_datagram(ctx);
}

static __always_inline struct wire_endpoint* true_peer(struct bpf_sock_addr* ctx) {
  struct bpf_sock* sk = ctx->sk;
  return sk ? bpf_sk_storage_get(&true_peers, sk, 0, 0) : 0;
}

SEC("cgroup/getpeername4")
int true_peer4(struct bpf_sock_addr* ctx) {
  struct wire_endpoint* peer = true_peer(ctx);
  if (!peer) return 1;
  __u32 address;
  __builtin_memcpy(&address, peer->address, sizeof(address));
  ctx->user_ip4 = address;
  ctx->user_port = bpf_htons(peer->port);
  return 1;
}

SEC("cgroup/getpeername6")
int true_peer6(struct bpf_sock_addr* ctx) {
  struct wire_endpoint* peer = true_peer(ctx);
  if (!peer) return 1;
  __u32 words[4];
  __builtin_memcpy(words, peer->address, sizeof(words));
  bool mapped = peer->family == 4;
  ctx->user_ip6[0] = mapped ? 0 : words[0];
  ctx->user_ip6[1] = mapped ? 0 : words[1];
  ctx->user_ip6[2] = mapped ? bpf_htonl(0xffff) : words[2];
  ctx->user_ip6[3] = mapped ? words[0] : words[3];
  ctx->user_port = bpf_htons(peer->port);
  return 1;
}

SEC("tp_btf/sched_process_fork")
int BPF_PROG(mark_inherited, struct task_struct* parent, struct task_struct* child) {
  if (child->pid == child->tgid) inherit_mark(parent->tgid, child->tgid);
  return 0;
}

// These programs can outlive the agent, whose numbers others get.
static __always_inline void forget_own_process(__u32 tgid) {
  for (int i = 0; i < OWN_PROCESSES; i++)
    if (own_processes[i] == tgid) own_processes[i] = 0;
}

SEC("tp_btf/sched_process_exit")
int BPF_PROG(mark_forgotten, struct task_struct* task) {
  if (BPF_CORE_READ(task, signal, live.counter) != 0) return 0;
  forget_mark(task->tgid);
  forget_own_process(task->tgid);
  return 0;
}

// What starts in a container is in its namespace by now, and has yet to connect.
SEC("tp_btf/sched_process_exec")
int BPF_PROG(namespace_entered, struct task_struct* task) {
  if (is_to_be_redirected()) listeners_in(BPF_CORE_READ(task, nsproxy, net_ns, net_cookie));
  return 0;
}
