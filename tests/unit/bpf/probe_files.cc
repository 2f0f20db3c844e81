#include "tests/unit/bpf/probe_files.h"

#include <elf.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
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
    if (site.program == program && (site.cookie & 0x1f) == call) offsets.insert(site.offset);
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

namespace {

struct Line {
  std::uint64_t offset;
  std::string text;  // "push   %rbp"

  bool is_return() const { return text.starts_with("ret") || text.find(" ret") != std::string::npos; }
  bool leads_elsewhere() const { return text.starts_with("j") || text.starts_with("call"); }
  // AT&T's syntax has the destination last.
  bool changes(std::initializer_list<const char*> names) const {
    return std::ranges::any_of(names, [&](const char* name) { return text.ends_with(name); }) &&
           !text.starts_with("push") && !text.starts_with("cmp") && !text.starts_with("test");
  }
};

std::vector<Line> listing(const std::string& path, const KnownFunction& function) {
  const std::uint64_t shift = code_shift(path), start = function.offset - shift;
  std::istringstream lines(
      output_of("objdump -d --no-show-raw-insn --start-address=" + std::to_string(start) +
                " --stop-address=" + std::to_string(start + function.size) + " " + path));
  std::vector<Line> listed;
  for (std::string line; std::getline(lines, line);) {
    unsigned long address = 0;
    int text = 0;
    if (std::sscanf(line.c_str(), " %lx: %n", &address, &text) == 1 && text > 0)
      listed.push_back({address + shift, line.substr(static_cast<std::size_t>(text))});
  }
  return listed;
}

}  // namespace

std::set<std::uint64_t> returns_by_objdump(const std::string& path, const KnownFunction& function) {
  std::set<std::uint64_t> returns;
  for (const Line& line : listing(path, function))
    if (line.is_return()) returns.insert(line.offset);
  return returns;
}

std::set<std::uint64_t> entries_meant(const std::string& path,
                                      const std::map<std::string, KnownFunction>& functions,
                                      const std::set<std::uint64_t>& places) {
  std::set<std::uint64_t> meant;
  for (const std::uint64_t place : places) {
    KnownFunction holder;
    for (const auto& [name, function] : functions)
      if (function.offset <= place && place < function.offset + function.size) holder = function;
    meant.insert(holder.offset);
    for (const Line& line : listing(path, holder)) {
      if (line.offset == place) {
        if (place != holder.offset) {
          EXPECT_TRUE(line.leads_elsewhere() || line.text.starts_with("push")) << path << " " << line.text;
        }
        break;
      }
      EXPECT_LT(line.offset, place) << path << ": within an instruction";
      EXPECT_FALSE(line.leads_elsewhere()) << path << " " << line.text;
      EXPECT_FALSE(line.changes({"%rdi", "%edi", "%rsi", "%esi", "%r14"})) << path << " " << line.text;
    }
  }
  return meant;
}

std::set<std::uint64_t> returns_meant(const std::string& path, const KnownFunction& function,
                                      const std::set<std::uint64_t>& places) {
  std::set<std::uint64_t> meant;
  bool passed = false;
  for (const Line& line : listing(path, function)) {
    if (places.contains(line.offset)) {
      passed = true;
      EXPECT_TRUE(line.is_return() || line.text.starts_with("jne")) << path << " " << line.text;
    } else if (passed) {
      EXPECT_FALSE(line.leads_elsewhere() || line.changes({"%rax", "%eax"})) << path << " " << line.text;
    }
    if (passed && line.is_return()) {
      meant.insert(line.offset);
      passed = false;
    }
  }
  EXPECT_FALSE(passed) << path;
  return meant;
}

}  // namespace weir::bpf
