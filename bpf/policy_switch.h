// Puts one policy after the other in force in the kernel's programs, so that each connection is judged by one
// of them, whole. Inside of this room; single-threaded.
#pragma once

#include <cstdint>
#include <expected>
#include <span>

#include "attribution/identity.h"
#include "attribution/policy_rules.h"
#include "bpf/kernel_side.h"
#include "bpf/wire.h"

namespace weir::bpf {

class PolicySwitch {
 public:
  // Of the loaded programs; not taken over.
  struct Places {
    int rules = -1;  // descriptors
    int lists = -1;
    wire_policy_state* states = nullptr;  // two
    std::uint32_t* state_now = nullptr;
  };
  // On an error the one before stays in force.
  std::expected<void, Error> set(const Policy& policy, const Places& places);

  // Connections to these are not judged: whoever listens there judges. `places`: WIRE_POLICY_LISTENERS of
  // them.
  static void exempt(std::span<const Endpoint> listeners, wire_policy_listener* places);

 private:
  std::uint32_t state_ = 0;  // counts the policies that were in force
};

}  // namespace weir::bpf
