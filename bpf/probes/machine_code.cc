// A linear walk over a function's instructions, and over those of the functions that it jumps to.
#include "bpf/probes/machine_code.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <set>

#include "bpf/probes/instruction.h"

namespace weir::bpf {
namespace {

constexpr std::size_t kMaxFunctions = 32;
constexpr std::size_t kMaxBytes = 256 * 1024;
constexpr std::size_t kLongestInstruction = 15;
constexpr std::size_t kRegisters = 16;

// Knows the jumps of a `switch`: their target was read from a table of constants, which compilers write as
//   lea base, [rip+table]; movsxd target, [base+index*4]; add target, base; jmp target
//   jmp [base+index*8], or the same by a register; base as above, or a constant
// An array of functions looks the same, so the first entry must lead into the function itself.
class SwitchTables {
 public:
  SwitchTables(const FunctionCode& function, CodeSource& source) : function_(function), source_(source) {}

  bool is_inside(const Instruction& jump) const {
    const auto& operand = jump.operands[0];
    if (operand.type == ZYDIS_OPERAND_TYPE_MEMORY) {
      const auto table = table_of(operand, 8);
      return table && points_inside(*table);
    }
    const auto number =
        operand.type == ZYDIS_OPERAND_TYPE_REGISTER ? register_number(operand.reg.value) : std::nullopt;
    if (!number) return false;
    const Value& value = values_[*number];
    return (value.kind == Kind::offset_target && offset_leads_inside(value.table)) ||
           (value.kind == Kind::pointer && points_inside(value.table));
  }

  void follow(const Instruction& instruction, std::uint64_t at) {
    const Value result = value_of_result(instruction, at);
    for (std::size_t i = 0; i < instruction.what.operand_count; ++i) {
      const auto& operand = instruction.operands[i];
      if (operand.type != ZYDIS_OPERAND_TYPE_REGISTER || !(operand.actions & ZYDIS_OPERAND_ACTION_MASK_WRITE))
        continue;
      if (const auto number = register_number(operand.reg.value))
        values_[*number] = i == 0 ? result : Value{};
    }
  }

 private:
  enum class Kind { unknown, address, offset, offset_target, pointer };
  struct Value {
    Kind kind = Kind::unknown;
    std::uint64_t table = 0;
  };

  Value value_of_result(const Instruction& instruction, std::uint64_t at) const {
    const auto& source = instruction.operands[1];
    if (instruction.is(ZYDIS_MNEMONIC_LEA)) {
      const auto address = absolute_address(instruction, 1, at);
      return address ? Value{Kind::address, *address} : Value{};
    }
    if (instruction.is(ZYDIS_MNEMONIC_MOVSXD) || instruction.is(ZYDIS_MNEMONIC_MOV)) {
      const bool offset = instruction.is(ZYDIS_MNEMONIC_MOVSXD);
      if (source.type != ZYDIS_OPERAND_TYPE_MEMORY) return {};
      const auto table = table_of(source, offset ? 4 : 8);
      return table ? Value{offset ? Kind::offset : Kind::pointer, *table} : Value{};
    }
    if (instruction.is(ZYDIS_MNEMONIC_ADD)) {
      const Value left = value_in(instruction.operands[0]), right = value_in(source);
      const bool whole = (left.kind == Kind::offset && right.kind == Kind::address) ||
                         (left.kind == Kind::address && right.kind == Kind::offset);
      if (whole && left.table == right.table) return {Kind::offset_target, left.table};
    }
    return {};
  }

  Value value_in(const ZydisDecodedOperand& operand) const {
    if (operand.type != ZYDIS_OPERAND_TYPE_REGISTER) return {};
    const auto number = register_number(operand.reg.value);
    return number ? values_[*number] : Value{};
  }

  std::optional<std::uint64_t> table_of(const ZydisDecodedOperand& operand, std::uint8_t entry_bytes) const {
    const auto& memory = operand.mem;
    if (memory.index == ZYDIS_REGISTER_NONE || memory.scale != entry_bytes) return std::nullopt;
    if (memory.base == ZYDIS_REGISTER_NONE) return static_cast<std::uint64_t>(memory.disp.value);
    const auto number = register_number(memory.base);
    if (!number || values_[*number].kind != Kind::address || memory.disp.value != 0) return std::nullopt;
    return values_[*number].table;
  }

  bool holds(std::uint64_t address) const { return address - function_.address < function_.bytes.size(); }

  bool points_inside(std::uint64_t table) const {
    const auto target = source_.pointer_at(table);
    return target && holds(*target);
  }

  bool offset_leads_inside(std::uint64_t table) const {
    std::array<std::uint8_t, 4> bytes;
    if (!source_.read_at(table, bytes)) return false;
    std::int32_t offset = 0;
    std::memcpy(&offset, bytes.data(), sizeof(offset));
    return holds(table + static_cast<std::uint64_t>(std::int64_t{offset}));
  }

  const FunctionCode& function_;
  CodeSource& source_;
  std::array<Value, kRegisters> values_{};
};

class Walk {
 public:
  explicit Walk(CodeSource& source) : source_(source) {}

  std::expected<CallCode, std::string> from(const FunctionCode& first) {
    if (auto done = through(first); !done) return std::unexpected(done.error());
    while (!waiting_.empty()) {
      const std::uint64_t target = *waiting_.begin();
      waiting_.erase(waiting_.begin());
      if (is_walked(target)) continue;
      const auto function = function_at(target);
      if (!function) return std::unexpected(function.error());
      if (auto done = through(*function); !done) return std::unexpected(done.error());
    }
    if (returns_.empty()) return std::unexpected("has no return");
    code_.returns.assign(returns_.begin(), returns_.end());
    return std::move(code_);
  }

 private:
  bool is_walked(std::uint64_t address) const {
    return std::ranges::any_of(code_.parts, [&](const CallCode::Part& part) {
      return address - part.function.address < part.function.bytes.size();
    });
  }

  std::expected<void, std::string> through(const FunctionCode& function) {
    bytes_ += function.bytes.size();
    if (code_.parts.size() >= kMaxFunctions || bytes_ > kMaxBytes)
      return std::unexpected("leads to too much code");
    code_.parts.push_back({function, {}, false});
    SwitchTables tables(function, source_);
    Instruction instruction;
    const std::span<const std::uint8_t> code = function.bytes;
    for (std::size_t done = 0; done < code.size(); done += instruction.what.length) {
      const std::uint64_t at = function.address + done;
      if (!decoder_.decode(code.subspan(done), instruction))
        return std::unexpected("has code that can't be decoded");
      code_.parts.back().instructions.push_back(static_cast<std::uint32_t>(done));
      if (instruction.is(ZYDIS_MNEMONIC_RET)) returns_.insert(at);
      if (instruction.is_jump()) {
        if (auto noted = note_jump(instruction, at, tables); !noted) return noted;
      }
      tables.follow(instruction, at);
    }
    return {};
  }

  std::expected<void, std::string> note_jump(const Instruction& jump, std::uint64_t at,
                                             const SwitchTables& tables) {
    const auto target = absolute_address(jump, 0, at);
    if (jump.operands[0].type == ZYDIS_OPERAND_TYPE_IMMEDIATE) {
      if (!target) return std::unexpected("has a jump that can't be followed");
      code_.jump_targets.insert(*target);
      waiting_.insert(*target);
      return {};
    }
    if (tables.is_inside(jump)) {
      code_.parts.back().has_switch = true;
      return {};
    }
    const auto pointer = target ? source_.pointer_at(*target) : std::nullopt;
    if (!pointer) return std::unexpected("leaves through a pointer");
    code_.jump_targets.insert(*pointer);
    waiting_.insert(*pointer);
    return {};
  }

  // What a jump leads to, itself or through the linkage table.
  std::expected<FunctionCode, std::string> function_at(std::uint64_t target) {
    for (int hops = 0; hops < 4; ++hops) {
      const auto slot = linkage_slot(target);
      if (!slot) {
        auto function = source_.function_at(target);
        if (!function) return std::unexpected("leaves by a jump to code of unknown extent");
        return *std::move(function);
      }
      const auto pointer = source_.pointer_at(*slot);
      if (!pointer) return std::unexpected("leaves by a jump to another file");
      target = *pointer;
    }
    return std::unexpected("leaves by too many jumps");
  }

  // The slot of an entry of the linkage table: nothing but a jump through memory, perhaps behind an endbr64.
  std::optional<std::uint64_t> linkage_slot(std::uint64_t address) {
    std::array<std::uint8_t, 2 * kLongestInstruction> code;
    std::size_t size = code.size();
    while (size > 0 && !source_.read_at(address, std::span(code).first(size))) --size;
    Instruction instruction;
    std::size_t done = 0;
    if (!decoder_.decode(std::span(code).first(size), instruction)) return std::nullopt;
    if (instruction.is(ZYDIS_MNEMONIC_ENDBR64)) {
      done = instruction.what.length;
      if (!decoder_.decode(std::span(code).subspan(done, size - done), instruction)) return std::nullopt;
    }
    if (!instruction.is(ZYDIS_MNEMONIC_JMP) || instruction.operands[0].type != ZYDIS_OPERAND_TYPE_MEMORY ||
        instruction.operands[0].mem.base != ZYDIS_REGISTER_RIP)
      return std::nullopt;
    return absolute_address(instruction, 0, address + done);
  }

  CodeSource& source_;
  Decoder decoder_;
  CallCode code_;
  std::size_t bytes_ = 0;
  std::set<std::uint64_t> waiting_;
  std::set<std::uint64_t> returns_;
};

}  // namespace

std::expected<CallCode, std::string> read_call(const FunctionCode& function, CodeSource& source) {
  return Walk(source).from(function);
}

}  // namespace weir::bpf
