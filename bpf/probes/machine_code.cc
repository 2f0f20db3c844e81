// A linear walk over one function's instructions.
#include "bpf/probes/machine_code.h"

#include <Zydis/Zydis.h>

namespace weir::bpf {
namespace {

// Whether this unconditional jump stays inside the function.
bool stays_inside(const ZydisDecodedInstruction& instruction, const ZydisDecodedOperand* operands,
                  std::uint64_t at, std::uint64_t size) {
  ZyanU64 target = 0;
  if (operands[0].type != ZYDIS_OPERAND_TYPE_IMMEDIATE ||
      !ZYAN_SUCCESS(ZydisCalcAbsoluteAddress(&instruction, &operands[0], at, &target))) {
    return false;
  }
  return target < size;
}

}  // namespace

std::expected<std::vector<std::uint64_t>, std::string> find_returns(std::span<const std::uint8_t> code) {
  ZydisDecoder decoder;
  ZydisDecoderInit(&decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
  ZydisDecodedInstruction instruction;
  ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
  std::vector<std::uint64_t> returns;
  for (std::uint64_t at = 0; at < code.size(); at += instruction.length) {
    if (!ZYAN_SUCCESS(
            ZydisDecoderDecodeFull(&decoder, code.data() + at, code.size() - at, &instruction, operands))) {
      return std::unexpected("code that can't be decoded");
    }
    if (instruction.mnemonic == ZYDIS_MNEMONIC_RET) returns.push_back(at);
    if (instruction.mnemonic == ZYDIS_MNEMONIC_JMP && !stays_inside(instruction, operands, at, code.size())) {
      return std::unexpected("leaves by a jump, so its return can't be probed");
    }
  }
  if (returns.empty()) return std::unexpected("has no return");
  return returns;
}

}  // namespace weir::bpf
