// SPDX-License-Identifier: GPL-2.0-only
// TLS objects, the sockets that they speak on, and what their calls said.
//
// A socket is an object's when the ClientHello that it carried has the object's own random bytes, whenever
// and by whom it was sent. Where a library doesn't show them, or the ClientHello was sent before the programs
// were there, it is the socket that the same thread uses inside a call on the object; if it uses none, the
// socket that sends what the object has made (ciphertext_search.h). A server's object is never a socket's
// that its process connected, nor a client's one's that it accepted.
#ifndef WEIR_BPF_PROGRAMS_TLS_OBJECTS_H
#define WEIR_BPF_PROGRAMS_TLS_OBJECTS_H

#include "ciphertext.h"
#include "filters.h"
#include "plaintext.h"
#include "tls_calls.h"

struct caller {
  struct wire_process_key process;
  __u64 exec_id;
};

static __always_inline void fill_caller(struct caller* caller) {
  struct task_struct* task = bpf_get_current_task_btf();
  caller->process.tgid = task->tgid;
  caller->process.padding = 0;
  caller->process.start_boottime_ns = task->group_leader->start_boottime;
  caller->exec_id = task->group_leader->self_exec_id;
}

static __always_inline struct tls_object* find_object(const struct tls_key* key,
                                                      const struct caller* caller) {
  struct tls_object* object = bpf_map_lookup_elem(&tls_objects, key);
  if (!object || object->start_boottime_ns != caller->process.start_boottime_ns ||
      object->exec_id != caller->exec_id)
    return 0;
  return object;
}

static __always_inline struct tls_object* make_object(const struct tls_key* key,
                                                      const struct caller* caller) {
  struct tls_object fresh = {
      .start_boottime_ns = caller->process.start_boottime_ns,
      .exec_id = caller->exec_id,
      .generation = __sync_fetch_and_add(&last_generation, 1) + 1,
  };
  if (bpf_map_update_elem(&tls_objects, key, &fresh, BPF_ANY)) COUNT(table_full, 1);
  return bpf_map_lookup_elem(&tls_objects, key);
}

static __always_inline void fill_object(struct wire_tls_object* wire, const struct tls_key* key,
                                        const struct caller* caller, __u32 generation, __u64 site) {
  wire->process = caller->process;
  wire->pointer = key->pointer;
  wire->generation = generation;
  wire->library = library_of(site);
}

// ---- the object's socket

// False when the library doesn't show them, or there are none yet.
static __always_inline bool read_random(struct hello_random* random, __u64 object, __u64 site) {
  __u64 pointer_at = (site >> 16) & 0xffff;
  __u64 random_at = (site >> 32) & 0xffff;
  if (!random_at) return false;
  if (pointer_at && bpf_probe_read_user(&object, sizeof(object), (void*)(object + pointer_at))) return false;
  if (bpf_probe_read_user(random, sizeof(*random), (void*)(object + random_at))) return false;
  return random->words[0] | random->words[1] | random->words[2] | random->words[3];
}

enum role { ROLE_UNKNOWN, ROLE_CLIENT, ROLE_SERVER };

// To be asked of an object that has random bytes: before, a library may not know either.
static __always_inline enum role read_role(__u64 object, __u64 site) {
  __u64 server_at = (site >> 48) & 0xfff;
  __u32 flag = site >> 60;
  __u32 server = 0;
  if (!server_at || bpf_probe_read_user(&server, sizeof(server), (void*)(object + server_at)))
    return ROLE_UNKNOWN;
  __u32 mask = flag == WIRE_SERVER_INT ? ~0u : flag == WIRE_SERVER_BYTE ? 0xff : 1u << (flag & 7);
  return server & mask ? ROLE_SERVER : ROLE_CLIENT;
}

// The one of the sockets that the caller used. Another process's may be the caller's own (it forked), if the
// object's role is known and nobody sent a copy.
static __always_inline __u64 socket_of_caller(const struct hello_passages* passages,
                                              const struct caller* caller, __u64 used, enum role role) {
  for (int i = 0; i < HELLO_SOCKETS; i++)
    if (used && passages->cookies[i] == used) return used;
  for (int i = 0; i < HELLO_SOCKETS; i++)
    if (passages->cookies[i] && passages->tgids[i] == caller->process.tgid) return passages->cookies[i];
  return role == ROLE_UNKNOWN || passages->cookies[1] ? 0 : passages->cookies[0];
}

// The open socket that carried these random bytes. A server's object has the same as its client's: the one is
// found where they were received, the other where they were sent.
static __always_inline __u64 socket_of_hello(const struct hello_random* random, const struct caller* caller,
                                             __u64 used, enum role role) {
  struct hello_sockets* hello = bpf_map_lookup_elem(&hellos, random);
  if (!hello) return 0;
  __u64 cookie = socket_of_caller(role == ROLE_SERVER ? &hello->received : &hello->sent, caller, used, role);
  return cookie && bpf_map_lookup_elem(&connections, &cookie) ? cookie : 0;
}

// Whether an object can speak through a socket that was used inside a call on it. `has_random`: one whose
// ClientHello was seen, and is not this object's, is another's.
static __always_inline bool may_speak_on(const struct connection* connection, enum role role,
                                         bool has_random) {
  if (!connection) return true;
  if (connection->flags & CONNECTION_ACCEPTED) return role != ROLE_CLIENT;
  return role != ROLE_SERVER && !(has_random && (connection->flags & CONNECTION_HELLO));
}

static __always_inline struct tls_object* link_socket(struct tls_object* object, const struct tls_key* key,
                                                      const struct caller* caller,
                                                      const struct tls_call* call) {
  if (object && object->cookie && (!call->other_cookie || call->used_linked)) return object;
  struct hello_random random = {};
  bool has_random = read_random(&random, call->object, call->site);
  enum role role = has_random ? read_role(call->object, call->site) : ROLE_UNKNOWN;
  struct connection* used = bpf_map_lookup_elem(&connections, &call->other_cookie);
  if (role == ROLE_UNKNOWN && used && (used->flags & CONNECTION_ACCEPTED)) role = ROLE_SERVER;
  __u64 cookie = has_random ? socket_of_hello(&random, caller, call->other_cookie, role) : 0;
  if (!cookie && may_speak_on(used, role, has_random)) cookie = call->other_cookie;
  if (!cookie && (role != ROLE_SERVER || (object && object->cookie))) return object;
  if (object && object->cookie == cookie) return object;
  if (!object || object->cookie) object = make_object(key, caller);
  if (!object) return 0;
  object->cookie = cookie;
  struct connection* connection = cookie ? bpf_map_lookup_elem(&connections, &cookie) : 0;
  if (connection ? connection->flags & CONNECTION_ACCEPTED : role == ROLE_SERVER)
    object->flags |= OBJECT_ACCEPTED;
  if (connection && (connection->flags & CONNECTION_FILTERED)) object->flags |= OBJECT_FILTERED;
  if (connection) note_object(connection, object);
  return object;
}

// ---- what calls said

static __always_inline void tell_handshake(const struct tls_key* key, const struct caller* caller,
                                           struct tls_object* object, __u64 site, bool unused) {
  struct wire_handshake* record = RESERVE(wire_handshake, WIRE_TLS_HANDSHAKE, ring_full_records);
  if (!record) return;
  object->flags |= OBJECT_HANDSHAKE_TOLD;
  fill_object(&record->object, key, caller, object->generation, site);
  record->cookie = object->cookie;
  record->version = 0;
  record->unused = unused;
  // OpenSSL before 3.2 keeps the protocol's version first in the object (struct ssl_st, ssl/ssl_local.h);
  // later ones keep a small type number there, which is no version.
  __u32 first = 0;
  if (library_of(site) == WIRE_LIBRARY_OPENSSL &&
      !bpf_probe_read_user(&first, sizeof(first), (void*)key->pointer) && first >= 0x0301 && first <= 0x0304)
    record->version = first;
  submit(record);
}

static __always_inline void tell_ended(const struct tls_key* key, const struct caller* caller,
                                       struct tls_object* object, __u64 site, __u32 direction) {
  __u32 flag = direction == WIRE_SENT ? OBJECT_SENT_ENDED : OBJECT_RECEIVED_ENDED;
  if (object->flags & (flag | OBJECT_FILTERED)) return;
  if (!(object->sent | object->received)) return;
  if ((object->flags & OBJECT_ACCEPTED) && !ingress_wanted) return;
  object->flags |= flag;
  struct wire_ended* record = RESERVE(wire_ended, WIRE_TLS_ENDED, ring_full_records);
  if (!record) return;
  fill_object(&record->object, key, caller, object->generation, site);
  record->cookie = object->cookie;
  record->offset = direction == WIRE_SENT ? object->sent : object->received;
  record->direction = direction;
  record->padding = 0;
  submit(record);
}

static long tell_chunk(__u64 index, void* payload) {
  return tell_next(payload, true);
}

static long tell_chunk_at_once(__u64 index, void* payload) {
  return tell_next(payload, false);
}

// Notes the bytes that a call moved, and what is to be told of them.
static __always_inline void begin_telling(struct payload* payload, const struct tls_key* key,
                                          const struct caller* caller, struct tls_object* object,
                                          const struct tls_call* call, __u64 bytes) {
  bool sent = is_sending(call->site);
  __u64* total = sent ? &object->sent : &object->received;
  payload->cookie = object->cookie;
  payload->offset = *total;
  payload->address = call->buffer;
  payload->left = bytes;
  payload->direction = sent ? WIRE_SENT : WIRE_RECEIVED;
  payload->kind = WIRE_TLS_BYTES;
  fill_object(&payload->object, key, caller, object->generation, call->site);
  *total += bytes;
  tell_losses(payload, &object->lost);
}

// For the verifier functions of their own; each of the programs' files has them.
__weak __noinline int tell_said(const struct tls_key* key, const struct caller* caller,
                                struct tls_object* object, const struct tls_call* call, __u64 bytes) {
  if (!key || !caller || !object || !call) return 0;
  struct payload payload = {};
  begin_telling(&payload, key, caller, object, call, bytes);
  if (call->buffer)
    bpf_loop(PAYLOAD_CHUNKS, tell_chunk, &payload, 0);
  else
    tell_gap(&payload, bytes, WIRE_GAP_UNADDRESSED);
  note_losses(&payload, &object->lost);
  return 0;
}

// In programs that may not sleep.
__weak __noinline int tell_said_at_once(const struct tls_key* key, const struct caller* caller,
                                        struct tls_object* object, const struct tls_call* call, __u64 bytes) {
  if (!key || !caller || !object || !call) return 0;
  struct payload payload = {};
  begin_telling(&payload, key, caller, object, call, bytes);
  bpf_loop(PAYLOAD_CHUNKS, tell_chunk_at_once, &payload, 0);
  note_losses(&payload, &object->lost);
  return 0;
}

// A call is over, or as good as over, that moved `bytes`. Returns its object, or null when nothing is to be
// told of it.
static __always_inline struct tls_object* finish_call(const struct tls_key* key, const struct caller* caller,
                                                      const struct tls_call* call, __u64 bytes,
                                                      bool may_sleep) {
  struct tls_object* object = link_socket(find_object(key, caller), key, caller, call);
  if (!object && bytes) object = make_object(key, caller);
  if (!object || ((object->flags & OBJECT_ACCEPTED) && !ingress_wanted)) return 0;
  bool unknown_port = !object->cookie && (filter_groups & WIRE_FILTER_PORTS);
  if ((object->flags & OBJECT_FILTERED) || unknown_port) return 0;
  if (!bytes) return object;
  struct connection* connection = object->cookie ? bpf_map_lookup_elem(&connections, &object->cookie) : 0;
  if (connection) count_plaintext(connection, is_sending(call->site), bytes);
  if (!(object->flags & OBJECT_HANDSHAKE_TOLD)) tell_handshake(key, caller, object, call->site, false);
  if (may_sleep)
    tell_said(key, caller, object, call, bytes);
  else
    tell_said_at_once(key, caller, object, call, bytes);
  return object;
}

// An object that ends and that no call has used: its connection is to be known all the same.
static __always_inline void meet_unused(const struct tls_key* key, const struct caller* caller,
                                        __u64 cookie) {
  struct connection* connection = cookie ? bpf_map_lookup_elem(&connections, &cookie) : 0;
  if (!connection || (connection->flags & (CONNECTION_LINKED | CONNECTION_FILTERED | CONNECTION_OURS)))
    return;
  struct tls_object* object = make_object(key, caller);
  if (!object) return;
  object->cookie = cookie;
  if (connection->flags & CONNECTION_ACCEPTED) object->flags |= OBJECT_ACCEPTED;
}

// Of one that has said nothing: its connection's record is to say whose it was.
static __always_inline void tell_unused(const struct tls_key* key, const struct caller* caller,
                                        struct tls_object* object, __u64 site) {
  if (!object->cookie || (object->flags & (OBJECT_FILTERED | OBJECT_HANDSHAKE_TOLD))) return;
  if ((object->flags & OBJECT_ACCEPTED) && !ingress_wanted) return;
  tell_handshake(key, caller, object, site, true);
}

// The object's sending side has ended, or all of it.
static __always_inline void end_object(const struct tls_key* key, const struct caller* caller, __u64 site,
                                       bool gone) {
  struct tls_object* object = find_object(key, caller);
  if (!object) return;
  if (!(object->sent | object->received)) tell_unused(key, caller, object, site);
  tell_ended(key, caller, object, site, WIRE_SENT);
  if (gone) tell_ended(key, caller, object, site, WIRE_RECEIVED);
  if (gone) bpf_map_delete_elem(&tls_objects, key);
}

#endif
