// See memory.h. Sanitized builds have an allocator of their own, and none of these names.
#include "agent/memory.h"

#include <openssl/crypto.h>
#include <sys/types.h>
#include <unistd.h>

#include <cstddef>
#include <fstream>

// Read by jemalloc at its start. Few arenas, as few threads allocate at a time and each keeps some of its
// own. What is freed goes back at once: it is the broker that lives long by these settings, and it seldom
// allocates.
extern "C" const char* malloc_conf;
const char* malloc_conf = "narenas:4,retain:false,dirty_decay_ms:0,muzzy_decay_ms:0";

extern "C" [[gnu::weak]] int mallctl(const char* name, void* old_value, std::size_t* old_size,
                                     void* new_value, std::size_t new_size);

extern "C" {
[[gnu::weak]] void* mallocx(std::size_t size, int flags);
[[gnu::weak]] void* rallocx(void* memory, std::size_t size, int flags);
[[gnu::weak]] void dallocx(void* memory, int flags);
}

namespace weir::agent {
namespace {

// Flags of mallocx() and its like (MALLOCX_ARENA and MALLOCX_TCACHE_NONE, jemalloc_macros.h).
int tls_flags = 0;
int flags_of_arena(unsigned arena) {
  constexpr int no_thread_cache = 1 << 8;
  return static_cast<int>((arena + 1) << 20) | no_thread_cache;
}

void* tls_allocate(std::size_t size, const char*, int) {
  return size == 0 ? nullptr : mallocx(size, tls_flags);
}
void tls_free(void* memory, const char*, int) {
  if (memory != nullptr) dallocx(memory, tls_flags);
}
void* tls_reallocate(void* memory, std::size_t size, const char* file, int line) {
  if (memory == nullptr) return tls_allocate(size, file, line);
  if (size != 0) return rallocx(memory, size, tls_flags);
  tls_free(memory, file, line);
  return nullptr;
}

template <typename Value>
void set(const char* name, Value value) {
  mallctl(name, nullptr, nullptr, &value, sizeof value);
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

void keep_tls_memory_apart() {
  unsigned arena = 0;
  std::size_t size = sizeof arena;
  if (mallctl == nullptr || mallctl("arenas.create", &arena, &size, nullptr, 0) != 0) return;
  tls_flags = flags_of_arena(arena);
  CRYPTO_set_mem_functions(tls_allocate, tls_reallocate, tls_free);
}

}  // namespace weir::agent
