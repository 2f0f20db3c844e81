// SPDX-License-Identifier: GPL-2.0-only
// Policy where the kernel can judge: who, address and port, at connect and at each datagram to an address of
// its own. The only cgroup programs here that may return 0: the caller then gets EPERM. What they can't judge
// alone (WIRE_POLICY_MAYBE) decides only together with all that could decide in its place, as in
// attribution/policy_rules.h.
#include "connection_facts.h"
#include "path_walk.h"
#include "wildcard.h"

#define COMPONENTS 32
#define COMPONENT_BYTES 256
#define PIECE_BYTES 32
#define SOCK_DGRAM 2
#define QUIC_PORT 443

// redirect.bpf.c has them.
int steer4(struct bpf_sock_addr* ctx);
int steer6(struct bpf_sock_addr* ctx);

// Written by user space in this order: one half of the table, then the number of the state.
struct wire_policy_state policy_states[2] = {};
__u32 policy_state_now = 0;  // its last bit says which half is in force
struct wire_policy_listener policy_listeners[WIRE_POLICY_LISTENERS] = {};

struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(max_entries, 1);
  __type(key, __u32);
  __type(value, struct wire_policy_rule);
} policy_rules SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_HASH);
  __uint(map_flags, BPF_F_NO_PREALLOC);
  __uint(max_entries, 1);
  __type(key, struct wire_policy_key);
  __type(value, struct wire_policy_lists);
} policy_lists SEC(".maps");

// Which lists a process is in, kept for as long as it runs the same program as the same user in the same
// cgroup under the same policy.
struct policy_who {
  struct wire_process_key process;
  __u64 exec_id;
  __u64 cgroup_id;
  __u32 uid;
  __u32 state;
};
struct {
  __uint(type, BPF_MAP_TYPE_LRU_HASH);
  __uint(max_entries, 1);
  __type(key, struct policy_who);
  __type(value, struct wire_policy_lists);
} policy_clients SEC(".maps");

// Where a path's components are put together: the walk gives the last one first, rules need the first one
// first.
struct policy_path {
  __u64 count;  // here and not in a variable: the verifier would follow each value of it
  __u64 hashes[COMPONENTS];
};
struct {
  __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
  __uint(max_entries, 1);
  __type(key, __u32);
  __type(value, struct policy_path);
} policy_paths SEC(".maps");

// Functions of their own from here on for the verifier: it looks at each once.
__noinline int policy_join(struct wire_policy_lists* all, __u32 state, __u32 kind, __u64 value) {
  if (!all) return 0;
  struct wire_policy_key key = {.kind = kind, .state = state, .value = value};
  struct wire_policy_lists* more = bpf_map_lookup_elem(&policy_lists, &key);
  if (!more) return 0;
  for (int i = 0; i < WIRE_POLICY_LIST_WORDS; i++) all->bits[i] |= more->bits[i];
  return 0;
}

// The hash of one name, a kernel address.
__noinline __u64 policy_name_hash(__u64 name) {
  __u64 hash = WIRE_HASH_START;
  for (int piece = 0; piece < COMPONENT_BYTES / PIECE_BYTES; piece++) {
    char text[PIECE_BYTES + 1];
    long length = bpf_probe_read_kernel_str(text, sizeof(text), (void*)(name + piece * PIECE_BYTES));
    for (int i = 0; i < PIECE_BYTES; i++) {
      if (i + 1 >= length) break;
      hash = wire_hash_byte(hash, text[i]);
    }
    if (length <= PIECE_BYTES) break;
  }
  return hash;
}

// How many components the current executable's path has, their hashes in policy_paths; 0 when it can't be
// told.
__noinline __u32 policy_read_path(void) {
  __u32 zero = 0;
  struct policy_path* path = bpf_map_lookup_elem(&policy_paths, &zero);
  struct path_walk walk;
  if (!path || !begin_walk(&walk, (struct task_struct*)bpf_get_current_task())) return 0;
  path->count = 0;
  for (int step = 0; step < PATH_STEPS; step++) {
    const unsigned char* name = 0;
    enum walked walked = walk_up(&walk, &name);
    if (walked == WALKED_MOUNT) continue;
    if (walked == WALKED_ROOT) return path->count;
    __u64 at = path->count;
    if (at >= COMPONENTS) return 0;
    path->hashes[at] = policy_name_hash((__u64)name);
    path->count = at + 1;
  }
  return 0;
}

__noinline int policy_judge_executable(struct wire_policy_lists* lists, __u32 state) {
  __u32 zero = 0;
  struct policy_path* path = bpf_map_lookup_elem(&policy_paths, &zero);
  __u32 count = policy_read_path();
  if (!lists) return 0;
  if (!path || count == 0 || count > COMPONENTS) {
    lists->unknown = 1;
    return 0;
  }
  policy_join(lists, state, WIRE_POLICY_EXECUTABLE_NAME, path->hashes[0]);
  __u64 hash = WIRE_HASH_START;
  for (int at = COMPONENTS - 1; at >= 0; at--) {
    if (at >= (int)count) continue;
    hash = wire_hash_join(hash, path->hashes[at]);
    policy_join(lists, state, at == 0 ? WIRE_POLICY_EXECUTABLE : WIRE_POLICY_EXECUTABLE_BELOW, hash);
  }
  return 0;
}

__noinline int policy_judge_cgroup(struct wire_policy_lists* lists, __u32 state) {
  if (!lists) return 0;
  struct task_struct* task = (struct task_struct*)bpf_get_current_task();
  __u64 hash = WIRE_HASH_START;
  struct cgroup* cgroup = BPF_CORE_READ(task, cgroups, dfl_cgrp);
  struct cgroup** ancestors = (void*)cgroup + bpf_core_field_offset(struct cgroup, ancestors);
  int own_level = BPF_CORE_READ(cgroup, level);
  for (int level = 0; level < COMPONENTS; level++) {
    struct cgroup* ancestor = 0;
    if (level > own_level || bpf_probe_read_kernel(&ancestor, sizeof(ancestor), ancestors + level)) return 0;
    if (level > 0) hash = wire_hash_join(hash, policy_name_hash((__u64)BPF_CORE_READ(ancestor, kn, name)));
    policy_join(lists, state, WIRE_POLICY_CGROUP, hash);
  }
  return 0;
}

__noinline int policy_judge_client(struct wire_policy_lists* lists, __u32 state) {
  if (!lists) return 0;
  struct task_struct* task = (struct task_struct*)bpf_get_current_task();
  struct policy_who who = {.state = state, .uid = BPF_CORE_READ(task, cred, uid.val)};
  fill_process_key(&who.process, task);
  who.exec_id = BPF_CORE_READ(task, group_leader, self_exec_id);
  who.cgroup_id = BPF_CORE_READ(task, cgroups, dfl_cgrp, kn, id);
  struct wire_policy_lists* known = bpf_map_lookup_elem(&policy_clients, &who);
  if (known) {
    *lists = *known;
    return 0;
  }
  policy_join(lists, state, WIRE_POLICY_USER, who.uid);
  policy_judge_executable(lists, state);
  policy_judge_cgroup(lists, state);
  bpf_map_update_elem(&policy_clients, &who, lists, BPF_ANY);
  return 0;
}

// One question, and what the rules have said so far.
struct policy_question {
  struct wire_policy_lists lists;
  __u32 address[4];
  __u32 first;  // of the half in force
  __u32 actions;
  __u32 decided;    // 1 + the table's index of the rule that has the last word
  __u32 left_open;  // the same of the first that only the proxy can judge
  __u16 port;
  __u8 family;
  __u8 redirected;  // to the proxy, which asks again
};

static __always_inline bool in_list(const struct policy_question* question,
                                    const struct wire_policy_rule* rule, __u16 list, bool may_be_unknown) {
  if (!list) return true;
  if (may_be_unknown && question->lists.unknown) return rule->action == WIRE_POLICY_DENY;
  __u32 bit = list - 1;
  return question->lists.bits[(bit / 64) % WIRE_POLICY_LIST_WORDS] >> (bit % 64) & 1;
}

static long try_rule(__u32 index, struct policy_question* question) {
  __u32 at = question->first + index;
  struct wire_policy_rule* rule = bpf_map_lookup_elem(&policy_rules, &at);
  if (!rule) return 1;
  if (question->port < rule->port_first || question->port > rule->port_last) return 0;
  if (rule->family) {
    if (rule->family != question->family) return 0;
    for (int i = 0; i < 4; i++)
      if ((question->address[i] ^ rule->address[i]) & rule->mask[i]) return 0;
  }
  if (!in_list(question, rule, rule->users, false) || !in_list(question, rule, rule->cgroups, false) ||
      !in_list(question, rule, rule->executables, true)) {
    return 0;
  }
  question->actions |= 1u << (rule->action & 3);
  if (rule->flags & WIRE_POLICY_MAYBE) {
    if (!question->left_open) question->left_open = at + 1;
    return 0;
  }
  question->decided = at + 1;
  return 1;
}

static __always_inline bool is_loopback(const struct policy_question* question) {
  if (question->family == 4) return (bpf_ntohl(question->address[0]) >> 24) == 127;
  return !(question->address[0] | question->address[1] | question->address[2]) &&
         question->address[3] == bpf_htonl(1);
}

// One that listens on all addresses is exempt where it can be no other host's: on loopback.
static __always_inline bool is_listener(const struct policy_question* question) {
  for (int i = 0; i < WIRE_POLICY_LISTENERS; i++) {
    struct wire_policy_listener* listener = &policy_listeners[i];
    if (!listener->port || listener->port != question->port) continue;
    const __u32* address = listener->address;
    if (!(address[0] | address[1] | address[2] | address[3]) && is_loopback(question)) return true;
    if (listener->family == question->family && question->address[0] == address[0] &&
        question->address[1] == address[1] && question->address[2] == address[2] &&
        question->address[3] == address[3])
      return true;
  }
  return false;
}

static __always_inline void tell(struct bpf_sock_addr* ctx, const struct policy_question* question,
                                 __u32 verdict) {
  struct wire_policy_decided* record = RESERVE(wire_policy_decided, WIRE_POLICY_DECIDED, untold_policy);
  if (!record) return;
  struct task_struct* task = (struct task_struct*)bpf_get_current_task();
  __builtin_memset(&record->owner, 0, sizeof(*record) - sizeof(record->header));
  fill_process_key(&record->owner.process, task);
  record->owner.cookie = bpf_get_socket_cookie(ctx);
  record->owner.netns_cookie = bpf_get_netns_cookie(ctx);
  record->owner.cgroup_id = BPF_CORE_READ(task, cgroups, dfl_cgrp, kn, id);
  record->owner.uid = BPF_CORE_READ(task, cred, uid.val);
  __builtin_memcpy(record->address, question->address, sizeof(record->address));
  record->port = question->port;
  record->family = question->family;
  record->allowed = verdict != WIRE_POLICY_DENY;
  record->udp = ctx->type == SOCK_DGRAM;
  __u32 at = question->decided - 1;
  struct wire_policy_rule* rule = question->decided ? bpf_map_lookup_elem(&policy_rules, &at) : 0;
  if (rule) __builtin_memcpy(record->rule, rule->name, sizeof(record->rule));
  submit(record);
}

static __always_inline __u32 verdict_of(const struct policy_question* question, __u32 fallback) {
  struct wire_policy_rule* rule = 0;
  __u32 at = question->decided - 1;
  if (question->decided) rule = bpf_map_lookup_elem(&policy_rules, &at);
  __u32 last = rule ? rule->action : fallback;
  __u32 actions = question->actions | 1u << (last & 3);
  if (!question->left_open || actions == 1u << WIRE_POLICY_DENY || actions == 1u << WIRE_POLICY_ALLOW)
    return last;
  return WIRE_POLICY_PROXY;
}

// Of a connection that is redirected already, where it was to go.
static __always_inline void find_true_destination(struct bpf_sock_addr* ctx,
                                                  struct policy_question* question) {
  __u64 cookie = bpf_get_socket_cookie(ctx);
  struct connection* connection = bpf_map_lookup_elem(&connections, &cookie);
  if (ctx->type != SOCK_STREAM || !connection || !(connection->flags & CONNECTION_REDIRECTED)) return;
  struct wire_endpoint* destination = bpf_map_lookup_elem(&redirections, &cookie);
  if (!destination) return;
  question->redirected = 1;
  question->port = destination->port;
  question->family = destination->family;
  __builtin_memcpy(question->address, destination->address, sizeof(question->address));
}

// What only the proxy can judge goes there. QUIC can't: its clients fall back to TCP when it is refused.
static __always_inline bool steer(struct bpf_sock_addr* ctx, bool by_v6) {
  return policy_steers && ctx->type == SOCK_STREAM && (by_v6 ? steer6(ctx) : steer4(ctx));
}

static __always_inline bool is_refused_quic(struct bpf_sock_addr* ctx,
                                            const struct policy_question* question) {
  return policy_steers && quic_refused && ctx->type == SOCK_DGRAM && question->port == QUIC_PORT;
}

// 0 refuses.
static __always_inline int judge(struct bpf_sock_addr* ctx, struct policy_question* question, bool by_v6) {
  __u32 now = policy_state_now;
  struct wire_policy_state* state = &policy_states[now & 1];
  if (!now || is_own_process(bpf_get_current_pid_tgid() >> 32)) return 1;
  find_true_destination(ctx, question);
  if (!question->redirected && is_listener(question)) return 1;
  question->first = (now & 1) * state->room;
  if (state->lists) policy_judge_client(&question->lists, now);
  bpf_loop(state->rules, try_rule, question, 0);
  __u32 verdict = verdict_of(question, state->fallback);
  if (question->redirected && verdict != WIRE_POLICY_DENY) return 1;
  if (verdict == WIRE_POLICY_PROXY) {
    question->decided = 0;
    if (steer(ctx, by_v6)) return 1;
    COUNT(policy_unjudged, 1);
    verdict = state->fallback;
    if (verdict == WIRE_POLICY_ALLOW && is_refused_quic(ctx, question)) {
      verdict = WIRE_POLICY_DENY;
      question->decided = question->left_open;
    }
  }
  if (verdict == WIRE_POLICY_DENY) COUNT(policy_refused, 1);
  if (verdict != WIRE_POLICY_ALLOW) tell(ctx, question, verdict);
  return verdict != WIRE_POLICY_DENY;
}

static __always_inline int judge4(struct bpf_sock_addr* ctx) {
  struct policy_question question = {.family = 4, .port = bpf_ntohs(ctx->user_port)};
  question.address[0] = replace_wildcard4(ctx, ctx->user_ip4);
  return judge(ctx, &question, false);
}

static __always_inline int judge6(struct bpf_sock_addr* ctx) {
  struct policy_question question = {.family = 6, .port = bpf_ntohs(ctx->user_port)};
  question.address[0] = ctx->user_ip6[0];
  question.address[1] = ctx->user_ip6[1];
  question.address[2] = ctx->user_ip6[2];
  question.address[3] = ctx->user_ip6[3];
  if (question.address[0] == 0 && question.address[1] == 0 && question.address[2] == bpf_htonl(0xffff)) {
    question.family = 4;
    question.address[0] = replace_wildcard4(ctx, question.address[3]);
    question.address[2] = question.address[3] = 0;
  } else if (!(question.address[0] | question.address[1] | question.address[2] | question.address[3])) {
    bool mapped = wildcard6_is_mapped(ctx);
    question.family = mapped ? 4 : 6;
    question.address[mapped ? 0 : 3] = mapped ? bpf_htonl(0x7f000001) : bpf_htonl(1);
  }
  return judge(ctx, &question, true);
}

SEC("cgroup/connect4")
int policy_connect4(struct bpf_sock_addr* ctx) {
  return judge4(ctx);
}

SEC("cgroup/connect6")
int policy_connect6(struct bpf_sock_addr* ctx) {
  return judge6(ctx);
}

SEC("cgroup/sendmsg4")
int policy_send4(struct bpf_sock_addr* ctx) {
  return judge4(ctx);
}

SEC("cgroup/sendmsg6")
int policy_send6(struct bpf_sock_addr* ctx) {
  return judge6(ctx);
}
