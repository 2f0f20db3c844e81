// SPDX-License-Identifier: GPL-2.0-only
// Judges the current process by the configuration's filters. A verdict is kept for as long as the process
// runs the same program in the same cgroup: the walks below are taken once.
#include "filters.h"

#include "path_walk.h"

#define NAME_BYTES 256
#define PIECE_BYTES 32
#define CGROUP_LEVELS 32

// The hash with a name and the NUL behind it added. Functions of their own for the verifier: it looks at each
// once. `name` is a kernel address.
__noinline __u64 hash_name(__u64 hash, __u64 name) {
  for (int piece = 0; piece < NAME_BYTES / PIECE_BYTES; piece++) {
    char text[PIECE_BYTES + 1];
    long length = bpf_probe_read_kernel_str(text, sizeof(text), (void*)(name + piece * PIECE_BYTES));
    for (int i = 0; i < PIECE_BYTES; i++) {
      if (i + 1 >= length) break;
      hash = wire_hash_byte(hash, text[i]);
    }
    if (length <= PIECE_BYTES) break;
  }
  return wire_hash_byte(hash, 0);
}

// What all rules said that matched.
struct outcome {
  __u32 only;  // groups in which one of "only" matched
  __u32 except;
  __u32 redirect;
};

static __always_inline void apply(struct outcome* outcome, __u32 group, __u32 rule) {
  if (rule & WIRE_FILTER_ONLY) outcome->only |= group;
  if (rule & WIRE_FILTER_EXCEPT) outcome->except |= group;
  if (rule & WIRE_FILTER_REDIRECT) outcome->redirect |= group;
}

static __always_inline void judge_executable(struct outcome* outcome, struct task_struct* task) {
  __u64 hash = WIRE_HASH_START;
  struct path_walk walk;
  if (!begin_walk(&walk, task)) return;
  for (int step = 0; step < PATH_STEPS; step++) {
    const unsigned char* name = 0;
    enum walked walked = walk_up(&walk, &name);
    if (walked == WALKED_MOUNT) continue;
    if (walked == WALKED_ROOT) {
      apply(outcome, WIRE_FILTER_PROCESSES, rule_of(WIRE_FILTER_PATH, hash));
      return;
    }
    bool last_component = hash == WIRE_HASH_START;
    hash = hash_name(hash, (__u64)name);
    if (last_component) apply(outcome, WIRE_FILTER_PROCESSES, rule_of(WIRE_FILTER_NAME, hash));
  }
}

// From the root down, so that a rule about one above matches.
static __always_inline void judge_cgroup(struct outcome* outcome, struct task_struct* task) {
  __u64 hash = WIRE_HASH_START;
  struct cgroup* cgroup = BPF_CORE_READ(task, cgroups, dfl_cgrp);
  struct cgroup** ancestors = (void*)cgroup + bpf_core_field_offset(struct cgroup, ancestors);
  int own_level = BPF_CORE_READ(cgroup, level);
  for (int level = 0; level < CGROUP_LEVELS; level++) {
    struct cgroup* ancestor = 0;
    if (level > own_level || bpf_probe_read_kernel(&ancestor, sizeof(ancestor), ancestors + level)) return;
    if (level > 0) hash = hash_name(hash, (__u64)BPF_CORE_READ(ancestor, kn, name));
    apply(outcome, WIRE_FILTER_CGROUPS, rule_of(WIRE_FILTER_CGROUP, hash));
    apply(outcome, WIRE_FILTER_CGROUPS, rule_of(WIRE_FILTER_CGROUP_ID, BPF_CORE_READ(ancestor, kn, id)));
  }
}

__noinline __u32 judge_process(void) {
  struct task_struct* task = (struct task_struct*)bpf_get_current_task();
  struct judged key = {};
  fill_process_key(&key.process, task);
  key.exec_id = BPF_CORE_READ(task, group_leader, self_exec_id);
  key.cgroup_id = BPF_CORE_READ(task, cgroups, dfl_cgrp, kn, id);
  __u32* known = bpf_map_lookup_elem(&verdicts, &key);
  if (known) return *known;

  struct outcome outcome = {};
  __u32 groups = filter_groups | redirect_groups;
  apply(&outcome, WIRE_FILTER_PROCESSES, rule_of(WIRE_FILTER_PID, key.process.tgid));
  if (groups & WIRE_FILTER_PROCESSES) judge_executable(&outcome, task);
  if (groups & WIRE_FILTER_CGROUPS) judge_cgroup(&outcome, task);
  __u32 wanted = only_groups & (WIRE_FILTER_PROCESSES | WIRE_FILTER_CGROUPS);
  __u32 verdict = outcome.redirect ? JUDGED_REDIRECTED : 0;
  if (outcome.except || (outcome.only & wanted) != wanted) verdict |= JUDGED_FILTERED;
  bpf_map_update_elem(&verdicts, &key, &verdict, BPF_ANY);
  return verdict;
}
