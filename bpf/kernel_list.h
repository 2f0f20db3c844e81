// What a BPF iterator's descriptor gives. Inside of this room.
#pragma once

#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstring>
#include <expected>
#include <functional>
#include <string>
#include <vector>

#include "bpf/event_source.h"

namespace weir::bpf {

// Reads structures of one size until end of file; an iterator may split them over reads.
template <class T>
std::expected<std::size_t, SourceError> read_all(int descriptor, const std::function<void(const T&)>& each) {
  std::vector<std::byte> buffer(64 * 1024);
  std::size_t held = 0, count = 0;
  for (;;) {
    const ssize_t got = ::read(descriptor, buffer.data() + held, buffer.size() - held);
    if (got < 0 && (errno == EINTR || errno == EAGAIN)) continue;
    if (got < 0) {
      return std::unexpected(
          SourceError{std::string("cannot read the kernel's list: ") + std::strerror(errno),
                      "restart the agent; `weir doctor` tells what this kernel allows"});
    }
    if (got == 0) return count;
    held += static_cast<std::size_t>(got);
    std::size_t used = 0;
    for (; held - used >= sizeof(T); used += sizeof(T), ++count) {
      T value;
      std::memcpy(&value, buffer.data() + used, sizeof value);
      each(value);
    }
    std::memmove(buffer.data(), buffer.data() + used, held - used);
    held -= used;
  }
}

}  // namespace weir::bpf
