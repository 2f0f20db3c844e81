// See memory.h. Sanitized builds have an allocator of their own, and none of these names.
#include "agent/memory.h"

#include <openssl/crypto.h>
#include <sys/types.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstddef>
#include <fstream>
#include <optional>

// Read by jemalloc at its start. Few arenas, as few threads allocate at a time and each keeps some of its
// own: one for two processors. Their addresses stay together, for less book-keeping. A freed extent is split
// for a request of any size: by default only for one of a 64th of it, so what a body's pieces gave back, once
// coalesced, would serve no further piece, and a large body would take new memory until the old one decays.
// A thread's cache is gone through, for what has not served lately, after each MiB that it gave out, and not
// after 64 KiB: the buffers of one proxied request are more than that. What is freed goes back at once: it is
// the broker that lives long by these settings, and it seldom allocates.
extern "C" const char* malloc_conf;
const char* malloc_conf =
    "narenas_ratio:0.5,retain:true,lg_extent_max_active_fit:47,tcache_gc_incr_bytes:1048576,dirty_decay_ms:0,"
    "muzzy_decay_ms:0";

extern "C" [[gnu::weak]] int mallctl(const char* name, void* old_value, std::size_t* old_size,
                                     void* new_value, std::size_t new_size);

extern "C" {
[[gnu::weak]] void* mallocx(std::size_t size, int flags);
[[gnu::weak]] void* rallocx(void* memory, std::size_t size, int flags);
[[gnu::weak]] void dallocx(void* memory, int flags);
}

namespace weir::agent {
namespace {

// Flags of mallocx() and its like (MALLOCX_ARENA, MALLOCX_TCACHE and MALLOCX_TCACHE_NONE, jemalloc_macros.h).
int flags_of_arena(unsigned arena) {
  return static_cast<int>((arena + 1) << 20);
}
int flags_of_cache(unsigned cache) {
  return static_cast<int>((cache + 2) << 8);
}
constexpr int kNoCache = 1 << 8;

template <typename Value>
void set(const char* name, Value value) {
  mallctl(name, nullptr, nullptr, &value, sizeof value);
}

int tls_arena_flags = 0;

// A session gives its buffers back after each record and takes them for the next one (OpenSSL's
// SSL_MODE_RELEASE_BUFFERS): without a cache each of these would take the arena's lock.
thread_local int tls_flags = 0;  // 0: this thread has not asked yet
thread_local std::optional<unsigned> tls_cache;
struct ThreadCache {
  ThreadCache() {
    unsigned id = 0;
    std::size_t size = sizeof id;
    if (mallctl("tcache.create", &id, &size, nullptr, 0) == 0) tls_cache = id;
    tls_flags = tls_arena_flags | (tls_cache ? flags_of_cache(id) : kNoCache);
  }
  ~ThreadCache() {
    tls_flags = tls_arena_flags | kNoCache;
    if (tls_cache) set("tcache.destroy", *tls_cache);
    tls_cache.reset();
  }
};

int flags() {
  if (tls_flags == 0) {
    static thread_local const ThreadCache cache;
  }
  return tls_flags;
}

void* tls_allocate(std::size_t size, const char*, int) {
  return size == 0 ? nullptr : mallocx(size, flags());
}
void tls_free(void* memory, const char*, int) {
  if (memory != nullptr) dallocx(memory, flags());
}
void* tls_reallocate(void* memory, std::size_t size, const char* file, int line) {
  if (memory == nullptr) return tls_allocate(size, file, line);
  if (size != 0) return rallocx(memory, size, flags());
  tls_free(memory, file, line);
  return nullptr;
}

// Once in a while for all threads together: what busy ones would use again goes, too.
bool purge_is_due() {
  using Clock = std::chrono::steady_clock;
  constexpr Clock::duration between = std::chrono::seconds(5);
  static std::atomic<Clock::rep> next{0};
  const Clock::rep now = Clock::now().time_since_epoch().count();
  Clock::rep due = next.load();
  return now >= due && next.compare_exchange_strong(due, now + between.count());
}

}  // namespace

std::uint64_t private_memory() {
  std::ifstream file("/proc/self/statm");
  std::uint64_t all = 0;
  std::uint64_t resident = 0;
  std::uint64_t shared = 0;
  if (!(file >> all >> resident >> shared) || shared > resident) return 0;
  return (resident - shared) * static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
}

void return_memory_when_idle() {
  if (mallctl == nullptr) return;
  constexpr ssize_t decay_ms = 2000;
  set("arenas.dirty_decay_ms", decay_ms);   // of those still to come
  set("arena.0.dirty_decay_ms", decay_ms);  // of the main thread's
  set("background_thread", true);
}

void return_thread_memory() {
  if (mallctl == nullptr) return;
  mallctl("thread.tcache.flush", nullptr, nullptr, nullptr, 0);
  if (tls_cache) set("tcache.flush", *tls_cache);
  // 4096: all arenas (MALLCTL_ARENAS_ALL). For a few pages the background threads don't wake.
  if (purge_is_due()) mallctl("arena.4096.purge", nullptr, nullptr, nullptr, 0);
}

void keep_tls_memory_apart() {
  unsigned arena = 0;
  std::size_t size = sizeof arena;
  if (mallctl == nullptr || mallctl("arenas.create", &arena, &size, nullptr, 0) != 0) return;
  tls_arena_flags = flags_of_arena(arena);
  CRYPTO_set_mem_functions(tls_allocate, tls_reallocate, tls_free);
}

}  // namespace weir::agent
