// The decoder library, for the files of this folder that read code: nothing else includes it.
#pragma once

#include <Zydis/Zydis.h>

#include <cstdint>
#include <optional>
#include <span>

namespace weir::bpf {

struct Instruction {
  ZydisDecodedInstruction what;
  ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];

  bool is(ZydisMnemonic mnemonic) const { return what.mnemonic == mnemonic; }
  bool is_jump() const {
    return what.meta.category == ZYDIS_CATEGORY_UNCOND_BR || what.meta.category == ZYDIS_CATEGORY_COND_BR;
  }
};

class Decoder {
 public:
  Decoder() { ZydisDecoderInit(&decoder_, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64); }

  bool decode(std::span<const std::uint8_t> code, Instruction& instruction) const {
    return ZYAN_SUCCESS(
        ZydisDecoderDecodeFull(&decoder_, code.data(), code.size(), &instruction.what, instruction.operands));
  }

 private:
  ZydisDecoder decoder_;
};

// Where a jump goes, or what address an operand in memory names; nothing when registers decide.
inline std::optional<std::uint64_t> absolute_address(const Instruction& instruction, std::size_t operand,
                                                     std::uint64_t at) {
  ZyanU64 address = 0;
  if (!ZYAN_SUCCESS(
          ZydisCalcAbsoluteAddress(&instruction.what, &instruction.operands[operand], at, &address)))
    return std::nullopt;
  return address;
}

// A general register's number (rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8...), whatever its width.
inline std::optional<std::size_t> register_number(ZydisRegister name) {
  const auto whole = ZydisRegisterGetLargestEnclosing(ZYDIS_MACHINE_MODE_LONG_64, name);
  if (whole < ZYDIS_REGISTER_RAX || whole > ZYDIS_REGISTER_R15) return std::nullopt;
  return static_cast<std::size_t>(whole - ZYDIS_REGISTER_RAX);
}

}  // namespace weir::bpf
