// SPDX-License-Identifier: GPL-2.0-only
// Telling what was said: plaintext in chunks, and what could not be read of it. For the programs that see TLS
// calls and for those that see sockets.
#ifndef WEIR_BPF_PROGRAMS_PLAINTEXT_H
#define WEIR_BPF_PROGRAMS_PLAINTEXT_H

#include "connection_facts.h"

#define PAGE_BYTES 4096
#define PAYLOAD_CHUNKS (1u << 17)  // of 16 KiB: 2 GiB, more than one call can carry

struct payload {
  struct wire_tls_object object;
  __u64 cookie;
  __u64 offset;
  __u64 address;  // in the caller's memory
  __u64 left;
  __u32 direction;
  __u32 kind;
  __u64 lost_end;  // of what the ring had no room for
};

static __always_inline bool submit_gap(const struct payload* payload, __u64 offset, __u64 length,
                                       __u32 direction, enum wire_gap_cause cause) {
  struct wire_gap* record = RESERVE(wire_gap, WIRE_TLS_GAP, ring_full_records);
  if (!record) return false;
  record->object = payload->object;
  record->cookie = payload->cookie;
  record->offset = offset;
  record->length = length;
  record->direction = direction;
  record->cause = cause;
  submit(record);
  return true;
}

// Its bytes are counted by what they were lost to, also when the ring has no room to tell of it.
static __always_inline void tell_gap(const struct payload* payload, __u64 length, enum wire_gap_cause cause) {
  COUNT(faults, 1);
  if (cause == WIRE_GAP_UNREADABLE)
    COUNT(unreadable_bytes, length);
  else
    COUNT(unaddressed_bytes, length);
  submit_gap(payload, payload->offset, length, payload->direction, cause);
}

static __always_inline bool has_room(void) {
  return bpf_ringbuf_query(&ring, BPF_RB_AVAIL_DATA) <= payload_limit;
}

// Of both directions, before the next bytes of either: whoever reads them must know by then that an answer
// has passed unseen, or its request.
static __always_inline void tell_losses(const struct payload* payload, struct untold_losses* lost) {
  if (!(lost->end[WIRE_SENT] | lost->end[WIRE_RECEIVED]) || !has_room()) return;
  for (__u32 direction = WIRE_SENT; direction <= WIRE_RECEIVED; direction++) {
    __u64 end = lost->end[direction];
    if (end && submit_gap(payload, end, 0, direction, WIRE_GAP_RING_FULL)) lost->end[direction] = 0;
  }
}

static __always_inline void note_losses(const struct payload* payload, struct untold_losses* lost) {
  if (payload->lost_end) lost->end[payload->direction & 1] = payload->lost_end;
}

enum copied { COPIED, FAULTED, DROPPED };

// The ring's reservations have constant sizes: a chunk goes into the smallest that holds it. User memory is
// read without faulting, because a fault while holding a reservation would stop the ring for everyone.
#define COPY_INTO(room)                                                                                \
  do {                                                                                                 \
    struct wire_bytes* record = bpf_ringbuf_reserve(&ring, sizeof(struct wire_bytes) + (room), 0);     \
    if (!record) return DROPPED;                                                                       \
    if (bpf_probe_read_user(record + 1, length > (room) ? (room) : length, (void*)payload->address)) { \
      bpf_ringbuf_discard(record, BPF_RB_NO_WAKEUP);                                                   \
      return FAULTED;                                                                                  \
    }                                                                                                  \
    fill_header(&record->header, payload->kind, sizeof(*record) + length);                             \
    record->object = payload->object;                                                                  \
    record->cookie = payload->cookie;                                                                  \
    record->offset = payload->offset;                                                                  \
    record->length = length;                                                                           \
    record->direction = payload->direction;                                                            \
    submit(record);                                                                                    \
    return COPIED;                                                                                     \
  } while (0)

static __noinline enum copied copy_chunk(const struct payload* payload, __u32 length) {
  if (!payload) return COPIED;
  if (length <= 128) COPY_INTO(128);
  if (length <= 512) COPY_INTO(512);
  if (length <= 1024) COPY_INTO(1024);
  if (length <= 2048) COPY_INTO(2048);
  if (length <= 4096) COPY_INTO(4096);
  if (length <= 8192) COPY_INTO(8192);
  COPY_INTO(WIRE_CHUNK_BYTES);
}

// Brings pages that were swapped out since the library read them back into memory. In sleepable programs.
static __always_inline void fault_in(__u64 address, __u32 length) {
  char byte;
  for (int page = 0; page <= WIRE_CHUNK_BYTES / PAGE_BYTES; page++) {
    __u64 at = (address & ~(__u64)(PAGE_BYTES - 1)) + page * PAGE_BYTES;
    if (at < address + length) bpf_copy_from_user(&byte, 1, (void*)at);
  }
}

static __always_inline long tell_next(struct payload* payload, bool may_sleep) {
  __u32 length = payload->left > WIRE_CHUNK_BYTES ? WIRE_CHUNK_BYTES : payload->left;
  enum copied copied = has_room() ? copy_chunk(payload, length) : DROPPED;
  if (copied == FAULTED && may_sleep) {
    fault_in(payload->address, length);
    copied = copy_chunk(payload, length);
  }
  if (copied == FAULTED) tell_gap(payload, length, WIRE_GAP_UNREADABLE);
  if (copied == DROPPED) {
    COUNT(ring_full_records, 1);
    COUNT(ring_full_bytes, length);
    payload->lost_end = payload->offset + length;
  }
  payload->address += length;
  payload->offset += length;
  payload->left -= length;
  return payload->left == 0;
}

// Notes plaintext that passed.
static __always_inline void count_plaintext(struct connection* connection, bool sent, __u64 bytes) {
  if (connection->flags & CONNECTION_UNTOLD) tell_opened(connection);
  connection->flags |= CONNECTION_PLAINTEXT;
  __sync_fetch_and_add(sent ? &connection->plaintext_sent : &connection->plaintext_received, bytes);
}

#endif
