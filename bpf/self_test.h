// Whether probes leave a program as it is: tried at each start on a function of our own, in a child process.
// Kernels exist on which some kind of probe overwrites what a function keeps below its stack pointer, or
// kills a process whose seccomp filter doesn't know the system call that the probe makes. Internal to this
// room.
#pragma once

#include <cstdint>
#include <expected>
#include <optional>
#include <string>
#include <vector>

#include "bpf/kernel_side.h"

namespace weir::bpf {

// How often each site is passed by one run_probed_child().
inline constexpr std::uint64_t self_test_calls = 200;

// The function's first instruction and its `ret`, in /proc/self/exe, with this program.
std::expected<std::vector<ProbeSite>, std::string> self_test_sites(std::uint32_t program);

// A 5-byte nop inside the function: on some kernels a probe there becomes a call, which overwrites the red
// zone (Linux 6.18). No probe of ours stands on one.
std::optional<std::uint64_t> self_test_nop();

// Calls the function in a child, as it is and behind seccomp's strict mode. The error says what became of it.
std::expected<void, std::string> run_probed_child();

}  // namespace weir::bpf
