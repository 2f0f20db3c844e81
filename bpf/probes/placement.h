// Where the probes of a call stand. The kernel carries out some instructions itself (push, jumps and calls to
// a fixed address: arch/x86/kernel/uprobes.c); any other it runs apart from its place, by a single step,
// which costs a second trap and ten times the time. So a probe moves from the function's first instruction,
// or from a `ret`, to the nearest such instruction, if the code between proves that every call passes it
// once, with the arguments (the result) still where they were, and how far the stack pointer is from where it
// began. Never to a `nop`: a 5-byte one is rewritten to a call, which overwrites what a function keeps below
// its stack pointer.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "bpf/probes/machine_code.h"

namespace weir::bpf {

// General registers, by the numbers of their encoding.
enum class GeneralRegister : std::uint8_t { rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r14 = 14 };

struct Place {
  std::uint64_t address = 0;
  std::uint32_t below =
      0;  // bytes from the stack pointer up to where it is at the function's entry; 8 divides it
  bool emulated = false;  // by the kernel, without a single step
  bool operator==(const Place&) const = default;
};

// More than this is not said to a program (wire.h).
inline constexpr std::uint32_t kMostBelow = 1016;

// Where `arguments` are what the caller put there: the function's first instruction when nothing better is
// proven.
Place place_entry(const CallCode& code, std::span<const GeneralRegister> arguments);

// For each of the call's returns one, in their order: the `ret` itself when nothing better is proven. Before
// it, that is the stack protector's `jne`, which is not taken but to end the process.
std::vector<Place> place_returns(const CallCode& code);

}  // namespace weir::bpf
