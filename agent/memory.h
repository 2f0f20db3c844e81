// The allocator's settings. With jemalloc, memory that a load has left goes back to the system; with glibc's,
// a few long-lived objects among many thousand connections' keep most of the pages.
#pragma once

#include <cstdint>

namespace weir::agent {

// Of this process, in use and not backed by a file. 0 when the kernel does not say.
std::uint64_t private_memory();

// What is freed stays at hand for some seconds, and a thread then gives it back, also while nothing happens.
// For the worker alone: it allocates all the time; and the broker stays without threads, as work in other
// namespaces needs it. Does nothing in a build without jemalloc.
void return_memory_when_idle();

// What the calling thread keeps at hand for its next allocations. Only its own use of the allocator would
// give that back. Does nothing in a build without jemalloc.
void return_thread_memory();

// OpenSSL's objects of many sessions, which all go with them, from an arena of their own: small objects of
// others that stay would keep their pages. To be called before anything of OpenSSL's. Does nothing in a build
// without jemalloc.
void keep_tls_memory_apart();

}  // namespace weir::agent
