// SPDX-License-Identifier: GPL-2.0-only
// How a TLS record begins, and what an object that has met its socket means for the connection: for the
// programs that see objects make records and for those that see sockets send them.
#ifndef WEIR_BPF_PROGRAMS_CIPHERTEXT_H
#define WEIR_BPF_PROGRAMS_CIPHERTEXT_H

#include "common.h"

#define APPLICATION_DATA 23  // RFC 8446, 5.1
#define RECORD_HEADER 5
#define MOST_PLAINTEXT 16384

static __always_inline bool read_record_start(struct ciphertext* start, __u64 address) {
  const __u8* bytes = (const __u8*)start->words;
  return !bpf_probe_read_user(start->words, CIPHERTEXT_BYTES, (void*)address) &&
         bytes[0] == APPLICATION_DATA && bytes[1] == 3 && bytes[2] >= 1 && bytes[2] <= 3;
}

// An object has met its socket. What it said before is the connection's, too.
// For the verifier a function of its own; each of the programs' files has it.
__weak __noinline int note_object(struct connection* connection, const struct tls_object* object) {
  if (!connection || !object) return 0;
  connection->flags |= CONNECTION_LINKED;
  if (!(object->sent | object->received)) return 0;
  connection->flags |= CONNECTION_PLAINTEXT;
  __sync_fetch_and_add(&connection->plaintext_sent, object->sent);
  __sync_fetch_and_add(&connection->plaintext_received, object->received);
  return 0;
}

#endif
