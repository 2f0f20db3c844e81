// Which process holds a socket, as /proc tells. The caller sees the processes that it may look into: its own,
// or all as root. Single-threaded.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace weir::agent {

struct SocketOwner {
  std::uint32_t pid = 0;
  std::string executable;
};

class SocketOwners {
 public:
  std::optional<SocketOwner> find(std::uint32_t socket_inode);

 private:
  std::uint32_t last_pid_ = 0;
};

}  // namespace weir::agent
