// Where an agent keeps all that it writes, and the names in it. Only names: nothing here touches the disk.
#pragma once

#include <filesystem>

#include "ca/ca.h"

namespace weir::agent {

struct StateDir {
  std::filesystem::path path;

  std::filesystem::path database() const { return path / "weir.db"; }
  std::filesystem::path socket() const { return path / "agent.sock"; }  // the API, for its owner and root
  std::filesystem::path api_token() const { return path / "api.token"; }
  std::filesystem::path lock() const { return path / "agent.lock"; }
  std::filesystem::path users() const { return path / "agent.users"; }  // users.h
  ca::Paths ca() const { return {path / "ca"}; }
};

// /var/lib/weir for root, $XDG_STATE_HOME/weir or ~/.local/state/weir else.
StateDir default_state_dir();

}  // namespace weir::agent
