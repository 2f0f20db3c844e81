// Straight-line code only: what can be read without following a jump.
#include "bpf/probes/placement.h"

#include <algorithm>
#include <optional>

#include "bpf/probes/instruction.h"

namespace weir::bpf {
namespace {

constexpr std::size_t kMostInstructions = 32;  // on the way, either way
constexpr ZyanI64 kCanaryAt = 0x28;  // of fs: System V's thread control block, where compilers expect it

bool is_control_flow(const Instruction& instruction) {
  switch (instruction.what.meta.category) {
    case ZYDIS_CATEGORY_UNCOND_BR:
    case ZYDIS_CATEGORY_COND_BR:
    case ZYDIS_CATEGORY_CALL:
    case ZYDIS_CATEGORY_RET:
    case ZYDIS_CATEGORY_SYSCALL:
    case ZYDIS_CATEGORY_SYSRET:
    case ZYDIS_CATEGORY_SYSTEM:
    case ZYDIS_CATEGORY_INTERRUPT:
      return true;
    default:
      return instruction.is(ZYDIS_MNEMONIC_UD2) || instruction.is(ZYDIS_MNEMONIC_HLT);
  }
}

bool writes(const Instruction& instruction, GeneralRegister wanted) {
  for (std::size_t i = 0; i < instruction.what.operand_count; ++i) {
    const auto& operand = instruction.operands[i];
    if (operand.type != ZYDIS_OPERAND_TYPE_REGISTER || !(operand.actions & ZYDIS_OPERAND_ACTION_MASK_WRITE))
      continue;
    if (register_number(operand.reg.value) == static_cast<std::size_t>(wanted)) return true;
  }
  return false;
}

// By how many bytes the stack grows; nothing when that isn't written in the instruction.
std::optional<std::int64_t> stack_growth(const Instruction& instruction) {
  if (!writes(instruction, GeneralRegister::rsp)) return 0;
  const auto& to = instruction.operands[0];
  const auto& from = instruction.operands[1];
  const bool whole_stack_pointer =
      to.type == ZYDIS_OPERAND_TYPE_REGISTER && to.reg.value == ZYDIS_REGISTER_RSP;
  switch (instruction.what.mnemonic) {
    case ZYDIS_MNEMONIC_PUSH:
      return instruction.what.operand_width == 64 ? std::optional(8) : std::nullopt;
    case ZYDIS_MNEMONIC_POP:
      return instruction.what.operand_width == 64 && !whole_stack_pointer ? std::optional(-8) : std::nullopt;
    case ZYDIS_MNEMONIC_SUB:
    case ZYDIS_MNEMONIC_ADD:
      if (!whole_stack_pointer || from.type != ZYDIS_OPERAND_TYPE_IMMEDIATE) return std::nullopt;
      return instruction.is(ZYDIS_MNEMONIC_SUB) ? from.imm.value.s : -from.imm.value.s;
    case ZYDIS_MNEMONIC_LEA:
      if (!whole_stack_pointer || from.mem.base != ZYDIS_REGISTER_RSP ||
          from.mem.index != ZYDIS_REGISTER_NONE)
        return std::nullopt;
      return -from.mem.disp.value;
    default:
      return std::nullopt;
  }
}

// As push_setup_xol_ops() and branch_setup_xol_ops() in arch/x86/kernel/uprobes.c decide it: no prefix but
// the one that names the upper registers.
bool is_emulated(std::span<const std::uint8_t> code) {
  const auto is_push = [](std::uint8_t byte) { return byte >= 0x50 && byte <= 0x57; };
  switch (code.size()) {
    case 1:
      return is_push(code[0]);
    case 2:
      return code[0] == 0xeb || code[0] >> 4 == 0x7 || (code[0] == 0x41 && is_push(code[1]));
    case 5:
      return code[0] == 0xe8 || code[0] == 0xe9;
    case 6:
      return code[0] == 0x0f && code[1] >> 4 == 0x8;
    default:
      return false;
  }
}

bool can_be_said(std::int64_t below) {
  return below >= 0 && below <= kMostBelow && below % 8 == 0;
}

class Straight {
 public:
  explicit Straight(const CallCode& code) : code_(code) {}

  // False when a jump may lead behind `first`, up to `last` itself.
  bool is_passed_whole(const CallCode::Part& part, std::uint64_t first, std::uint64_t last) const {
    const auto target = code_.jump_targets.upper_bound(first);
    return !part.has_switch && (target == code_.jump_targets.end() || *target > last);
  }

  bool decode(const CallCode::Part& part, std::size_t index, Instruction& instruction) const {
    return index < part.instructions.size() && decoder_.decode(bytes_of(part, index), instruction);
  }

  static std::span<const std::uint8_t> bytes_of(const CallCode::Part& part, std::size_t index) {
    const std::span<const std::uint8_t> code = part.function.bytes;
    const std::size_t start = part.instructions[index];
    const std::size_t end = index + 1 < part.instructions.size() ? part.instructions[index + 1] : code.size();
    return code.subspan(start, end - start);
  }

 private:
  const CallCode& code_;
  Decoder decoder_;
};

bool reads_canary(const Instruction& instruction) {
  const auto& operands = instruction.operands;
  return std::any_of(operands, operands + instruction.what.operand_count, [](const auto& operand) {
    return operand.type == ZYDIS_OPERAND_TYPE_MEMORY && operand.mem.segment == ZYDIS_REGISTER_FS &&
           operand.mem.base == ZYDIS_REGISTER_NONE && operand.mem.index == ZYDIS_REGISTER_NONE &&
           operand.mem.disp.value == kCanaryAt;
  });
}

// `sub`, `xor` or `cmp` of a register that has the canary's copy with the canary, right before the `jne`.
bool is_canary_check(const Instruction& comparison, const Instruction& jump) {
  const bool compares = comparison.is(ZYDIS_MNEMONIC_SUB) || comparison.is(ZYDIS_MNEMONIC_XOR) ||
                        comparison.is(ZYDIS_MNEMONIC_CMP);
  return jump.is(ZYDIS_MNEMONIC_JNZ) && compares && reads_canary(comparison);
}

Place place_return(const Straight& straight, const CallCode::Part& part, std::size_t index) {
  const auto address_of = [&](std::size_t at) { return part.function.address + part.instructions[at]; };
  const Place itself{address_of(index), 0, false};
  std::int64_t below = 0;
  Instruction instruction, before;
  for (std::size_t at = index; at-- > 1 && index - at <= kMostInstructions;) {
    if (!straight.decode(part, at, instruction) || !straight.decode(part, at - 1, before)) return itself;
    if (is_canary_check(before, instruction)) {
      const bool proven = is_emulated(straight.bytes_of(part, at)) && can_be_said(below) &&
                          straight.is_passed_whole(part, address_of(at), itself.address);
      return proven ? Place{address_of(at), static_cast<std::uint32_t>(below), true} : itself;
    }
    const auto growth = stack_growth(instruction);
    if (is_control_flow(instruction) || writes(instruction, GeneralRegister::rax) || !growth) return itself;
    below -= *growth;
  }
  return itself;
}

}  // namespace

Place place_entry(const CallCode& code, std::span<const GeneralRegister> arguments) {
  const Straight straight(code);
  const CallCode::Part& part = code.parts.front();
  const std::uint64_t entry = part.function.address;
  std::int64_t below = 0;
  Instruction instruction;
  for (std::size_t index = 0; index < kMostInstructions && straight.decode(part, index, instruction);
       ++index) {
    const std::uint64_t at = entry + part.instructions[index];
    if (is_emulated(straight.bytes_of(part, index))) {
      if (!can_be_said(below) || (index > 0 && !straight.is_passed_whole(part, entry, at))) break;
      return {at, static_cast<std::uint32_t>(below), true};
    }
    const auto growth = stack_growth(instruction);
    if (is_control_flow(instruction) || !growth) break;
    if (std::ranges::any_of(arguments, [&](auto argument) { return writes(instruction, argument); })) break;
    below += *growth;
  }
  return {entry, 0, false};
}

std::vector<Place> place_returns(const CallCode& code) {
  const Straight straight(code);
  std::vector<Place> places;
  for (const std::uint64_t address : code.returns) {
    for (const CallCode::Part& part : code.parts) {
      const auto& starts = part.instructions;
      const auto found = std::ranges::lower_bound(starts, address - part.function.address);
      if (address - part.function.address >= part.function.bytes.size() || found == starts.end()) continue;
      places.push_back(place_return(straight, part, static_cast<std::size_t>(found - starts.begin())));
      break;
    }
  }
  return places;
}

}  // namespace weir::bpf
