// SPDX-License-Identifier: GPL-2.0-only
// The socket of a TLS object whose library leaves the sending to the program and whose ClientHello was sent
// before the programs were there: it is the one that sends the ciphertext that the object has just made.
//
// At the return of a call that wrote, the ciphertext lies in the object's outgoing BIO. Where in it differs
// between libraries, versions and programs, so it is looked for: in what the BIO leads to by a few pointers,
// TLS records are remembered by how they begin. To remember something else does no harm: that the first
// bytes which a socket sends are the ones remembered, ciphertext included, is what links the two.
#ifndef WEIR_BPF_PROGRAMS_CIPHERTEXT_SEARCH_H
#define WEIR_BPF_PROGRAMS_CIPHERTEXT_SEARCH_H

#include "ciphertext.h"

#define LEAST_OVERHEAD 16
#define MOST_OVERHEAD 64
#define MOST_SEARCHES 16  // for one object
#define MOST_RECORDS 8    // of one search

// Where objects keep the pointer to their outgoing BIO: OpenSSL to 3.1 and from 3.2 on (ssl/ssl_local.h),
// BoringSSL (ssl/internal.h).
#define BIO_PLACES 3
#define BIO_WORDS 12
#define POINTERS 8  // that are looked at of each structure

struct search {
  struct ciphertext_maker maker;
  __u64 plaintext;  // that the call wrote
  __u32 found;
  __u32 exact;
};

static __always_inline bool may_point(__u64 address) {
  return address >= 1u << 16 && address < 1ull << 47;
}

// These are functions of their own for the verifier: it looks at each once. Nonzero ends the search.
__noinline int remember_if_record(struct search* search, __u64 address) {
  struct ciphertext start = {};
  if (!search || !may_point(address) || !read_record_start(&start, address)) return 0;
  const __u8* bytes = (const __u8*)start.words;
  __u64 length = bytes[3] << 8 | bytes[4];
  if (length + RECORD_HEADER < CIPHERTEXT_BYTES || length > MOST_PLAINTEXT + 256) return 0;
  bpf_map_update_elem(&ciphertexts, &start, &search->maker, BPF_ANY);
  search->exact = length >= search->plaintext + LEAST_OVERHEAD && length <= search->plaintext + MOST_OVERHEAD;
  return search->exact || ++search->found >= MOST_RECORDS;
}

__noinline int look_behind(struct search* search, __u64 address) {
  __u64 pointers[POINTERS] = {};
  if (!search || !may_point(address) || (address & 7) ||
      bpf_probe_read_user(pointers, sizeof(pointers), (void*)address))
    return 0;
  for (int i = 0; i < POINTERS; i++)
    if (remember_if_record(search, pointers[i])) return 1;
  return 0;
}

static __always_inline __u64 bio_place(__u64 index) {
  return index == 0 ? 24 : index == 1 ? 88 : 32;
}

static long look_at_word(__u64 index, void* context) {
  struct search* search = context;
  __u64 bio = 0, word = 0;
  __u64 place = search->maker.object.pointer + bio_place(index / BIO_WORDS);
  if (bpf_probe_read_user(&bio, sizeof(bio), (void*)place) || !may_point(bio) || (bio & 7)) return 0;
  if (bpf_probe_read_user(&word, sizeof(word), (void*)(bio + index % BIO_WORDS * sizeof(word)))) return 0;
  __u64 pointers[POINTERS] = {};
  if (!may_point(word) || (word & 7) || bpf_probe_read_user(pointers, sizeof(pointers), (void*)word))
    return 0;
  for (int i = 0; i < POINTERS; i++) {
    if (remember_if_record(search, pointers[i])) return 1;
    if (look_behind(search, pointers[i])) return 1;
  }
  return 0;
}

__noinline int search_ciphertext(const struct ciphertext_maker* maker, __u64 plaintext) {
  if (!maker) return 0;
  struct search search = {.maker = *maker,
                          .plaintext = plaintext < MOST_PLAINTEXT ? plaintext : MOST_PLAINTEXT};
  bpf_loop(BIO_PLACES * BIO_WORDS, look_at_word, &search, 0);
  if (search.found || search.exact) ciphertext_boot_ns = bpf_ktime_get_boot_ns();
  return 0;
}

#endif
