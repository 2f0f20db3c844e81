#include "tests/unit/bpf/probe_files.h"

#include <elf.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iterator>
#include <sstream>

namespace weir::bpf {
namespace {

std::string output_of(const std::string& command) {
  std::string output;
  FILE* pipe = ::popen(command.c_str(), "r");
  EXPECT_NE(pipe, nullptr) << command;
  std::array<char, 64 * 1024> buffer;
  while (const std::size_t count = std::fread(buffer.data(), 1, buffer.size(), pipe))
    output.append(buffer.data(), count);
  EXPECT_EQ(::pclose(pipe), 0) << command;
  return output;
}

// What is to be added to a code address to have its offset in the file.
std::uint64_t code_shift(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  Elf64_Ehdr header{};
  file.read(reinterpret_cast<char*>(&header), sizeof(header));
  file.seekg(static_cast<std::streamoff>(header.e_phoff));
  for (int i = 0; i < header.e_phnum; ++i) {
    Elf64_Phdr segment{};
    file.read(reinterpret_cast<char*>(&segment), sizeof(segment));
    if (segment.p_type == PT_LOAD && (segment.p_flags & PF_X)) return segment.p_offset - segment.p_vaddr;
  }
  ADD_FAILURE() << path << " has no code";
  return 0;
}

std::vector<FoundLibrary> found(int descriptor, const std::string& what) {
  auto libraries = find_tls_libraries(descriptor);
  EXPECT_TRUE(libraries) << what << ": " << libraries.error();
  return libraries ? *std::move(libraries) : std::vector<FoundLibrary>();
}

}  // namespace

MemoryFile::MemoryFile(const std::string& contents) : descriptor_(::memfd_create("elf", MFD_CLOEXEC)) {
  EXPECT_EQ(::write(descriptor_, contents.data(), contents.size()), static_cast<ssize_t>(contents.size()));
}

MemoryFile::~MemoryFile() {
  ::close(descriptor_);
}

std::string contents_of(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::string contents(std::istreambuf_iterator<char>(file), {});
  EXPECT_FALSE(contents.empty()) << path << ": run scripts/setup";
  return contents;
}

std::string probe_target(const std::string& name) {
  return std::string(WEIR_PROBE_TARGETS) + "/" + name;
}

std::vector<FoundLibrary> libraries_in(const std::string& path) {
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  EXPECT_GE(descriptor, 0) << path << ": run scripts/setup";
  auto libraries = found(descriptor, path);
  ::close(descriptor);
  return libraries;
}

std::vector<FoundLibrary> libraries_of(const std::string& contents) {
  const MemoryFile file(contents);
  return found(file.get(), "a file in memory");
}

FoundLibrary only_library(const std::string& path) {
  auto libraries = libraries_in(path);
  EXPECT_EQ(libraries.size(), 1u) << path;
  if (libraries.empty()) return {};
  EXPECT_EQ(libraries.front().unreadable, "") << path;
  return std::move(libraries.front());
}

std::set<std::uint64_t> places(const FoundLibrary& library, std::uint32_t program, std::uint32_t call) {
  std::set<std::uint64_t> offsets;
  for (const ProbeSite& site : library.sites)
    if (site.program == program && (site.cookie & 0xff) == call) offsets.insert(site.offset);
  return offsets;
}

std::set<std::uint64_t> places(const FoundLibrary& library, std::uint32_t program) {
  std::set<std::uint64_t> offsets;
  for (const ProbeSite& site : library.sites)
    if (site.program == program) offsets.insert(site.offset);
  return offsets;
}

// Go's linker gives no sizes that nm would show for every function: the next symbol's address ends one, too.
std::map<std::string, KnownFunction> functions_by_nm(const std::string& path, bool dynamic) {
  const std::uint64_t shift = code_shift(path);
  std::istringstream lines(output_of("nm --defined-only -S -n " + std::string(dynamic ? "-D " : "") + path));
  std::map<std::string, KnownFunction> functions;
  KnownFunction* last = nullptr;
  for (std::string line; std::getline(lines, line);) {
    std::istringstream fields(line);
    std::vector<std::string> words(std::istream_iterator<std::string>(fields), {});
    if (words.size() < 3) continue;
    const std::uint64_t offset = std::stoull(words[0], nullptr, 16) + shift;
    if (last != nullptr && last->size == 0 && offset > last->offset) last->size = offset - last->offset;
    const bool sized = words[1].size() == 16;
    const std::string& kind = words[sized ? 2 : 1];
    if (kind != "T" && kind != "t" && kind != "W") continue;
    std::string name = line.substr(line.find(kind + " ") + 2);
    name = name.substr(0, name.find('@'));
    last = &functions[name];
    *last = {offset, sized ? std::stoull(words[1], nullptr, 16) : 0};
  }
  return functions;
}

std::set<std::uint64_t> returns_by_objdump(const std::string& path, const KnownFunction& function) {
  const std::uint64_t shift = code_shift(path), start = function.offset - shift;
  std::istringstream lines(
      output_of("objdump -d --no-show-raw-insn --start-address=" + std::to_string(start) +
                " --stop-address=" + std::to_string(start + function.size) + " " + path));
  std::set<std::uint64_t> returns;
  for (std::string line; std::getline(lines, line);) {
    unsigned long address = 0;
    char instruction[16] = "", second[16] = "";
    if (std::sscanf(line.c_str(), " %lx: %15s %15s", &address, instruction, second) < 2) continue;
    const bool plain = std::strcmp(instruction, "ret") == 0;
    const bool prefixed = std::strcmp(second, "ret") == 0;  // repz ret, bnd ret
    if (plain || prefixed) returns.insert(address + shift);
  }
  return returns;
}

}  // namespace weir::bpf
