// See memory.h. Sanitized builds have an allocator of their own, and none of these names.
#include "agent/memory.h"

#include <sys/types.h>

#include <cstddef>

// Read by jemalloc at its start. Few arenas, as few threads allocate at a time and each keeps some of its own. What is
// freed goes back at once: it is the broker that lives long by these settings, and it seldom allocates.
extern "C" const char* malloc_conf;
const char* malloc_conf = "narenas:4,retain:false,dirty_decay_ms:0,muzzy_decay_ms:0";

extern "C" [[gnu::weak]] int mallctl(const char* name, void* old_value, std::size_t* old_size, void* new_value,
                                     std::size_t new_size);

namespace weir::agent {
namespace {

template <typename Value>
void set(const char* name, Value value) {
  mallctl(name, nullptr, nullptr, &value, sizeof value);
}

}  // namespace

void return_memory_when_idle() {
  if (mallctl == nullptr) return;
  constexpr ssize_t decay_ms = 2000;
  set("arenas.dirty_decay_ms", decay_ms);   // of those still to come
  set("arena.0.dirty_decay_ms", decay_ms);  // of the main thread's
  set("background_thread", true);
}

}  // namespace weir::agent
