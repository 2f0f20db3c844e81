// SPDX-License-Identifier: GPL-2.0-only
// Processes that asked for being redirected: with all that they start, until each ends.
#ifndef WEIR_BPF_PROGRAMS_MARKS_H
#define WEIR_BPF_PROGRAMS_MARKS_H

#include "common.h"

static __always_inline bool is_marked(__u32 tgid) {
  return marks_used && bpf_map_lookup_elem(&marked_processes, &tgid);
}

static __always_inline void forget_mark(__u32 tgid) {
  if (marks_used) bpf_map_delete_elem(&marked_processes, &tgid);
}

// The child's number may have been another's, whose end was not seen.
static __always_inline void inherit_mark(__u32 parent, __u32 child) {
  if (!is_marked(parent)) return forget_mark(child);
  __u32 one = 1;
  if (bpf_map_update_elem(&marked_processes, &child, &one, BPF_ANY)) COUNT(unmarked_children, 1);
}

#endif
