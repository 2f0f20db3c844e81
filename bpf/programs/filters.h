// SPDX-License-Identifier: GPL-2.0-only
// What the configuration leaves out: told apart before anything is copied.
#ifndef WEIR_BPF_PROGRAMS_FILTERS_H
#define WEIR_BPF_PROGRAMS_FILTERS_H

#include "common.h"

// What the rules say of the current process, by itself or by its cgroup. In filters.bpf.c; callers ask
// process_filtered() and process_redirected(), which cost nothing where no such rule is.
__u32 judge_process(void);
#define JUDGED_FILTERED 1u  // left out
#define JUDGED_REDIRECTED 2u

static __always_inline bool process_filtered(void) {
  return (filter_groups & (WIRE_FILTER_PROCESSES | WIRE_FILTER_CGROUPS)) &&
         (judge_process() & JUDGED_FILTERED);
}

static __always_inline bool process_redirected(void) {
  return redirect_groups && (judge_process() & JUDGED_REDIRECTED);
}

static __always_inline __u32 rule_of(__u32 kind, __u64 value) {
  struct wire_filter_key key = {.kind = kind, .value = value};
  __u32* rule = bpf_map_lookup_elem(&filter_rules, &key);
  return rule ? *rule : 0;
}

static __always_inline bool port_filtered(__u16 peer_port) {
  if (!(filter_groups & WIRE_FILTER_PORTS)) return false;
  __u32 rule = rule_of(WIRE_FILTER_PORT, peer_port);
  return (rule & WIRE_FILTER_EXCEPT) || ((only_groups & WIRE_FILTER_PORTS) && !(rule & WIRE_FILTER_ONLY));
}

#endif
