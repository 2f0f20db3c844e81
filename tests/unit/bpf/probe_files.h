// What the tests of the probes share: files as they are, damaged and in memory, and what other tools say
// about them.
#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "bpf/probes/tls_probes.h"

namespace weir::bpf {

// An anonymous file with these contents.
class MemoryFile {
 public:
  explicit MemoryFile(const std::string& contents);
  ~MemoryFile();
  MemoryFile(const MemoryFile&) = delete;
  MemoryFile& operator=(const MemoryFile&) = delete;
  int get() const { return descriptor_; }

 private:
  int descriptor_;
};

std::string contents_of(const std::string& path);
std::string probe_target(const std::string& name);  // of tests/unit/bpf/probe_targets

// The search's answer; a test fails when it has none.
std::vector<FoundLibrary> libraries_in(const std::string& path);
std::vector<FoundLibrary> libraries_of(const std::string& contents);
// The only one; a test fails when there are more, or it can't be read.
FoundLibrary only_library(const std::string& path);

// Where a program of a library's sites stands, for the calls of one kind (enum wire_tls_call).
std::set<std::uint64_t> places(const FoundLibrary& library, std::uint32_t program, std::uint32_t call);
std::set<std::uint64_t> places(const FoundLibrary& library, std::uint32_t program);

// By binutils: the functions that a file defines, as offsets in it, and the `ret` instructions of a function.
struct KnownFunction {
  std::uint64_t offset = 0;
  std::uint64_t size = 0;
};
std::map<std::string, KnownFunction> functions_by_nm(const std::string& path, bool dynamic);
std::set<std::uint64_t> returns_by_objdump(const std::string& path, const KnownFunction& function);

// The functions' entries, or the function's `ret` instructions, that places stand for. By binutils, too: a
// place is one itself, or an instruction of the kernel's fast class from which (to which) nothing leads
// elsewhere and nothing changes the arguments (the result).
std::set<std::uint64_t> entries_meant(const std::string& path,
                                      const std::map<std::string, KnownFunction>& functions,
                                      const std::set<std::uint64_t>& places);
std::set<std::uint64_t> returns_meant(const std::string& path, const KnownFunction& function,
                                      const std::set<std::uint64_t>& places);

}  // namespace weir::bpf
