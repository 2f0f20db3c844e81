// The instructions that compilers copy, compare and address with; every other one makes what it writes
// unknown.
#include "bpf/probes/sketch_machine.h"

#include <algorithm>
#include <utility>

namespace weir::bpf {
namespace {

constexpr std::size_t kMaxSteps = 4096;
constexpr std::size_t kMaxPaths = 32;
constexpr std::size_t kMaxCopyBytes = 4096;
constexpr std::uint64_t kStack = 0x7f00'0000'0000'0000;

std::uint64_t mask_of(std::size_t bits) {
  return bits >= 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << bits) - 1;
}

bool top_bit(std::uint64_t value, std::size_t bits) {
  return (value >> (bits - 1)) & 1;
}

std::uint64_t sign_extended(std::uint64_t value, std::size_t bits) {
  return top_bit(value, bits) ? value | ~mask_of(bits) : value & mask_of(bits);
}

std::optional<std::size_t> vector_number(const ZydisDecodedOperand& operand) {
  if (operand.type != ZYDIS_OPERAND_TYPE_REGISTER || operand.reg.value < ZYDIS_REGISTER_XMM0 ||
      operand.reg.value > ZYDIS_REGISTER_XMM15)
    return std::nullopt;
  return static_cast<std::size_t>(operand.reg.value - ZYDIS_REGISTER_XMM0);
}

}  // namespace

SketchMachine::SketchMachine(Load load, Call call) : load_(std::move(load)), call_(std::move(call)) {
  registers_[rsp] = kStack;
}

Value SketchMachine::load(std::uint64_t address, std::size_t bytes) const {
  // Stored values do not overlap.
  const auto after = memory_.lower_bound(address + bytes);
  if (after != memory_.begin()) {
    const auto& [at, stored] = *std::prev(after);
    if (at == address && bytes <= stored.bytes)
      return stored.value ? Value(*stored.value & mask_of(bytes * 8)) : std::nullopt;
    if (at + stored.bytes > address) return std::nullopt;
  }
  const Value value = load_(address, bytes);
  return value ? Value(*value & mask_of(bytes * 8)) : std::nullopt;
}

void SketchMachine::store(std::uint64_t address, std::size_t bytes, Value value) {
  constexpr std::uint64_t kWidest = 8;
  auto old = memory_.lower_bound(address > kWidest ? address - kWidest : 0);
  while (old != memory_.end() && old->first < address + bytes)
    old = old->first + old->second.bytes > address ? memory_.erase(old) : std::next(old);
  memory_[address] = {bytes, value};
}

std::vector<std::uint64_t> SketchMachine::places_of(std::uint64_t value) const {
  std::vector<std::uint64_t> places;
  for (const auto& [address, stored] : memory_)
    if (stored.bytes == 8 && stored.value == Value(value)) places.push_back(address);
  return places;
}

void SketchMachine::copy(std::uint64_t to, std::uint64_t from, std::uint64_t bytes) {
  for (std::uint64_t done = 0; done < std::min<std::uint64_t>(bytes, kMaxCopyBytes); done += 8) {
    const std::size_t size = std::min<std::uint64_t>(bytes - done, 8);
    store(to + done, size, load(from + done, size));
  }
}

std::vector<SketchMachine> SketchMachine::run(const SketchMachine& start, const FunctionCode& function) {
  const Decoder decoder;
  std::vector<SketchMachine> open{start}, ended;
  open.front().next_ = function.address;
  std::size_t steps = 0;
  while (!open.empty() && ended.size() < kMaxPaths) {
    SketchMachine machine = std::move(open.back());
    open.pop_back();
    for (bool running = true; running && ++steps < kMaxSteps;) {
      const std::uint64_t at = machine.next_;
      const std::uint64_t within = at - function.address;
      Instruction instruction;
      if (within >= function.bytes.size() ||
          !decoder.decode(std::span(function.bytes).subspan(within), instruction))
        break;
      machine.next_ = at + instruction.what.length;
      switch (machine.step(instruction, at, function)) {
        case Step::next:
          break;
        case Step::jump:
          machine.next_ = machine.jump_target_;
          break;
        case Step::fork:
          if (open.size() < kMaxPaths) {
            open.push_back(machine);
            open.back().next_ = machine.jump_target_;
          }
          break;
        case Step::ended:
          ended.push_back(machine);
          running = false;
          break;
      }
    }
  }
  return ended;
}

SketchMachine::Step SketchMachine::step(const Instruction& instruction, std::uint64_t at,
                                        const FunctionCode& function) {
  if (instruction.is(ZYDIS_MNEMONIC_RET)) return Step::ended;
  if (instruction.is_jump()) return jump(instruction, at, function);
  if (instruction.is(ZYDIS_MNEMONIC_CALL)) {
    call_(*this);
    forget_after_call();
    return Step::next;
  }
  if (!execute(instruction, at) && !execute_vector(instruction, at)) forget_results(instruction, at);
  return Step::next;
}

SketchMachine::Step SketchMachine::jump(const Instruction& instruction, std::uint64_t at,
                                        const FunctionCode& function) {
  const auto target = absolute_address(instruction, 0, at);
  const bool inside = target && instruction.operands[0].type == ZYDIS_OPERAND_TYPE_IMMEDIATE &&
                      *target - function.address < function.bytes.size();
  if (instruction.is(ZYDIS_MNEMONIC_JMP)) {
    if (!inside) {
      call_(*this);
      return Step::ended;
    }
    jump_target_ = *target;
    return Step::jump;
  }
  const auto taken = condition(instruction);
  if (!inside) return Step::next;  // to a part that is seldom used
  jump_target_ = *target;
  if (!taken) return Step::fork;
  return *taken ? Step::jump : Step::next;
}

// The condition's code is the opcode's low half, for jumps and conditional moves alike.
std::optional<bool> SketchMachine::condition(const Instruction& instruction) const {
  const std::uint8_t code = instruction.what.opcode & 0x0f, form = instruction.what.opcode >> 4;
  const bool has_code = form == 0x7 || form == 0x8 || form == 0x4;  // jcc short, jcc near, cmovcc
  if (!flags_ || !has_code) return std::nullopt;
  bool holds = false;
  switch (code >> 1) {
    case 0:
      holds = flags_->overflow;
      break;
    case 1:
      holds = flags_->carry;
      break;
    case 2:
      holds = flags_->zero;
      break;
    case 3:
      holds = flags_->carry || flags_->zero;
      break;
    case 4:
      holds = flags_->sign;
      break;
    case 6:
      holds = flags_->sign != flags_->overflow;
      break;
    case 7:
      holds = flags_->zero || flags_->sign != flags_->overflow;
      break;
    default:
      return std::nullopt;
  }
  return holds != ((code & 1) != 0);
}

void SketchMachine::forget_after_call() {
  for (const std::size_t number : {0, 1, 2, 6, 7, 8, 9, 10, 11}) registers_[number].reset();
  vectors_ = {};
  flags_.reset();
}

Value SketchMachine::address_of(const Instruction& instruction, std::size_t operand, std::uint64_t at) const {
  const auto& memory = instruction.operands[operand].mem;
  if (memory.segment == ZYDIS_REGISTER_FS || memory.segment == ZYDIS_REGISTER_GS) return std::nullopt;
  if (const auto fixed = absolute_address(instruction, operand, at)) return fixed;
  auto address = static_cast<std::uint64_t>(memory.disp.value);
  for (const auto& [name, scale] :
       {std::pair{memory.base, std::uint8_t{1}}, std::pair{memory.index, memory.scale}}) {
    if (name == ZYDIS_REGISTER_NONE) continue;
    const auto number = register_number(name);
    if (!number || !registers_[*number]) return std::nullopt;
    address += *registers_[*number] * scale;
  }
  return address;
}

Value SketchMachine::read(const Instruction& instruction, std::size_t operand, std::uint64_t at) const {
  const auto& what = instruction.operands[operand];
  if (what.type == ZYDIS_OPERAND_TYPE_IMMEDIATE) return what.imm.value.u;
  if (what.type == ZYDIS_OPERAND_TYPE_REGISTER) {
    const auto number = register_number(what.reg.value);
    const bool second_byte = what.reg.value >= ZYDIS_REGISTER_AH && what.reg.value <= ZYDIS_REGISTER_BH;
    if (!number || second_byte || !registers_[*number]) return std::nullopt;
    return *registers_[*number] & mask_of(what.size);
  }
  if (what.type != ZYDIS_OPERAND_TYPE_MEMORY || what.size > 64) return std::nullopt;
  const Value address = address_of(instruction, operand, at);
  return address ? load(*address, what.size / 8) : std::nullopt;
}

void SketchMachine::write(const Instruction& instruction, std::size_t operand, std::uint64_t at,
                          Value value) {
  const auto& what = instruction.operands[operand];
  if (value) *value &= mask_of(what.size);
  if (what.type == ZYDIS_OPERAND_TYPE_REGISTER) {
    const auto number = register_number(what.reg.value);
    if (!number) return;
    // Writing half a register clears its upper half; less than that leaves the rest alone.
    if (what.size < 32) value.reset();
    registers_[*number] = value;
  } else if (what.type == ZYDIS_OPERAND_TYPE_MEMORY && what.size > 0 && what.size <= 64) {
    if (const Value address = address_of(instruction, operand, at)) store(*address, what.size / 8, value);
  }
}

void SketchMachine::forget_results(const Instruction& instruction, std::uint64_t at) {
  for (std::size_t i = 0; i < instruction.what.operand_count; ++i) {
    const auto& operand = instruction.operands[i];
    if (!(operand.actions & ZYDIS_OPERAND_ACTION_MASK_WRITE)) continue;
    if (const auto number = vector_number(operand)) vectors_[*number] = {};
    if (operand.type != ZYDIS_OPERAND_TYPE_MEMORY || operand.size <= 64) {
      write(instruction, i, at, std::nullopt);
    } else if (const Value address = address_of(instruction, i, at)) {
      for (std::size_t done = 0; done < operand.size / 8; done += 8) store(*address + done, 8, std::nullopt);
    }
  }
  flags_.reset();
}

void SketchMachine::arithmetic(const Instruction& instruction, std::uint64_t at) {
  const std::size_t bits = instruction.operands[0].size;
  const bool unary = instruction.is(ZYDIS_MNEMONIC_INC) || instruction.is(ZYDIS_MNEMONIC_DEC);
  Value left = read(instruction, 0, at);
  Value right = unary ? Value(1) : read(instruction, 1, at);
  const auto& operands = instruction.operands;
  const bool same = !unary && operands[0].type == ZYDIS_OPERAND_TYPE_REGISTER &&
                    operands[1].type == ZYDIS_OPERAND_TYPE_REGISTER &&
                    operands[0].reg.value == operands[1].reg.value;
  if (same && (instruction.is(ZYDIS_MNEMONIC_XOR) || instruction.is(ZYDIS_MNEMONIC_SUB))) left = right = 0;
  const bool kept = instruction.is(ZYDIS_MNEMONIC_CMP) || instruction.is(ZYDIS_MNEMONIC_TEST);
  if (!left || !right) {
    flags_.reset();
    if (!kept) write(instruction, 0, at, std::nullopt);
    return;
  }
  const std::uint64_t a = *left & mask_of(bits), b = *right & mask_of(bits);
  std::uint64_t result = 0;
  Flags flags;
  switch (instruction.what.mnemonic) {
    case ZYDIS_MNEMONIC_ADD:
    case ZYDIS_MNEMONIC_INC:
      result = (a + b) & mask_of(bits);
      flags.carry = result < a;
      flags.overflow = top_bit(a, bits) == top_bit(b, bits) && top_bit(result, bits) != top_bit(a, bits);
      break;
    case ZYDIS_MNEMONIC_SUB:
    case ZYDIS_MNEMONIC_DEC:
    case ZYDIS_MNEMONIC_CMP:
      result = (a - b) & mask_of(bits);
      flags.carry = a < b;
      flags.overflow = top_bit(a, bits) != top_bit(b, bits) && top_bit(result, bits) != top_bit(a, bits);
      break;
    case ZYDIS_MNEMONIC_OR:
      result = a | b;
      break;
    case ZYDIS_MNEMONIC_XOR:
      result = a ^ b;
      break;
    default:
      result = a & b;
  }
  flags.zero = result == 0;
  flags.sign = top_bit(result, bits);
  if (!kept) write(instruction, 0, at, result);
  if (unary && flags_) flags.carry = flags_->carry;  // which these leave alone
  flags_ = unary && !flags_ ? std::nullopt : std::optional(flags);
}

void SketchMachine::repeat_copy(const Instruction& instruction) {
  const bool repeated = (instruction.what.attributes & ZYDIS_ATTRIB_HAS_REP) != 0;
  const std::uint64_t unit = instruction.what.operand_width / 8;
  const Value count = repeated ? registers_[rcx] : Value(1);
  const Value to = registers_[rdi], from = registers_[rsi];
  const bool known = count && *count <= kMaxCopyBytes;
  if (known && to) {
    for (std::uint64_t done = 0; done < *count * unit; done += 8) {
      const std::size_t size = std::min<std::uint64_t>(*count * unit - done, 8);
      store(*to + done, size, from ? load(*from + done, size) : std::nullopt);
    }
  }
  registers_[rdi] = known && to ? Value(*to + *count * unit) : std::nullopt;
  registers_[rsi] = known && from ? Value(*from + *count * unit) : std::nullopt;
  if (repeated) registers_[rcx] = 0;
}

bool SketchMachine::execute(const Instruction& instruction, std::uint64_t at) {
  if (vector_number(instruction.operands[0]) || vector_number(instruction.operands[1])) return false;
  switch (instruction.what.mnemonic) {
    case ZYDIS_MNEMONIC_NOP:
    case ZYDIS_MNEMONIC_ENDBR64:
      return true;
    case ZYDIS_MNEMONIC_MOV:
    case ZYDIS_MNEMONIC_MOVZX:
      write(instruction, 0, at, read(instruction, 1, at));
      return true;
    case ZYDIS_MNEMONIC_MOVSX:
    case ZYDIS_MNEMONIC_MOVSXD: {
      const Value value = read(instruction, 1, at);
      write(instruction, 0, at,
            value ? Value(sign_extended(*value, instruction.operands[1].size)) : std::nullopt);
      return true;
    }
    case ZYDIS_MNEMONIC_LEA:
      write(instruction, 0, at, address_of(instruction, 1, at));
      return true;
    case ZYDIS_MNEMONIC_ADD:
    case ZYDIS_MNEMONIC_SUB:
    case ZYDIS_MNEMONIC_AND:
    case ZYDIS_MNEMONIC_OR:
    case ZYDIS_MNEMONIC_XOR:
    case ZYDIS_MNEMONIC_CMP:
    case ZYDIS_MNEMONIC_TEST:
    case ZYDIS_MNEMONIC_INC:
    case ZYDIS_MNEMONIC_DEC:
      arithmetic(instruction, at);
      return true;
    case ZYDIS_MNEMONIC_PUSH: {
      const Value value = read(instruction, 0, at);
      if (!registers_[rsp]) return false;
      *registers_[rsp] -= 8;
      store(*registers_[rsp], 8, value);
      return true;
    }
    case ZYDIS_MNEMONIC_POP: {
      if (!registers_[rsp]) return false;
      const Value value = load(*registers_[rsp], 8);
      *registers_[rsp] += 8;
      write(instruction, 0, at, value);
      return true;
    }
    case ZYDIS_MNEMONIC_LEAVE: {
      if (!registers_[rbp]) return false;
      const std::uint64_t frame = *registers_[rbp];
      registers_[rbp] = load(frame, 8);
      registers_[rsp] = frame + 8;
      return true;
    }
    case ZYDIS_MNEMONIC_MOVSB:
    case ZYDIS_MNEMONIC_MOVSW:
    case ZYDIS_MNEMONIC_MOVSD:
    case ZYDIS_MNEMONIC_MOVSQ:
      repeat_copy(instruction);
      return true;
    default:
      break;
  }
  if (instruction.what.meta.category != ZYDIS_CATEGORY_CMOV) return false;
  const auto moved = condition(instruction);
  const Value kept = read(instruction, 0, at), other = read(instruction, 1, at);
  write(instruction, 0, at, moved ? (*moved ? other : kept) : (kept == other ? kept : std::nullopt));
  return true;
}

// Moves of whole vector registers, and what puts two pointers into one.
bool SketchMachine::execute_vector(const Instruction& instruction, std::uint64_t at) {
  const auto to = vector_number(instruction.operands[0]), from = vector_number(instruction.operands[1]);
  switch (instruction.what.mnemonic) {
    case ZYDIS_MNEMONIC_MOVUPS:
    case ZYDIS_MNEMONIC_MOVAPS:
    case ZYDIS_MNEMONIC_MOVUPD:
    case ZYDIS_MNEMONIC_MOVAPD:
    case ZYDIS_MNEMONIC_MOVDQU:
    case ZYDIS_MNEMONIC_MOVDQA: {
      std::array<Value, kLanes> lanes{};
      const Value source = from ? std::nullopt : address_of(instruction, 1, at);
      for (std::size_t lane = 0; lane < kLanes; ++lane) {
        if (from) lanes[lane] = vectors_[*from][lane];
        if (source) lanes[lane] = load(*source + lane * 8, 8);
      }
      if (to) {
        vectors_[*to] = lanes;
      } else if (const Value target = address_of(instruction, 0, at)) {
        for (std::size_t lane = 0; lane < kLanes; ++lane) store(*target + lane * 8, 8, lanes[lane]);
      }
      return true;
    }
    case ZYDIS_MNEMONIC_MOVQ: {
      const Value value = from ? vectors_[*from][0] : read(instruction, 1, at);
      if (to) {
        vectors_[*to] = {value, 0};
      } else {
        write(instruction, 0, at, value);
      }
      return true;
    }
    case ZYDIS_MNEMONIC_MOVHPS:
    case ZYDIS_MNEMONIC_MOVHPD:
      if (to) {
        vectors_[*to][1] = read(instruction, 1, at);
      } else if (from) {
        write(instruction, 0, at, vectors_[*from][1]);
      }
      return true;
    case ZYDIS_MNEMONIC_PUNPCKLQDQ:
    case ZYDIS_MNEMONIC_UNPCKLPD:
    case ZYDIS_MNEMONIC_MOVLHPS:
      if (!to || !from) return false;
      vectors_[*to][1] = vectors_[*from][0];
      return true;
    default:
      return false;
  }
}

}  // namespace weir::bpf
