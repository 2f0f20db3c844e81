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
  // For programs that take a file of settings, not a variable (trust_files.h).
  std::filesystem::path wgetrc() const { return path / "ca/wgetrc"; }
  std::filesystem::path php_directory() const { return path / "ca/php"; }
};

// /var/lib/weir for root, $XDG_STATE_HOME/weir or ~/.local/state/weir else.
StateDir default_state_dir();

}  // namespace weir::agent
