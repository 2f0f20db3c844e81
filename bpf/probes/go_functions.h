// Programs of the Go toolchain: their version, and where their functions are. Go keeps both for itself in
// every program, so stripping takes neither away.
//
// Facts, of Go 1.16 to 1.24: debug/buildinfo/buildinfo.go (the build information), debug/gosym/pclntab.go and
// runtime/symtab.go (pcHeader and _func), internal/abi/symtab.go (the magic numbers), and for what stands at
// a function's beginning cmd/internal/obj/x86/obj6.go.
#pragma once

#include <expected>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "bpf/probes/elf_file.h"

namespace weir::bpf {

struct GoProgram {
  std::string version;  // "1.21.3"; "" when it isn't said
  // Before 1.17 arguments were on the stack, which our programs don't read.
  bool arguments_in_registers = true;
  // Of the functions asked for those that the program has, with their whole extent. The names are views of
  // what was asked for. Unless arguments_in_registers, where they are is not known: the addresses are 0.
  std::map<std::string_view, ElfFunction> functions;
};

// Nothing: not a Go program. An error: one whose table of functions can't be read.
std::expected<std::optional<GoProgram>, std::string> read_go_program(ElfFile& file,
                                                                     std::span<const std::string_view> names);

}  // namespace weir::bpf
