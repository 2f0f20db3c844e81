// Reading of machine code: where a probe may stand. x86-64; the decoder library stays behind this header.
#pragma once

#include <cstdint>
#include <expected>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <vector>

namespace weir::bpf {

struct FunctionCode {
  std::uint64_t address = 0;
  std::vector<std::uint8_t> bytes;
};

// The rest of the file, as far as a function's code leads there.
class CodeSource {
 public:
  virtual ~CodeSource() = default;
  // The whole function that holds an address.
  virtual std::optional<FunctionCode> function_at(std::uint64_t address) = 0;
  // Bytes at an address, code or data.
  virtual bool read_at(std::uint64_t address, std::span<std::uint8_t> into) = 0;
  // What the pointer at an address is once the file is loaded; nothing when it leads out of the file.
  virtual std::optional<std::uint64_t> pointer_at(std::uint64_t address) = 0;
};

// All code that a call of a function can run through before it returns, calls aside.
struct CallCode {
  struct Part {
    FunctionCode function;
    std::vector<std::uint32_t> instructions;  // where each begins, in order
    bool has_switch = false;                  // jumps to places of its own that no jump names
  };
  std::vector<Part> parts;               // the function itself, then what it jumps to
  std::vector<std::uint64_t> returns;    // the addresses of its `ret` instructions, sorted
  std::set<std::uint64_t> jump_targets;  // of its jumps, but for those of a `switch`
};

// A jump to another function (as a call's last act, or to a part that the compiler moved elsewhere) is
// followed, through the linkage table, too: there the stack pointer is the entry's again. An error when the
// function can leave in a way that no `ret` sees: through a pointer, to another file, or to code that can't
// be read. Any bytes may be given; what is looked at is bounded.
std::expected<CallCode, std::string> read_call(const FunctionCode& function, CodeSource& source);

}  // namespace weir::bpf
