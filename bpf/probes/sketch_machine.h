// A sketch of the processor, on which small functions are run to see what they do with their arguments:
// 64-bit values that are known or not known, the common instructions, and a memory that remembers what was
// stored. What an instruction makes of what is not known is not known; where that decides a jump, both ways
// are run. It never runs anything for real, and its steps are bounded.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <vector>

#include "bpf/probes/instruction.h"
#include "bpf/probes/machine_code.h"

namespace weir::bpf {

using Value = std::optional<std::uint64_t>;

class SketchMachine {
 public:
  enum Register : std::size_t { rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi };

  // What a location of 1, 2, 4 or 8 bytes holds that nothing was stored to.
  using Load = std::function<Value(std::uint64_t address, std::size_t bytes)>;
  // Called at each call and each jump out of the function, before the registers that a call may change become
  // unknown.
  using Call = std::function<void(SketchMachine&)>;

  SketchMachine(Load load, Call call);

  Value get(Register which) const { return registers_[which]; }
  void set(Register which, Value value) { registers_[which] = value; }
  Value load(std::uint64_t address, std::size_t bytes) const;
  void store(std::uint64_t address, std::size_t bytes, Value value);
  // Where this value was stored, as 8 bytes.
  std::vector<std::uint64_t> places_of(std::uint64_t value) const;
  void copy(std::uint64_t to, std::uint64_t from, std::uint64_t bytes);

  // Runs the function on every path that what is known leaves open. The machines as the paths left them, at
  // most a few dozen; a path that met what can't be decoded is not among them.
  static std::vector<SketchMachine> run(const SketchMachine& start, const FunctionCode& function);

 private:
  static constexpr std::size_t kLanes = 2;  // of 8 bytes in a vector register
  struct Flags {
    bool carry = false, zero = false, sign = false, overflow = false;
  };
  struct Stored {
    std::size_t bytes = 0;
    Value value;
  };

  enum class Step { next, jump, fork, ended };
  Step step(const Instruction& instruction, std::uint64_t at, const FunctionCode& function);
  Step jump(const Instruction& instruction, std::uint64_t at, const FunctionCode& function);
  bool execute(const Instruction& instruction, std::uint64_t at);
  bool execute_vector(const Instruction& instruction, std::uint64_t at);
  void forget_results(const Instruction& instruction, std::uint64_t at);
  void forget_after_call();

  Value read(const Instruction& instruction, std::size_t operand, std::uint64_t at) const;
  void write(const Instruction& instruction, std::size_t operand, std::uint64_t at, Value value);
  Value address_of(const Instruction& instruction, std::size_t operand, std::uint64_t at) const;
  std::optional<bool> condition(const Instruction& instruction) const;
  void arithmetic(const Instruction& instruction, std::uint64_t at);
  void repeat_copy(const Instruction& instruction);

  Load load_;
  Call call_;
  std::uint64_t next_ = 0;
  std::uint64_t jump_target_ = 0;
  std::array<Value, 16> registers_{};
  std::array<std::array<Value, kLanes>, 16> vectors_{};
  std::optional<Flags> flags_;
  std::map<std::uint64_t, Stored> memory_;
};

}  // namespace weir::bpf
