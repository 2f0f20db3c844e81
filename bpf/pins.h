// What agents that fail closed leave in the kernel's file system, so that it outlives them: the programs that
// redirect or refuse, by their links, and two tables: in /sys/fs/bpf/weir/OWNER/NUMBER/, where an owner is
// who takes over from whom, and each agent has a number of its own. There is more than one of an owner's only
// while an agent takes over, or when it died in doing so; all of them refuse when their agent is gone, so
// nothing goes direct in between.
#pragma once

#include <cstdint>
#include <expected>
#include <filesystem>
#include <string>
#include <vector>

#include "bpf/descriptor.h"
#include "bpf/kernel_side.h"

namespace weir::bpf {

class Pins {
 public:
  static bool are_there(const std::string& owner);

  // The only one of the owner's who may pin or take over, until this object ends or its process does.
  // Error: there is no such file system, or another agent holds it.
  static std::expected<Pins, Error> take(const std::string& owner);
  ~Pins();
  Pins(Pins&&) = default;
  Pins& operator=(Pins&&) = delete;

  // A table that an earlier agent pinned; -1: none, or it has another layout.
  Descriptor earlier_table(const char* name, std::uint32_t key_size, std::uint32_t value_size) const;
  std::expected<void, Error> pin(const char* name, int descriptor);
  // What was pinned by this object stays, too; without this call it goes when the object ends.
  void keep() { kept_ = true; }
  void remove_earlier();

 private:
  Pins(Descriptor lock, std::filesystem::path own) : lock_(std::move(lock)), own_(std::move(own)) {}

  Descriptor lock_;
  std::filesystem::path own_;  // made with the first pin
  bool made_ = false;
  bool kept_ = false;
};

struct PinnedPlace {
  std::filesystem::path path;
  bool held = false;  // its agent runs; without one, whom it redirected is refused
};

// Of every owner. Needs root: others see nothing.
std::vector<PinnedPlace> pinned_places();

// Takes down all that is pinned; an agent that still runs (or is stopped) refuses nobody any more, either.
// False when there was nothing.
std::expected<bool, Error> release_pins();

}  // namespace weir::bpf
